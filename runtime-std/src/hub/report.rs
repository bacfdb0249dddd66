//! Reports (DSNs): `bounce` writes them from what the store has, the engine queues them.

use std::sync::Weak;

use relay_core::bounce;
use relay_core::engine::{Input, NotWritten, ReportDue};

use super::Hub;

impl Hub {
    /// Has a report written where waiting for the disk is allowed, and hands it in.
    pub(super) fn write_report(&self, due: Box<ReportDue>) {
        let me = Weak::clone(&self.me);
        let about = due.report.about;
        let started = self.spawn.blocking(Box::new(move || {
            let Some(hub) = me.upgrade() else { return };
            let domains = &hub.loaded().config.domains;
            let report = bounce::write_due(&due, &*hub.store, domains);
            hub.input(Input::ReportWritten { about, report });
        }));
        if let Err(error) = started {
            let report = Err(NotWritten::Later(error.to_string()));
            self.input(Input::ReportWritten { about, report });
        }
    }
}
