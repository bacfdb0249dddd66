//! Planted faults, where things pass between the parts: each changes what a bug in the part behind that
//! seam would change. Nothing of it is in the relay.

use std::sync::Arc;

use bytes::Bytes;
use relay_core::engine::Ask;
use relay_core::id::SessionId;
use relay_core::outbound::{self, Loaded, Outcome, Report};
use relay_core::queue::handling::TlsWish;
use relay_core::queue::message::Body;

use super::agenda::Dice;
use super::plant::Plant;
use super::world::World;

impl World {
    /// [`Plant::EnvelopeKept`]: every envelope also has the recipients of the one before.
    /// [`Plant::RecipientDropped`]: it lacks its last one.
    pub(crate) fn keep_envelope(&mut self, id: SessionId, ask: &mut Ask) {
        if let Ask::Submit(submission) = ask
            && submission.envelope.recipients.len() > 1
            && self.planted(Plant::RecipientDropped)
        {
            submission.envelope.recipients.pop();
        }
        if let Ask::Submit(submission) = ask
            && self.planted(Plant::DeadlineForgotten)
        {
            submission.envelope.handling.deadline = None;
        }
        if let Ask::Submit(submission) = ask
            && self.planted(Plant::ReleaseForgotten)
        {
            submission.envelope.handling.release = None;
        }
        if let Ask::Submit(submission) = ask
            && self.planted(Plant::RequireTlsForgotten)
        {
            submission.envelope.handling.tls = TlsWish::AsConfigured;
        }
        if !self.planted(Plant::EnvelopeKept) {
            return;
        }
        let Some(relay) = &mut self.relay else {
            return;
        };
        if let Ask::Submit(submission) = ask {
            let own = submission.envelope.recipients.clone();
            if let Some(kept) = relay.kept.insert(id, own) {
                submission.envelope.recipients.extend(kept);
            }
        }
    }

    /// Planted faults in what a delivery reports. True if the report is lost.
    pub(crate) fn falsify(&mut self, report: &mut Report) -> bool {
        let (Report::Tried(tried) | Report::Unreachable(tried)) = report else {
            return false;
        };
        if self.planted(Plant::FalseDelivery) {
            for (_, outcome) in &mut tried.outcomes {
                if let Outcome::Deferred { reason, .. } = outcome {
                    *outcome = Outcome::Delivered(reason.clone());
                }
            }
        }
        let delivered = tried
            .outcomes
            .iter()
            .any(|(_, o)| matches!(o, Outcome::Delivered(_)));
        delivered && self.planted(Plant::OutcomeLost) && self.rng.chance(300)
    }

    /// [`Plant::BodyDamaged`], for bodies that come from the store.
    pub(crate) fn damage(&mut self, answer: &mut outbound::Answer) {
        if let outbound::Answer::Loaded(Ok(loaded)) = answer
            && self.planted(Plant::BodyDamaged)
        {
            *loaded = damaged(Arc::clone(loaded));
        }
    }
}

pub(crate) fn damaged(loaded: Arc<Loaded>) -> Arc<Loaded> {
    let mut loaded = Loaded::clone(&loaded);
    if let Body::Memory(bytes) = &loaded.body {
        let mut octets = bytes.to_vec();
        if let Some(octet) = octets.iter_mut().rev().find(|octet| octet.is_ascii_digit()) {
            *octet = b'x';
        }
        loaded.body = Body::Memory(Bytes::from(octets));
    }
    Arc::new(loaded)
}
