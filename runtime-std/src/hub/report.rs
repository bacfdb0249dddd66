//! Reports (DSNs): the original is read back, `bounce` writes the report, the engine queues it.

use std::sync::{Arc, Weak};

use relay_core::bounce;
use relay_core::engine::{Input, NotWritten, ReportDue, Submission};
use relay_core::outbound::Loaded as LoadedMessage;
use relay_core::queue::message::Body;
use relay_core::queue::store::LoadFailed;

use super::Hub;

impl Hub {
    /// Loads what a report is about, lets `bounce` write the report, and hands it in.
    pub(super) fn write_report(&self, due: Box<ReportDue>) {
        let me = Weak::clone(&self.me);
        let about = due.report.about;
        let started = self.spawn.blocking(Box::new(move || {
            let Some(hub) = me.upgrade() else { return };
            let report = hub.written(&due);
            hub.input(Input::ReportWritten { about, report });
        }));
        if let Err(error) = started {
            let report = Err(NotWritten::Later(error.to_string()));
            self.input(Input::ReportWritten { about, report });
        }
    }

    fn written(&self, due: &ReportDue) -> Result<Box<Submission>, NotWritten> {
        let original = match &due.original {
            Some(original) => Arc::clone(original),
            None => match self.store.load(due.report.about, due.place) {
                Ok((message, body)) => Arc::new(LoadedMessage { message, body }),
                Err(LoadFailed::Damaged(why)) => return Err(NotWritten::Damaged(why)),
                Err(LoadFailed::Io(why)) => return Err(NotWritten::Later(why)),
            },
        };
        let message = &original.message;
        let bytes = match &original.body {
            Body::Memory(bytes) => bytes.clone(),
            Body::Spooled => {
                let len = bounce::original_len(message).saturating_sub(message.prefix.len());
                let read = self.store.spool_read(message.id, 0, len);
                read.map_err(|failed| NotWritten::Later(failed.to_string()))?
            }
        };
        let bytes = match message.prefix.is_empty() {
            true => bytes,
            false => [message.prefix.as_ref(), &bytes].concat().into(),
        };
        let mut report = bounce::write(&due.report, message, &bytes)
            .map_err(|not_due| NotWritten::NotDue(not_due.to_string()))?;
        report.sign(&self.loaded().config.domains, due.report.now);
        Ok(Box::new(report))
    }
}
