//! A store on a disk in memory, stepped by hand, with a ledger of what it promised.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use relay_core::id::{MessageId, WriteId};
use relay_core::queue::message::{Body, BodyKind, Envelope, Message, Origin, Recipient};
use relay_core::queue::record::{DeferredState, Progress, State};
use relay_core::queue::store::{
    Place, Recovered, Store as _, StoreFailed, StoreMessage, StoreSink,
};
use relay_core::time::UnixTime;
use smtp_proto::{Mailbox, ReversePath};

use super::disk::MemDisk;
use crate::store::{Next, OpenError, Options, SegmentStore};

pub(super) const DIR: &str = "/data";

pub(super) fn options() -> Options {
    Options {
        segment_size: 64 << 10,
        extent: 8 << 10,
        reserve: 1 << 20,
        free_max: 2,
        group_max: 32 << 10,
        rewrite_min: 8 << 10,
        salt: Some(0x5a17),
        ..Options::default()
    }
}

pub(super) fn queue() -> PathBuf {
    Path::new(DIR).join("queue")
}

/// A message whose every part follows from its number.
pub(super) fn message(number: u64, size: usize) -> (Arc<Message>, Bytes) {
    let to = Mailbox::parse(&format!("user{number}@example.net")).unwrap();
    let message = Message {
        id: MessageId::from_u64(number),
        accepted: UnixTime::from_millis(1_000_000 + number),
        origin: Origin {
            credential: Some("app".to_owned()),
            peer: None,
        },
        envelope: Envelope {
            from: ReversePath::Null,
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
        size: size as u64,
        header_size: 2,
    };
    let body = (0..size)
        .map(|i| (number as usize * 31 + i * 7) as u8)
        .collect::<Vec<u8>>();
    (Arc::new(message), body.into())
}

/// What the engine would know.
#[derive(Default)]
pub(super) struct Ledger(Mutex<Book>);

#[derive(Default)]
pub(super) struct Book {
    pub(super) receipts: BTreeMap<WriteId, Result<Place, StoreFailed>>,
    pub(super) live: BTreeMap<MessageId, Place>,
    pub(super) attempts: BTreeMap<MessageId, u32>,
    pub(super) moves: usize,
}

impl Ledger {
    pub(super) fn book<T>(&self, look: impl FnOnce(&mut Book) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }
}

impl StoreSink for Ledger {
    fn stored(&self, results: Vec<(WriteId, Result<Place, StoreFailed>)>) {
        self.book(|book| {
            for (write, result) in results {
                if let Ok(place) = result {
                    book.live.insert(MessageId::from_u64(write.0), place);
                }
                assert!(
                    book.receipts.insert(write, result).is_none(),
                    "two receipts"
                );
            }
        });
    }

    fn live(&self, messages: &[(MessageId, Place)]) -> Vec<bool> {
        self.book(|book| {
            messages
                .iter()
                .map(|(id, at)| book.live.get(id) == Some(at))
                .collect()
        })
    }

    fn moved(&self, messages: &[(MessageId, Place, Place)]) {
        self.book(|book| {
            for (id, from, to) in messages {
                book.moves += 1;
                if let Some(place) = book.live.get_mut(id) {
                    assert_eq!(place, from);
                    *place = *to;
                }
            }
        });
    }

    fn snapshot(&self, after: Option<MessageId>, max: usize) -> Vec<(MessageId, Progress)> {
        self.book(|book| {
            let ids = book
                .live
                .keys()
                .filter(|id| after.is_none_or(|after| **id > after));
            ids.take(max)
                .map(|id| (*id, state(book.attempts.get(id).copied())))
                .collect()
        })
    }
}

/// The state of a message with so many attempts.
fn state(attempts: Option<u32>) -> Progress {
    Progress::State(State {
        deferred: attempts.map(deferred).into_iter().collect(),
        ..State::default()
    })
}

pub(super) fn deferred(attempts: u32) -> DeferredState {
    DeferredState {
        recipients: vec![0],
        attempts,
        next: UnixTime::from_millis(5),
        delay_reported: false,
        in_doubt: false,
        held: false,
        reason: "450 4.2.0 later".to_owned(),
    }
}

/// The attempts that the last of these notes tells of.
pub(super) fn attempts(progress: &[Progress]) -> Option<u32> {
    progress
        .iter()
        .fold(None, |known, progress| match progress {
            Progress::Deferred(deferred) => Some(deferred.attempts),
            Progress::State(state) => state.deferred.first().map(|deferred| deferred.attempts),
            Progress::Settled { .. } | Progress::Held(_) => known,
        })
}

pub(super) struct Rig {
    pub(super) disk: MemDisk,
    pub(super) store: Arc<SegmentStore>,
    pub(super) ledger: Ledger,
    pub(super) sizes: BTreeMap<MessageId, usize>,
    pub(super) quarantined: u64,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::on(MemDisk::default(), &BTreeMap::new())
    }

    /// Opens what is on a disk, and checks that every message is as it was written.
    pub(super) fn on(disk: MemDisk, sizes: &BTreeMap<MessageId, usize>) -> Self {
        Self::try_on(disk, sizes).unwrap()
    }

    pub(super) fn try_on(
        disk: MemDisk,
        sizes: &BTreeMap<MessageId, usize>,
    ) -> Result<Self, String> {
        let store = SegmentStore::open(Path::new(DIR), options(), Arc::new(disk.clone()))
            .map_err(|e: OpenError| e.to_string())?;
        let ledger = Ledger::default();
        store
            .recover(&mut |found: Recovered| {
                let id = found.message.id;
                let (expected, _) = message(id.as_u64(), sizes[&id]);
                assert_eq!(found.message, *expected);
                ledger.book(|book| {
                    assert!(book.live.insert(id, found.place).is_none(), "{id} twice");
                    if let Some(n) = attempts(&found.progress) {
                        book.attempts.insert(id, n);
                    }
                });
                ControlFlow::Continue(())
            })
            .map_err(|e| e.to_string())?;
        let quarantined = store.status().quarantined;
        Ok(Self {
            disk,
            store,
            ledger,
            sizes: sizes.clone(),
            quarantined,
        })
    }

    pub(super) fn write(&mut self, number: u64, size: usize) {
        let (message, body) = message(number, size);
        self.sizes.insert(message.id, size);
        let body = Body::Memory(body);
        self.store
            .write(WriteId(number), StoreMessage { message, body });
    }

    /// Hands over the body of a large message, then the message.
    pub(super) fn write_spooled(&mut self, number: u64, size: usize) -> Result<(), StoreFailed> {
        let (message, body) = message(number, size);
        self.sizes.insert(message.id, size);
        for piece in body.chunks(10_000) {
            self.store.spool_append(message.id, piece)?;
        }
        self.store.write(
            WriteId(number),
            StoreMessage {
                message,
                body: Body::Spooled,
            },
        );
        Ok(())
    }

    pub(super) fn step(&self, tick: bool) -> Next {
        self.store.step(&self.ledger, tick)
    }

    /// Steps until nothing is left to do.
    pub(super) fn settle(&self) {
        self.step(true);
        for _ in 0..10_000 {
            if !self.step(false).more {
                return;
            }
        }
        panic!("the store never rests");
    }

    pub(super) fn receipt(&self, number: u64) -> Option<Result<Place, StoreFailed>> {
        self.ledger
            .book(|book| book.receipts.get(&WriteId(number)).cloned())
    }

    pub(super) fn discard(&self, number: u64) {
        let id = MessageId::from_u64(number);
        let place = self.ledger.book(|book| book.live.remove(&id)).unwrap();
        self.store.discard(id, place);
        self.store.write_notes();
    }

    pub(super) fn defer(&self, number: u64, attempts: u32) {
        let id = MessageId::from_u64(number);
        let place = self.ledger.book(|book| {
            book.attempts.insert(id, attempts);
            book.live[&id]
        });
        self.store
            .note(id, place, Progress::Deferred(deferred(attempts)));
        self.store.write_notes();
    }

    pub(super) fn live(&self) -> Vec<u64> {
        self.ledger
            .book(|book| book.live.keys().map(|id| id.as_u64()).collect())
    }

    /// Every live message reads back as it was written.
    pub(super) fn check_loads(&self) {
        let live = self.ledger.book(|book| book.live.clone());
        for (id, place) in live {
            let (expected, bytes) = message(id.as_u64(), self.sizes[&id]);
            let (found, body) = self.store.load(id, place).unwrap();
            assert_eq!(found, *expected);
            let body = match body {
                Body::Memory(body) => body,
                Body::Spooled => self.spooled(id),
            };
            assert!(body == bytes, "{id} has another body");
        }
    }

    pub(super) fn spooled(&self, id: MessageId) -> Bytes {
        let mut all = Vec::new();
        loop {
            let piece = self.store.spool_read(id, all.len() as u64, 7_000).unwrap();
            if piece.is_empty() {
                return all.into();
            }
            all.extend_from_slice(&piece);
        }
    }

    /// The process dies; the next one opens the same directory.
    pub(super) fn kill(&self) -> Self {
        Self::on(self.disk.killed(), &self.sizes)
    }
}
