//! A runtime as the command line sees it: something that starts a relay, and a relay that runs.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::hub::{Hub, Options, StartError};
use crate::load::Loaded;

/// Starts relays.
pub trait Runtime {
    /// The name of its binary.
    fn binary(&self) -> &'static str;

    /// Starts a relay.
    ///
    /// # Errors
    /// [`StartError`] names what is at fault.
    fn start(&self, loaded: Loaded, options: Options) -> Result<Box<dyn Running>, StartError>;
}

/// A relay that runs.
pub trait Running {
    /// What its threads or tasks share.
    fn hub(&self) -> &Arc<Hub>;

    /// Where its listeners are bound, in the order of the configuration.
    fn addresses(&self) -> &[SocketAddr];

    /// Stops it; returns whether all that ran ended within `grace`.
    fn shut_down(self: Box<Self>, grace: Duration) -> bool;
}
