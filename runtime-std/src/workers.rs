//! Threads that take work: one for each piece that runs, kept for a while for the next.
//!
//! ```text
//!   run ──▶ a thread that rests, or a new one ──▶ the work ──▶ rests for 5 s ──▶ ends
//! ```
//!
//! A busy relay opens connections far more often than it needs new threads; a quiet one has none left.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::Duration;

/// A thread that drives a connection needs little: the machines keep their state on the heap.
const STACK: usize = 512 * 1024;

/// How long a thread without work is kept.
const KEPT: Duration = Duration::from_secs(5);

type Work = Box<dyn FnOnce() + Send>;

/// The threads.
#[derive(Default)]
pub(crate) struct Workers {
    state: Mutex<State>,
    wanted: Condvar,
}

#[derive(Default)]
struct State {
    /// Work for threads that rest: never more pieces than threads.
    work: VecDeque<Work>,
    resting: usize,
    closed: bool,
}

impl Workers {
    /// Runs `work` on a thread of its own.
    ///
    /// # Errors
    /// If there is none and none can be started; `work` is dropped.
    pub(crate) fn run(self: &Arc<Self>, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut state = self.lock();
        if state.resting > state.work.len() {
            state.work.push_back(Box::new(work));
            drop(state);
            self.wanted.notify_one();
            return Ok(());
        }
        drop(state);
        let workers = Arc::clone(self);
        Builder::new().stack_size(STACK).spawn(move || {
            work();
            while let Some(work) = workers.next() {
                work();
            }
        })?;
        Ok(())
    }

    /// Lets the threads that rest end, and the others after their work.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wanted.notify_all();
    }

    fn next(&self) -> Option<Work> {
        let mut state = self.lock();
        state.resting += 1;
        let waited = self
            .wanted
            .wait_timeout_while(state, KEPT, |state| state.work.is_empty() && !state.closed);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.resting -= 1;
        state.work.pop_front()
    }

    // Nothing that can panic runs under the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread::{self, ThreadId};

    use super::*;

    fn ran_by(workers: &Arc<Workers>) -> ThreadId {
        let (send, receive) = channel();
        let run = move || send.send(thread::current().id()).unwrap();
        workers.run(run).unwrap();
        receive.recv().unwrap()
    }

    #[test]
    fn a_thread_that_rests_takes_the_next_work() {
        let workers = Arc::new(Workers::default());
        let first = ran_by(&workers);
        while workers.lock().resting == 0 {
            thread::yield_now();
        }
        assert_eq!(ran_by(&workers), first);
    }

    #[test]
    fn work_never_waits_for_other_work() {
        let workers = Arc::new(Workers::default());
        let (release, gate) = channel::<()>();
        workers.run(move || assert!(gate.recv().is_err())).unwrap();
        let threads: Vec<_> = (0..3).map(|_| ran_by(&workers)).collect();
        assert_eq!(threads.len(), 3);
        drop(release);
    }

    #[test]
    fn a_panic_takes_no_other_work_with_it() {
        let workers = Arc::new(Workers::default());
        workers.run(|| panic!("for this test")).unwrap();
        ran_by(&workers);
        workers.close();
        ran_by(&workers);
    }
}
