//! Whose turn it is: one hub's inputs are handled one after the other on a thread, never one inside of another.
//!
//! What the engine wants is handed out by the thread that brought an input. Where nothing can be started,
//! because there are no threads left, that same thread brings the next input at once; a queue of many jobs
//! would then be as many calls deep.

use std::cell::Cell;
use std::ptr;

use super::Hub;

thread_local! {
    /// The hub whose inputs this thread is handling.
    static HANDLING: Cell<*const Hub> = const { Cell::new(ptr::null()) };
}

/// This thread handles inputs of a hub, until this is dropped.
pub(super) struct Turn {
    before: *const Hub,
}

impl Turn {
    /// None if this thread is handling inputs of this hub already.
    pub(super) fn take(hub: &Hub) -> Option<Self> {
        let hub = ptr::from_ref(hub);
        let before = HANDLING.get();
        if ptr::eq(before, hub) {
            return None;
        }
        HANDLING.set(hub);
        Some(Self { before })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        HANDLING.set(self.before);
    }
}
