//! Who sits at the engine: it asks under an id, and the answers arrive in a slot.

use std::sync::Arc;

use relay_core::engine::{Answer, Ask, Input, Next};
use relay_core::id::{DeliveryId, SessionId};
use relay_core::outbound::Report;

use super::{Hub, lock};
use crate::slot::Slot;

/// The seat of a client's connection or of a direct submission. Dropping it ends the session at the
/// engine.
#[derive(Debug)]
pub struct SessionSeat {
    hub: Arc<Hub>,
    id: SessionId,
    slot: Arc<Slot<Answer>>,
}

impl SessionSeat {
    pub(super) fn new(hub: Arc<Hub>, id: SessionId, slot: Arc<Slot<Answer>>) -> Self {
        Self { hub, id, slot }
    }

    /// The session's id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The hub.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Asks. The answer arrives in the slot; [`Ask::Bye`] has none, and dropping the seat says it.
    #[must_use]
    pub fn ask(&self, ask: Ask) -> &Slot<Answer> {
        self.hub.input(Input::Ask(self.id, ask));
        &self.slot
    }
}

impl Drop for SessionSeat {
    fn drop(&mut self) {
        lock(&self.hub.waiting).sessions.remove(&self.id);
        self.hub.input(Input::Ask(self.id, Ask::Bye));
    }
}

/// The seat of a delivery. Dropping it ends the delivery at the engine; a job that it had and did not
/// report on goes back to the queue.
#[derive(Debug)]
pub struct DeliverySeat {
    hub: Arc<Hub>,
    id: DeliveryId,
    slot: Arc<Slot<Next>>,
}

impl DeliverySeat {
    pub(super) fn new(hub: Arc<Hub>, id: DeliveryId, slot: Arc<Slot<Next>>) -> Self {
        Self { hub, id, slot }
    }

    /// The hub.
    #[must_use]
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// Reports. The answer arrives in the slot; [`Report::Ended`] has none, and dropping the seat says
    /// it.
    #[must_use]
    pub fn report(&self, report: Report) -> &Slot<Next> {
        self.hub.input(Input::Report(self.id, report));
        &self.slot
    }
}

impl Drop for DeliverySeat {
    fn drop(&mut self) {
        lock(&self.hub.waiting).deliveries.remove(&self.id);
        self.hub.input(Input::Report(self.id, Report::Ended));
    }
}
