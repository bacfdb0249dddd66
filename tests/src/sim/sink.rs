//! The store's way to the engine.

use std::sync::{Arc, Mutex};

use relay_core::engine::{Engine, Input as ToEngine, Output as FromEngine};
use relay_core::id::{MessageId, WriteId};
use relay_core::queue::record::Progress;
use relay_core::queue::store::{Place, StoreFailed, StoreSink};
use relay_core::time::Now;

use super::relay::lock;

/// The store's way to the engine, for one step. What the engine wants is carried out after it.
pub(crate) struct Sink {
    pub(crate) engine: Arc<Mutex<Engine>>,
    pub(crate) now: Now,
    pub(crate) outputs: Mutex<Vec<FromEngine>>,
    pub(crate) refuse: bool,
    /// Writes that ended.
    pub(crate) written: Mutex<Vec<WriteId>>,
}

impl Sink {
    fn inputs(&self, inputs: impl IntoIterator<Item = ToEngine>) {
        let mut engine = lock(&self.engine);
        for input in inputs {
            engine.handle_input(self.now, input);
        }
        lock(&self.outputs).extend(std::iter::from_fn(|| engine.poll_output()));
    }
}

impl StoreSink for Sink {
    fn stored(&self, results: Vec<(WriteId, Result<Place, StoreFailed>)>) {
        lock(&self.written).extend(results.iter().map(|(write, _)| *write));
        let refused = |result| match result {
            Ok(_) if self.refuse => Err(StoreFailed::Broken("planted".to_owned())),
            other => other,
        };
        self.inputs(
            results
                .into_iter()
                .map(|(id, result)| ToEngine::Stored(id, refused(result))),
        );
    }

    fn live(&self, messages: &[(MessageId, Place)]) -> Vec<bool> {
        let engine = lock(&self.engine);
        messages
            .iter()
            .map(|&(id, place)| engine.is_live(id, place))
            .collect()
    }

    fn moved(&self, messages: &[(MessageId, Place, Place)]) {
        self.inputs(
            messages
                .iter()
                .map(|&(id, from, to)| ToEngine::Moved(id, from, to)),
        );
    }

    fn snapshot(&self, after: Option<MessageId>, max: usize) -> Vec<(MessageId, Progress)> {
        lock(&self.engine).snapshot(after, max)
    }
}
