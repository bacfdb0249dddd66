//! A place for one answer, that a thread or a task waits for.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Holds at most one value. One side puts, the other takes: by blocking, or as a future.
#[derive(Debug)]
pub struct Slot<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
}

#[derive(Debug)]
struct State<T> {
    value: Option<T>,
    waker: Option<Waker>,
    /// Threads wait for this slot, not tasks: waking one is a system call.
    by_thread: bool,
}

impl<T> Slot<T> {
    /// An empty slot.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let state = State {
            value: None,
            waker: None,
            by_thread: false,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            filled: Condvar::new(),
        })
    }

    /// Puts the value and wakes who waits.
    pub fn put(&self, value: T) {
        let mut state = self.lock();
        state.value = Some(value);
        let waker = state.waker.take();
        let by_thread = state.by_thread;
        drop(state);
        if by_thread {
            self.filled.notify_one();
        }
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Blocks the thread until there is a value, and takes it.
    pub fn wait(&self) -> T {
        let mut state = self.lock();
        state.by_thread = true;
        loop {
            if let Some(value) = state.value.take() {
                return value;
            }
            state = self
                .filled
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Blocks the thread for a while, and takes the value if there is one by then.
    pub fn wait_for(&self, within: Duration) -> Option<T> {
        let mut state = self.lock();
        state.by_thread = true;
        let waited = self
            .filled
            .wait_timeout_while(state, within, |state| state.value.is_none());
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.value.take()
    }

    /// Takes the value as a future.
    pub fn taken(&self) -> Taken<'_, T> {
        Taken(self)
    }

    // A panic while the lock is held leaves the state whole: every change is one assignment.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The future of [`Slot::taken`].
#[derive(Debug)]
pub struct Taken<'a, T>(&'a Slot<T>);

impl<T> Future for Taken<'_, T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut state = self.0.lock();
        if let Some(value) = state.value.take() {
            return Poll::Ready(value);
        }
        state.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_thread_gets_the_value() {
        let slot = Slot::new();
        let other = Arc::clone(&slot);
        let waiter = std::thread::spawn(move || other.wait());
        slot.put(7);
        assert_eq!(waiter.join().unwrap(), 7);
    }

    #[test]
    fn a_wait_with_a_limit_ends() {
        let slot = Slot::new();
        assert_eq!(slot.wait_for(Duration::from_millis(1)), None);
        slot.put(9);
        assert_eq!(slot.wait_for(Duration::from_secs(60)), Some(9));
    }

    #[test]
    fn a_future_is_pending_until_the_value_is_put() {
        let slot = Slot::new();
        let mut context = Context::from_waker(Waker::noop());
        let mut future = slot.taken();
        assert!(Pin::new(&mut future).poll(&mut context).is_pending());
        slot.put(8);
        assert_eq!(Pin::new(&mut future).poll(&mut context), Poll::Ready(8));
    }
}
