//! The session: one client's connection.

use super::{Answer, Request, Setup};
use crate::machine::{Input, Machine, Output};
use crate::rng::Rng;
use crate::time::Now;

/// One client's connection. Drive it as [`crate::machine`] says.
#[derive(Debug)]
pub struct Session {
    setup: Setup,
    now: Now,
    rng: Rng,
}

impl Session {
    /// A session on a connection that was just accepted.
    #[must_use]
    pub fn new(setup: Setup, now: Now, rng: Rng) -> Self {
        Self { setup, now, rng }
    }

    /// The relay shuts down: the next [`Machine::poll_output`] says 421 and closes, or, if a message is
    /// on its way in, the one after its end. Call it on a session that waits in `Output::Read`, then
    /// poll as after an input.
    pub fn interrupt(&mut self, now: Now) {
        self.now = now;
        let _ = (&self.setup, &self.rng);
    }
}

impl Machine for Session {
    type Request = Request;
    type Answer = Answer;

    fn handle_input(&mut self, now: Now, _input: Input<'_, Answer>) {
        self.now = now;
    }

    fn poll_output(&mut self, _wire: &mut Vec<u8>) -> Output<Request> {
        Output::Close
    }
}
