//! Fills a data directory with a deep queue, as a run leaves it that was killed: for the benchmark of
//! recovery, which would otherwise mostly measure how fast a queue is filled.
//!
//! ```text
//!  fill DIR MESSAGES
//! ```
#![allow(clippy::print_stderr)]

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use relay_core::id::{MessageId, WriteId};
use relay_core::queue::message::{Body, BodyKind, Envelope, Message, Origin, Recipient};
use relay_core::queue::record::{DeferredState, Progress};
use relay_core::queue::store::{Place, Store as _, StoreFailed, StoreMessage, StoreSink};
use relay_core::time::UnixTime;
use runtime_std::store::{Options, SegmentStore, StdDisk};
use smtp_proto::{Mailbox, ReversePath};

/// Messages that are written with one sync.
const GROUP: u64 = 2000;
const BODY: usize = 1000;
/// One in so many was never tried, and is due; the others wait for hours.
const DUE: u64 = 1000;
const HEADER: &str =
    "From: <from@sender.test>\r\nSubject: deep\r\nX-Ledger: old\r\nX-Digest: 0\r\n";

type Receipts = Vec<(WriteId, Result<Place, StoreFailed>)>;

/// Keeps the receipts of one group.
#[derive(Default)]
struct Sink(Mutex<Receipts>);

impl StoreSink for Sink {
    fn stored(&self, results: Receipts) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(results);
    }

    fn live(&self, messages: &[(MessageId, Place)]) -> Vec<bool> {
        vec![true; messages.len()]
    }

    fn moved(&self, _: &[(MessageId, Place, Place)]) {}

    fn snapshot(&self, _: Option<MessageId>, _: usize) -> Vec<(MessageId, Progress)> {
        Vec::new()
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (dir, count) = (
        args.next(),
        args.next().and_then(|count| count.parse().ok()),
    );
    let (Some(dir), Some(count)) = (dir, count) else {
        eprintln!("usage: fill DIR MESSAGES");
        return ExitCode::from(2);
    };
    match fill(Path::new(&dir), count) {
        // No close: the next start finds what a killed relay leaves.
        Ok(()) => std::process::exit(0),
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn fill(dir: &Path, count: u64) -> Result<(), Box<dyn std::error::Error>> {
    // The log of notes is not to be written anew: nobody here could say what is in the queue.
    let options = Options {
        rewrite_min: u64::MAX,
        ..Options::default()
    };
    std::fs::create_dir_all(dir)?;
    let store = SegmentStore::open(dir, options, Arc::new(StdDisk))?;
    store.recover(&mut |_| std::ops::ControlFlow::Continue(()))?;
    let sink = Sink::default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let now = u64::try_from(now.as_millis())?;
    let text = b"\r\n".iter().chain(b"0123456789abcdef\r\n".iter().cycle());
    let body = HEADER.as_bytes().iter().chain(text).take(BODY);
    let body: Vec<u8> = body.copied().collect();
    for first in (0..count).step_by(usize::try_from(GROUP)?) {
        for number in first..count.min(first + GROUP) {
            let message = Arc::new(message(now, number)?);
            let body = Body::Memory(body.clone().into());
            store.write(WriteId(number), StoreMessage { message, body });
        }
        store.step(&sink, true);
        let receipts = std::mem::take(&mut *sink.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (write, place) in receipts {
            let place = place?;
            if !write.0.is_multiple_of(DUE) {
                store.note(id(now, write.0), place, Progress::Deferred(deferral(now)));
            }
        }
        store.write_notes();
    }
    store.step(&sink, true);
    Ok(())
}

fn id(now: u64, number: u64) -> MessageId {
    MessageId::from_u64(((now - 3_600_000) << 20) + number)
}

fn message(now: u64, number: u64) -> Result<Message, Box<dyn std::error::Error>> {
    let mailbox = |text: &str| Mailbox::parse(text).map_err(|_| format!("no address: {text}"));
    let to = mailbox(&format!("user{number}@dest{}.test", number % 100))?;
    Ok(Message {
        id: id(now, number),
        accepted: UnixTime::from_millis(now - 3_600_000),
        origin: Origin {
            credential: Some("local".to_owned()),
            peer: None,
        },
        envelope: Envelope {
            from: ReversePath::Mailbox(mailbox("from@sender.test")?),
            ret: None,
            envid: None,
            body: BodyKind::SevenBit,
            smtputf8: false,
            handling: Default::default(),
            recipients: vec![Recipient {
                to,
                notify: None,
                orcpt: None,
            }],
        },
        prefix: bytes::Bytes::new(),
        size: BODY as u64,
        header_size: HEADER.len() as u32,
    })
}

fn deferral(now: u64) -> DeferredState {
    DeferredState {
        recipients: vec![0],
        attempts: 3,
        next: UnixTime::from_millis(now) + Duration::from_secs(3 * 3600),
        delay_reported: false,
        in_doubt: false,
        held: false,
        reason: "451 4.7.1 greylisted, come back later (mx.dest.test)".to_owned(),
    }
}
