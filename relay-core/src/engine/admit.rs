//! Who may connect, log in and send: connections, failed logins, turns at key derivation, rates.
//!
//! ```text
//!  Connect ─▶ Welcome          421 when there are too many, in all or from one site
//!  Credential ─▶ the verifier  421 / 454 after too many failures from the site / for the name
//!  Turn ─▶ (FIFO) ─▶ Turn      so many key derivations at once; the rest waits, or is turned away
//!  Authenticated ─▶ Noted      gives the turn back, counts a failure
//!  Mail ─▶ an id               450 over the credential's rate, 452 when the store is full
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use smtp_proto::server::Rejection;

use super::limits::{Limiter, Site, in_words};
use super::{Answer, Ask, Engine, Output, Refusal};
use crate::config::{Config, Rate};
use crate::events::ClientDid;
use crate::id::{MessageId, SessionId, WriteId};
use crate::rng::Rng;
use crate::time::Instant;

/// Sessions that wait for a turn at key derivation.
const TURNS_WAITING_MAX: usize = 1024;
/// A name may fail so many times as often as one site: a guesser with many addresses is stopped, one
/// with few does not lock a user out.
const NAME_FAILURES: u32 = 10;

/// Connections, failures, turns and rates.
#[derive(Debug)]
pub(super) struct Admit {
    sessions: BTreeMap<SessionId, Session>,
    sites: BTreeMap<Site, SiteUse>,
    site_failures: Limiter<Site>,
    /// By a keyed hash of the name.
    name_failures: Limiter<u64>,
    rates: Limiter<String>,
    turns_max: usize,
    turns: usize,
    waiting: VecDeque<SessionId>,
    /// Credentials that a reload took away: who is logged in with one sends no more.
    removed: BTreeSet<String>,
    /// Keyed digests of the secrets that were verified last, by credential.
    verified: BTreeMap<String, [u8; 32]>,
    key: [u8; 32],
}

#[derive(Debug)]
struct Session {
    site: Site,
    peer: IpAddr,
    /// The name that it logs in with, as [`Admit::name_key`] has it.
    name: Option<u64>,
    /// Its credential is still as it was given out: what it verifies may be remembered.
    current: bool,
    turn: TurnState,
    /// The message that it may submit, and the credential whose rate it was taken from.
    mail: Option<(MessageId, String)>,
    /// Octets of memory that it was lent for that message.
    lent: usize,
    /// The write that it waits for.
    write: Option<WriteId>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TurnState {
    None,
    Waiting,
    Taken,
}

#[derive(Debug, Default)]
struct SiteUse {
    connections: usize,
    /// Turns taken: each may become a failure.
    turns: u32,
}

impl Admit {
    pub(super) fn new(now: Instant, rng: &mut Rng) -> Self {
        let mut key = [0; 32];
        rng.fill(&mut key);
        Self {
            sessions: BTreeMap::new(),
            sites: BTreeMap::new(),
            site_failures: Limiter::new(now),
            name_failures: Limiter::new(now),
            rates: Limiter::new(now),
            turns_max: 1,
            turns: 0,
            waiting: VecDeque::new(),
            removed: BTreeSet::new(),
            verified: BTreeMap::new(),
            key,
        }
    }

    pub(super) fn set_turns_max(&mut self, turns_max: usize) {
        self.turns_max = turns_max.max(1);
    }

    /// How many clients are connected.
    pub(super) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Notes what write a session waits for.
    pub(super) fn set_write(&mut self, session: SessionId, write: WriteId) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.write = Some(write);
        }
    }

    /// A session is not counted any more where it is; it has no turn, no mail and no write.
    fn leave_site(&mut self, session: SessionId) {
        if let Some(entry) = self.sessions.remove(&session) {
            debug_assert!(
                entry.turn == TurnState::None && entry.lent == 0 && entry.write.is_none()
            );
            self.leave(entry.site);
        }
    }

    fn leave(&mut self, site: Site) {
        if let Some(used) = self.sites.get_mut(&site) {
            used.connections -= 1;
            if used.connections == 0 {
                self.sites.remove(&site);
            }
        }
    }

    /// Where a session's client is.
    pub(super) fn peer(&self, session: SessionId) -> Option<IpAddr> {
        self.sessions.get(&session).map(|session| session.peer)
    }

    /// What all sessions were lent.
    #[cfg(test)]
    pub(super) fn lent(&self) -> usize {
        self.sessions.values().map(|session| session.lent).sum()
    }

    /// What a session was lent, which it has no more.
    pub(super) fn take_loan(&mut self, session: SessionId) -> Option<usize> {
        let session = self.sessions.get_mut(&session)?;
        Some(std::mem::take(&mut session.lent))
    }

    /// What stands for a name among failures: nobody without the key finds two names with the same.
    fn name_key(&self, name: &str) -> u64 {
        let digest = Sha256::new()
            .chain_update(self.key)
            .chain_update(name)
            .finalize();
        digest
            .iter()
            .take(8)
            .fold(0, |key, &byte| key << 8 | u64::from(byte))
    }

    /// Forgets the verified secret of each credential that changed.
    pub(super) fn forget_changed(&mut self, old: &Config, new: &Config) {
        // A login under way verifies against the verifier of before.
        for session in self.sessions.values_mut() {
            session.current = false;
        }
        self.verified.retain(|name, _| {
            let before = old.credential(name);
            before.is_some_and(|before| {
                new.credential(name)
                    .is_some_and(|now| now.verifier == before.verifier)
            })
        });
        let gone = old.credentials.iter().map(|credential| &credential.name);
        self.removed.extend(gone.cloned());
        self.removed.retain(|name| new.credential(name).is_none());
    }
}

impl Engine {
    /// Answers a session, now or, for turns and submissions, later.
    pub(super) fn ask(&mut self, session: SessionId, ask: Ask) {
        let answer = match ask {
            Ask::Connect { peer, listener: _ } => self.connect(session, peer),
            Ask::Credential { name } => self.credential(session, &name),
            Ask::Turn => match self.turn(session) {
                Some(answer) => answer,
                None => return,
            },
            Ask::Authenticated { name, ok, digest } => {
                self.authenticated(session, &name, ok, digest)
            }
            Ask::Mail {
                credential,
                from: _,
                size,
            } => self.mail(session, &credential, size),
            Ask::Submit(submission) => match self.submit(session, *submission) {
                Some(answer) => answer,
                None => return,
            },
            Ask::SenderRefused { credential, text } => {
                self.notice(
                    session,
                    ClientDid::SenderRefused,
                    credential.as_deref(),
                    &text,
                );
                Answer::Noted
            }
            Ask::Abandon(id) => {
                self.return_room(session);
                self.return_rate(session, id);
                Answer::Noted
            }
            Ask::Bye => return self.bye(session),
        };
        self.out.push_back(Output::Session(session, answer));
    }

    fn connect(&mut self, session: SessionId, peer: IpAddr) -> Answer {
        if self.stopping {
            return shutting_down();
        }
        // A front end says that the client is elsewhere: it is counted there from now on.
        self.admit.leave_site(session);
        let limits = &self.config.limits;
        let most = limits.connections.min(self.capacity.sessions);
        if self.admit.sessions.len() >= most {
            return refuse_and_close(
                Rejection::SHUTTING_DOWN,
                format!("Too many connections ({most}), try again later"),
            );
        }
        let site = Site::of(peer);
        let used = self.admit.sites.entry(site).or_default();
        if used.connections >= limits.connections_per_ip {
            return refuse_and_close(
                Rejection::GO_AWAY,
                format!(
                    "Too many connections from {peer} ({}), close some or try again later",
                    limits.connections_per_ip
                ),
            );
        }
        used.connections += 1;
        let entry = Session {
            site,
            peer,
            name: None,
            current: false,
            turn: TurnState::None,
            mail: None,
            lent: 0,
            write: None,
        };
        self.admit.sessions.insert(session, entry);
        Answer::Welcome(Arc::clone(&self.config))
    }

    fn credential(&mut self, session: SessionId, name: &str) -> Answer {
        let key = self.admit.name_key(name);
        if let Some(entry) = self.admit.sessions.get_mut(&session) {
            entry.name = Some(key);
            entry.current = true;
        }
        if let Some(refusal) = self.too_many_guesses(session, key) {
            self.notice_blocked(session, name);
            return refusal;
        }
        let entry = self.admit.sessions.get(&session);
        // A credential that this address may not use looks like one that does not exist.
        let credential = self
            .config
            .credential(name)
            .filter(|credential| entry.is_none_or(|entry| credential.allows_from(entry.peer)));
        Answer::Credential {
            credential: credential.cloned(),
            verified: credential.and_then(|c| self.admit.verified.get(&c.name).copied()),
            key: self.admit.key,
        }
    }

    /// The refusal of a guess, if the session's site or the name has had too many wrong ones.
    fn too_many_guesses(&self, session: SessionId, name: u64) -> Option<Answer> {
        let now = self.clock.now().instant;
        let rate = self.config.limits.auth_failures_per_ip;
        if let Some(entry) = self.admit.sessions.get(&session)
            && let Some(wait) = self.admit.site_failures.wait(&entry.site, rate, now)
        {
            return Some(too_many_failures(entry.peer, wait));
        }
        let wait = self.admit.name_failures.wait(&name, name_rate(rate), now)?;
        Some(too_many_failures_of_name(wait))
    }

    fn turn(&mut self, session: SessionId) -> Option<Answer> {
        let admit = &mut self.admit;
        let Some(entry) = admit.sessions.get_mut(&session) else {
            return Some(Answer::Turn);
        };
        if entry.turn != TurnState::None {
            debug_assert!(false, "a session takes one turn at a time");
            return Some(Answer::Turn);
        }
        if admit.waiting.len() >= TURNS_WAITING_MAX {
            let text = "Too many logins at once, try again in a minute".to_owned();
            return Some(refuse(Rejection::SECURITY_UNAVAILABLE, text));
        }
        entry.turn = TurnState::Waiting;
        admit.waiting.push_back(session);
        self.grant_turns();
        None
    }

    /// Gives free turns to those who waited longest. A site has no more turns at once than failures
    /// left, and when it or the name has none left, those who wait are turned away.
    fn grant_turns(&mut self) {
        let now = self.clock.now().instant;
        let rate = self.config.limits.auth_failures_per_ip;
        let Admit {
            sessions,
            sites,
            site_failures,
            name_failures,
            turns,
            turns_max,
            waiting,
            ..
        } = &mut self.admit;
        let out = &mut self.out;
        waiting.retain(|&session| {
            let Some(entry) = sessions.get_mut(&session) else {
                return false;
            };
            let left = site_failures.left(&entry.site, rate, now);
            let used = sites.entry(entry.site).or_default();
            let of_name = entry
                .name
                .and_then(|name| name_failures.wait(&name, name_rate(rate), now));
            let answer = if let Some(wait) = of_name {
                entry.turn = TurnState::None;
                too_many_failures_of_name(wait)
            } else if left == 0 {
                entry.turn = TurnState::None;
                let wait = site_failures
                    .wait(&entry.site, rate, now)
                    .unwrap_or(rate.per);
                too_many_failures(entry.peer, wait)
            } else if *turns < *turns_max && used.turns < left {
                *turns += 1;
                used.turns += 1;
                entry.turn = TurnState::Taken;
                Answer::Turn
            } else {
                return true;
            };
            out.push_back(Output::Session(session, answer));
            false
        });
    }

    /// How a login ended. Many may have begun together, when the limits still allowed them: past the
    /// limits not even the right secret is told from a wrong one.
    fn authenticated(
        &mut self,
        session: SessionId,
        name: &str,
        ok: bool,
        digest: Option<[u8; 32]>,
    ) -> Answer {
        self.give_turn_back(session);
        let key = self.admit.name_key(name);
        let answer = if let Some(refusal) = self.too_many_guesses(session, key) {
            self.notice_blocked(session, name);
            refusal
        } else if ok {
            let current = self.admit.sessions.get(&session).is_some_and(|s| s.current);
            if let Some(digest) = digest
                && current
                && self.config.credential(name).is_some()
            {
                self.admit.verified.insert(name.to_owned(), digest);
            }
            Answer::Noted
        } else {
            self.count_failure(session, key);
            let why = "wrong name or secret";
            self.notice(session, ClientDid::AuthFailed, Some(name), why);
            Answer::Noted
        };
        self.grant_turns();
        answer
    }

    fn notice_blocked(&mut self, session: SessionId, name: &str) {
        let why = "too many failed logins before";
        self.notice(session, ClientDid::AuthBlocked, Some(name), why);
    }

    fn count_failure(&mut self, session: SessionId, name: u64) {
        let now = self.clock.now().instant;
        let rate = self.config.limits.auth_failures_per_ip;
        let Admit {
            name_failures,
            site_failures,
            sessions,
            ..
        } = &mut self.admit;
        // Where there is no token left, `too_many_guesses` has refused.
        let _ = name_failures.take(&name, name_rate(rate), now, &mut self.rng);
        if let Some(entry) = sessions.get(&session) {
            let _ = site_failures.take(&entry.site, rate, now, &mut self.rng);
        }
    }

    fn mail(&mut self, session: SessionId, credential_name: &str, size: Option<u64>) -> Answer {
        if self.stopping {
            return shutting_down();
        }
        self.return_room(session);
        if self.admit.removed.contains(credential_name) {
            return refuse(
                Rejection::POLICY,
                format!(
                    "Credential {credential_name} was removed; connect again and log in with another"
                ),
            );
        }
        if let Some(refusal) = self.store_trouble(size) {
            return Answer::Refused(refusal);
        }
        let room = match self.room_for(size) {
            Ok(room) => room,
            Err(refusal) => return Answer::Refused(refusal),
        };
        let rate = self.config.credential(credential_name).and_then(|c| c.rate);
        if let Some(rate) = rate {
            let now = self.clock.now().instant;
            let name = credential_name.to_owned();
            if let Err(wait) = self.admit.rates.take(&name, rate, now, &mut self.rng) {
                let Rate { count, per } = rate;
                return refuse(
                    Rejection::RATE,
                    format!(
                        "The rate of {name} is {count} messages in {}, wait {}",
                        in_words(per),
                        in_words(wait)
                    ),
                );
            }
        }
        let id = self.next_message_id();
        if let Some(session) = self.admit.sessions.get_mut(&session) {
            session.mail = Some((id, credential_name.to_owned()));
            session.lent = room;
            self.accept.lent += room;
        }
        Answer::Mail {
            id,
            room,
            config: Arc::clone(&self.config),
        }
    }

    /// The message that was charged will not be queued.
    pub(super) fn return_rate(&mut self, session: SessionId, id: MessageId) {
        let Some(entry) = self.admit.sessions.get_mut(&session) else {
            return;
        };
        if let Some((_, name)) = entry.mail.take_if(|(mail, _)| *mail == id)
            && let Some(rate) = self.config.credential(&name).and_then(|c| c.rate)
        {
            self.admit.rates.give_back(&name, rate);
        }
    }

    /// A session ended, whatever it was waiting for.
    fn bye(&mut self, session: SessionId) {
        self.give_turn_back(session);
        self.return_room(session);
        let Some(entry) = self.admit.sessions.remove(&session) else {
            return;
        };
        self.grant_turns();
        if let Some(write) = entry.write {
            self.accept.forget_session(write);
        }
        self.admit.leave(entry.site);
    }

    fn give_turn_back(&mut self, session: SessionId) {
        let admit = &mut self.admit;
        let Some(entry) = admit.sessions.get_mut(&session) else {
            return;
        };
        match std::mem::replace(&mut entry.turn, TurnState::None) {
            TurnState::None => {}
            TurnState::Waiting => admit.waiting.retain(|&waiting| waiting != session),
            TurnState::Taken => {
                admit.turns -= 1;
                if let Some(used) = admit.sites.get_mut(&entry.site) {
                    used.turns -= 1;
                }
            }
        }
    }
}

const fn name_rate(rate: Rate) -> Rate {
    Rate {
        count: rate.count.saturating_mul(NAME_FAILURES),
        per: rate.per,
    }
}

fn too_many_failures(peer: IpAddr, wait: std::time::Duration) -> Answer {
    refuse_and_close(
        Rejection::GO_AWAY,
        format!(
            "Too many failed logins from {peer}, wait {}",
            in_words(wait)
        ),
    )
}

fn too_many_failures_of_name(wait: std::time::Duration) -> Answer {
    let wait = in_words(wait);
    let text = format!("Too many failed logins with this name, wait {wait}");
    refuse(Rejection::SECURITY_UNAVAILABLE, text)
}

fn shutting_down() -> Answer {
    refuse_and_close(
        Rejection::SHUTTING_DOWN,
        "Shutting down, try again in a minute".to_owned(),
    )
}

pub(super) fn refuse(why: Rejection, text: String) -> Answer {
    Answer::Refused(Refusal {
        why,
        text,
        close: false,
    })
}

fn refuse_and_close(why: Rejection, text: String) -> Answer {
    Answer::Refused(Refusal {
        why,
        text,
        close: true,
    })
}
