//! A store in memory, as an embedder may write one.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;

use bytes::Bytes;
use relay_core::id::{MessageId, WriteId};
use relay_core::queue::message::{Body, Message};
use relay_core::queue::record::Progress;
use relay_core::queue::store::{
    LoadFailed, Place, Recovered, Store, StoreFailed, StoreMessage, StoreSink, StoreStatus,
};

/// What outlives a relay.
#[derive(Default)]
pub struct Memory {
    messages: Mutex<BTreeMap<MessageId, Kept>>,
    spool: Mutex<BTreeMap<MessageId, Vec<u8>>>,
}

struct Kept {
    message: StoreMessage,
    progress: Vec<Progress>,
}

impl Memory {
    pub fn messages(&self) -> usize {
        self.messages.lock().unwrap().len()
    }

    pub fn spooled(&self) -> usize {
        self.spool.lock().unwrap().len()
    }
}

/// The store of one relay in it.
pub struct MemoryStore {
    memory: Arc<Memory>,
    writes: Arc<(Mutex<Writes>, Condvar)>,
}

#[derive(Default)]
struct Writes {
    waiting: VecDeque<(WriteId, StoreMessage)>,
    closed: bool,
    ended: bool,
}

/// Where a message is does not matter here.
const PLACE: Place = Place {
    segment: 0,
    offset: 0,
};

impl MemoryStore {
    pub fn new(memory: &Arc<Memory>) -> Arc<Self> {
        Arc::new(Self {
            memory: Arc::clone(memory),
            writes: Arc::default(),
        })
    }

    fn writes(&self) -> MutexGuard<'_, Writes> {
        self.writes.0.lock().unwrap()
    }
}

impl Store for MemoryStore {
    // `write` is called with the engine's lock held, and the sink takes it: so a thread of its own.
    fn start(&self, sink: Arc<dyn StoreSink>) -> std::io::Result<()> {
        let (memory, writes) = (Arc::clone(&self.memory), Arc::clone(&self.writes));
        thread::Builder::new().spawn(move || {
            let (lock, changed) = &*writes;
            let mut state = lock.lock().unwrap();
            loop {
                let todo = std::mem::take(&mut state.waiting);
                if !todo.is_empty() {
                    drop(state);
                    let results = todo.into_iter().map(|(write, message)| {
                        let kept = Kept {
                            message,
                            progress: Vec::new(),
                        };
                        let id = kept.message.message.id;
                        memory.messages.lock().unwrap().insert(id, kept);
                        (write, Ok(PLACE))
                    });
                    sink.stored(results.collect());
                    state = lock.lock().unwrap();
                } else if state.closed {
                    state.ended = true;
                    changed.notify_all();
                    return;
                } else {
                    state = changed.wait(state).unwrap();
                }
            }
        })?;
        Ok(())
    }

    fn write(&self, write: WriteId, message: StoreMessage) {
        self.writes().waiting.push_back((write, message));
        self.writes.1.notify_all();
    }

    fn note(&self, message: MessageId, _: Place, progress: Progress) {
        if let Some(kept) = self.memory.messages.lock().unwrap().get_mut(&message) {
            kept.progress.push(progress);
        }
    }

    fn discard(&self, message: MessageId, _: Place) {
        self.memory.messages.lock().unwrap().remove(&message);
        self.spool_discard(message);
    }

    fn quarantine(&self, message: MessageId, place: Place, _: &str) {
        self.discard(message, place);
    }

    fn load(&self, message: MessageId, _: Place) -> Result<(Message, Body), LoadFailed> {
        let messages = self.memory.messages.lock().unwrap();
        let kept = messages.get(&message).map(|kept| &kept.message);
        kept.map(|kept| (Message::clone(&kept.message), kept.body.clone()))
            .ok_or(LoadFailed::Damaged("it is gone".into()))
    }

    fn spool_append(&self, message: MessageId, bytes: &[u8]) -> Result<(), StoreFailed> {
        let mut spool = self.memory.spool.lock().unwrap();
        spool.entry(message).or_default().extend_from_slice(bytes);
        Ok(())
    }

    fn spool_read(&self, message: MessageId, offset: u64, max: usize) -> Result<Bytes, LoadFailed> {
        let spool = self.memory.spool.lock().unwrap();
        let bytes = spool
            .get(&message)
            .ok_or(LoadFailed::Damaged("it is gone".into()))?;
        let start = usize::try_from(offset).unwrap().min(bytes.len());
        let end = bytes.len().min(start + max);
        Ok(Bytes::copy_from_slice(&bytes[start..end]))
    }

    fn spool_discard(&self, message: MessageId) {
        self.memory.spool.lock().unwrap().remove(&message);
    }

    fn recover(
        &self,
        each: &mut dyn FnMut(Recovered) -> ControlFlow<()>,
    ) -> Result<(), LoadFailed> {
        for kept in self.memory.messages.lock().unwrap().values() {
            let recovered = Recovered {
                message: Message::clone(&kept.message.message),
                place: PLACE,
                progress: kept.progress.clone(),
            };
            if each(recovered).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn status(&self) -> StoreStatus {
        StoreStatus {
            free_bytes: u64::MAX,
            ..StoreStatus::default()
        }
    }

    fn close(&self) {
        let mut writes = self.writes();
        writes.closed = true;
        self.writes.1.notify_all();
        while !writes.ended {
            writes = self.writes.1.wait(writes).unwrap();
        }
    }
}
