//! What an earlier run left is read on a thread of its own, beside all else.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread::Builder;
use std::time::Duration;

use relay_core::engine::Input;

use super::{Hub, lock};
use crate::slot::Slot;

/// Messages that are handed in under one lock.
const BATCH: usize = 64;
/// How long a start waits for it: a small queue is then as if it had never been away.
const HEAD_START: Duration = Duration::from_millis(200);
/// After the disk failed, it is tried again so often.
const AGAIN: Duration = Duration::from_secs(5);

impl Hub {
    pub(super) fn begin_recovery(&self) -> io::Result<()> {
        let (me, done) = (Weak::clone(&self.me), Slot::new());
        let on_thread = Arc::clone(&done);
        let thread = Builder::new().name("recovery".into()).spawn(move || {
            while !read(&me) {
                std::thread::park_timeout(AGAIN);
            }
            on_thread.put(());
        })?;
        *lock(&self.recovery) = Some(thread);
        let _ = done.wait_for(HEAD_START);
        Ok(())
    }

    /// Ends the reading, wherever it is. [`Hub::begin_shut_down`] came before.
    pub(super) fn end_recovery(&self) {
        let thread = lock(&self.recovery).take();
        if let Some(thread) =
            thread.filter(|thread| thread.thread().id() != std::thread::current().id())
        {
            thread.thread().unpark();
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// Reads until there is no more, or something fails. True if that was the end of it.
fn read(me: &Weak<Hub>) -> bool {
    let Some(store) = me.upgrade().map(|hub| Arc::clone(&hub.store)) else {
        return true;
    };
    let mut batch = Vec::with_capacity(BATCH);
    let mut stopped = false;
    let result = store.recover(&mut |recovered| {
        batch.push(Input::Recovered(Box::new(recovered)));
        if batch.len() < BATCH {
            return ControlFlow::Continue(());
        }
        stopped = !hand_in(me, &mut batch);
        if stopped {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    if stopped || !hand_in(me, &mut batch) {
        return true;
    }
    let Some(hub) = me.upgrade() else {
        return true;
    };
    match result {
        Ok(()) => {
            let status = Box::new(hub.store.status());
            hub.inputs([Input::StoreStatus(status), Input::AllRecovered]);
            true
        }
        Err(error) => {
            tracing::error!(%error, "the queue cannot be read now; what was not read is not delivered");
            false
        }
    }
}

/// False if the relay ends.
fn hand_in(me: &Weak<Hub>, batch: &mut Vec<Input>) -> bool {
    let Some(hub) = me.upgrade().filter(|hub| !hub.is_stopping()) else {
        return false;
    };
    let status = Input::StoreStatus(Box::new(hub.store.status()));
    hub.inputs(batch.drain(..).chain([status]));
    true
}
