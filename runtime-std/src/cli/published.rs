//! `serve`: puts keys and return paths to use once their records are in the DNS.
//!
//! A thread of its own, since name servers may take their time. What is decided is
//! [`relay_core::sign::publication`]'s; what changes is written to `domains.toml`, so that it holds after a
//! restart; `serve` sees that the file changed, and loads it.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use relay_core::dns::Query;
use relay_core::sign::publication::{Change, Question, Watch};

use super::dns_check::Names;
use crate::hub::Hub;
use crate::load::domains::{self, ChangeError};

/// How often the DNS is asked while something waits for it.
pub(super) const EVERY: Duration = Duration::from_secs(15);

/// Looks until it is dropped, or the relay ends.
#[derive(Debug)]
pub(super) struct Lookout(#[expect(dead_code, reason = "dropped to end the thread")] Sender<()>);

impl Lookout {
    pub(super) fn start(hub: &Arc<Hub>) -> io::Result<Self> {
        let (send, receive) = mpsc::channel();
        let hub = Arc::downgrade(hub);
        let thread = thread::Builder::new().name("records".into());
        thread.spawn(move || {
            // What was told once: a look that finds the same says nothing.
            let mut told = Vec::new();
            while receive.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                if look(&hub, &mut told).is_none() {
                    return;
                }
            }
        })?;
        Ok(Self(send))
    }
}

/// One look. None if there is no relay any more.
fn look(hub: &Weak<Hub>, told: &mut Vec<Change>) -> Option<()> {
    let loaded = hub.upgrade()?.loaded();
    let mut watch = Watch::new(&loaded.config);
    if watch.is_empty() {
        return Some(());
    }
    // A resolver of its own: that there was no record a while ago must not be remembered here.
    let mut names = match Names::open(&loaded) {
        Ok(names) => names,
        Err(error) => {
            tracing::warn!(%error, "DNS records of new keys cannot be looked for");
            return Some(());
        }
    };
    while let Some(question) = watch.question() {
        match question {
            Question::Texts(name) => watch.texts(&names.ask(Query::txt(&name))),
            Question::Exchangers(name) => watch.exchangers(&names.ask(Query::mx(&name))),
        }
    }
    let data_dir = &loaded.config.data_dir;
    for change in watch.finish() {
        let (result, what) = match &change {
            Change::Keys(name) => (
                domains::switch(data_dir, name),
                format!("the keys of {name} are in the DNS and sign from now on"),
            ),
            Change::ReturnPath(name) => (
                domains::use_return_path(data_dir, name),
                format!("the return path of {name} is in the DNS and is used from now on"),
            ),
        };
        match result {
            Ok(()) => tracing::info!("{what}"),
            Err(_) if told.contains(&change) => {}
            // What a person wrote into relay.toml is theirs to change.
            Err(ChangeError::Unknown(_)) => {
                tracing::warn!("{what}, once relay.toml says so instead of \"pending\"");
                told.push(change);
            }
            Err(error) => {
                tracing::warn!(%error, "{what}, but domains.toml cannot be written");
                told.push(change);
            }
        }
    }
    Some(())
}
