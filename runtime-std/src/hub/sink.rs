//! What the store tells the engine.

use std::sync::Weak;

use relay_core::engine::Input;
use relay_core::id::{MessageId, WriteId};
use relay_core::queue::record::Progress;
use relay_core::queue::store::{Place, StoreFailed, StoreSink};

use super::{Hub, lock};

/// The hub as its store sees it. Weak, since the hub owns the store.
pub(super) struct Sink(pub(super) Weak<Hub>);

impl StoreSink for Sink {
    fn stored(&self, results: Vec<(WriteId, Result<Place, StoreFailed>)>) {
        if let Some(hub) = self.0.upgrade() {
            // After a failure nobody waits for the next timeout to say why nothing is accepted.
            let failed = results.iter().any(|(_, result)| result.is_err());
            let status = failed.then(|| Input::StoreStatus(Box::new(hub.store.status())));
            let stored = results
                .into_iter()
                .map(|(write, result)| Input::Stored(write, result));
            hub.inputs(status.into_iter().chain(stored));
        }
    }

    fn live(&self, messages: &[(MessageId, Place)]) -> Vec<bool> {
        let Some(hub) = self.0.upgrade() else {
            return vec![true; messages.len()];
        };
        let engine = lock(&hub.engine);
        messages
            .iter()
            .map(|&(id, place)| engine.is_live(id, place))
            .collect()
    }

    fn moved(&self, messages: &[(MessageId, Place, Place)]) {
        if let Some(hub) = self.0.upgrade() {
            hub.inputs(
                messages
                    .iter()
                    .map(|&(id, from, to)| Input::Moved(id, from, to)),
            );
        }
    }

    fn snapshot(&self, after: Option<MessageId>, max: usize) -> Vec<(MessageId, Progress)> {
        let Some(hub) = self.0.upgrade() else {
            return Vec::new();
        };
        lock(&hub.engine).snapshot(after, max)
    }
}
