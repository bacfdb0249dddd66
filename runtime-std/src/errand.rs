//! Running an errand on the thread that calls: for a relay, and for a command where none runs.

use std::net::TcpStream;

use relay_core::dns::{AddressAnswer, DnsFailure, Query, Texts};
use relay_core::errand::{Done, Runner};
use relay_core::https::{Answer, Request};

use crate::clock::Clock;
use crate::drive::{StopSignal, drive};
use crate::hub::Hub;
use crate::relay::connect;
use crate::resolve::resolve;

/// Who answers what an errand asks of the DNS.
pub(crate) trait Lookups {
    /// TXT records.
    fn texts(&mut self, name: &str) -> Result<Texts, DnsFailure>;

    /// Addresses.
    fn addresses(&mut self, host: &str) -> AddressAnswer;
}

/// The resolver of a relay.
pub(crate) struct OfHub<'h>(pub(crate) &'h Hub, pub(crate) &'h StopSignal);

impl Lookups for OfHub<'_> {
    fn texts(&mut self, name: &str) -> Result<Texts, DnsFailure> {
        resolve(self.0, self.1, Query::txt(name))
    }

    fn addresses(&mut self, host: &str) -> AddressAnswer {
        resolve(self.0, self.1, Query::addresses(host))
    }
}

/// Drives the errand to its end.
pub(crate) fn run(
    mut runner: Runner,
    clock: Clock,
    stop: &StopSignal,
    lookups: &mut dyn Lookups,
) -> Done {
    let carry_out = |request, stream: &mut Option<TcpStream>| match request {
        Request::Texts(name) => Answer::Texts(lookups.texts(&name)),
        Request::Resolve(host) => Answer::Resolved(lookups.addresses(&host)),
        Request::Connect { to, until } => {
            *stream = None;
            let connected = connect(to, None, clock.until(until), stop);
            let connected = connected.map(|(connected, _)| *stream = Some(connected));
            Answer::Connected(connected.map_err(|error| error.kind()))
        }
        Request::Flush => Answer::Flushed,
    };
    drive(&mut runner, None, clock, stop, None, carry_out);
    runner.into_done()
}
