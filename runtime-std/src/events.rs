//! Delivery events for a program that embeds the relay: bounded subscriptions.
//!
//! The engine never waits for a subscriber. One that does not keep up misses events, and is told how many
//! at the place where they are missing.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use relay_core::events::DeliveryEvent;

use crate::hub::EventSink;

/// What a subscriber hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Something happened to a message.
    Event(Box<DeliveryEvent>),
    /// So many events came while the subscription was full, and are lost to this subscriber. The journal
    /// in `data_dir/events` has them.
    Missed(u64),
}

/// A subscription to delivery events. Dropping it ends it.
#[derive(Debug)]
pub struct Events(Arc<Queue>);

impl Events {
    /// Blocks until there is an event; none when the relay is shut down and all was received.
    #[must_use]
    pub fn recv(&self) -> Option<Heard> {
        let queue = self.0.lock();
        let waited = self
            .0
            .changed
            .wait_while(queue, |queue| queue.heard.is_empty() && !queue.closed);
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner);
        queue.heard.pop_front()
    }

    /// As [`Self::recv`], but for so long at most.
    ///
    /// # Errors
    /// [`TimedOut`] if nothing happened.
    pub fn recv_timeout(&self, within: Duration) -> Result<Option<Heard>, TimedOut> {
        let queue = self.0.lock();
        let waited = self.0.changed.wait_timeout_while(queue, within, |queue| {
            queue.heard.is_empty() && !queue.closed
        });
        let (mut queue, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match queue.heard.pop_front() {
            None if !queue.closed => Err(TimedOut),
            heard => Ok(heard),
        }
    }

    /// What is there already.
    #[must_use]
    pub fn try_recv(&self) -> Option<Heard> {
        self.0.lock().heard.pop_front()
    }

    /// [`Self::recv`] as a future. Dropping it loses nothing.
    #[must_use]
    pub fn recv_async(&self) -> Recv<'_> {
        Recv(self)
    }
}

impl Iterator for Events {
    type Item = Heard;

    fn next(&mut self) -> Option<Heard> {
        self.recv()
    }
}

/// Nothing happened in the given time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOut;

impl std::fmt::Display for TimedOut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no event in the given time")
    }
}

impl std::error::Error for TimedOut {}

/// The future of [`Events::recv_async`].
#[derive(Debug)]
pub struct Recv<'a>(&'a Events);

impl Future for Recv<'_> {
    type Output = Option<Heard>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Heard>> {
        let mut queue = self.0.0.lock();
        match queue.heard.pop_front() {
            None if !queue.closed => {
                queue.waker = Some(context.waker().clone());
                Poll::Pending
            }
            heard => Poll::Ready(heard),
        }
    }
}

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// At most `capacity` entries, and one `Missed` more.
    heard: VecDeque<Heard>,
    capacity: usize,
    closed: bool,
    waker: Option<Waker>,
}

impl Queue {
    // A panic while the lock is held leaves the state whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        self.changed.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl State {
    fn push(&mut self, event: &DeliveryEvent) {
        let full = self.heard.len() >= self.capacity;
        match self.heard.back_mut() {
            Some(Heard::Missed(missed)) if full => *missed += 1,
            _ if full => self.heard.push_back(Heard::Missed(1)),
            _ => self.heard.push_back(Heard::Event(Box::new(event.clone()))),
        }
    }
}

/// All subscriptions of a relay.
#[derive(Debug, Default)]
pub(crate) struct Subscribers(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    queues: Vec<Weak<Queue>>,
    closed: bool,
}

impl Subscribers {
    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn subscribe(&self, capacity: usize) -> Events {
        let mut all = self.lock();
        let queue = Arc::new(Queue {
            state: Mutex::new(State {
                heard: VecDeque::new(),
                capacity: capacity.max(1),
                closed: all.closed,
                waker: None,
            }),
            changed: Condvar::new(),
        });
        all.queues.push(Arc::downgrade(&queue));
        Events(queue)
    }

    /// Nothing more will happen.
    pub(crate) fn close(&self) {
        let mut all = self.lock();
        all.closed = true;
        for queue in all.queues.drain(..).filter_map(|queue| queue.upgrade()) {
            queue.change(|state| state.closed = true);
        }
    }
}

impl EventSink for Subscribers {
    fn event(&self, event: &DeliveryEvent) {
        self.lock().queues.retain(|queue| match queue.upgrade() {
            Some(queue) => {
                queue.change(|state| state.push(event));
                true
            }
            None => false,
        });
    }
}

#[cfg(test)]
mod tests {
    use relay_core::events::EventKind;
    use relay_core::id::MessageId;
    use relay_core::time::UnixTime;

    use super::*;

    fn event(number: u64) -> DeliveryEvent {
        let kind = EventKind::NotReported {
            why: "a test".into(),
        };
        DeliveryEvent::new(UnixTime::from_secs(1), MessageId::from_u64(number), kind)
    }

    fn heard(number: u64) -> Option<Heard> {
        Some(Heard::Event(Box::new(event(number))))
    }

    #[test]
    fn events_arrive_in_order_and_the_end_is_told() {
        let subscribers = Subscribers::default();
        let events = subscribers.subscribe(10);
        (0..3).for_each(|n| subscribers.event(&event(n)));
        subscribers.close();
        assert_eq!(events.recv(), heard(0));
        assert_eq!(events.try_recv(), heard(1));
        assert_eq!(events.recv_timeout(Duration::ZERO), Ok(heard(2)));
        assert_eq!(events.recv(), None);
        assert_eq!(subscribers.subscribe(10).recv(), None);
    }

    #[test]
    fn a_full_subscription_says_where_how_many_are_missing() {
        let subscribers = Subscribers::default();
        let events = subscribers.subscribe(2);
        (0..5).for_each(|n| subscribers.event(&event(n)));
        assert_eq!(events.recv(), heard(0));
        assert_eq!(events.recv(), heard(1));
        assert_eq!(events.recv(), Some(Heard::Missed(3)));
        subscribers.event(&event(5));
        assert_eq!(events.recv(), heard(5));
        assert_eq!(events.recv_timeout(Duration::ZERO), Err(TimedOut));
    }

    #[test]
    fn the_gap_itself_takes_room() {
        let subscribers = Subscribers::default();
        let events = subscribers.subscribe(2);
        (0..3).for_each(|n| subscribers.event(&event(n)));
        assert_eq!(events.recv(), heard(0));
        subscribers.event(&event(3));
        assert_eq!(events.recv(), heard(1));
        assert_eq!(events.recv(), Some(Heard::Missed(2)));
        assert_eq!(events.try_recv(), None);
    }

    #[test]
    fn a_dropped_subscription_is_forgotten() {
        let subscribers = Subscribers::default();
        drop(subscribers.subscribe(2));
        subscribers.event(&event(0));
        assert!(subscribers.lock().queues.is_empty());
    }

    #[test]
    fn a_future_is_woken() {
        let subscribers = Subscribers::default();
        let events = subscribers.subscribe(2);
        let mut context = Context::from_waker(Waker::noop());
        let mut future = events.recv_async();
        assert!(Pin::new(&mut future).poll(&mut context).is_pending());
        subscribers.event(&event(7));
        assert_eq!(
            Pin::new(&mut future).poll(&mut context),
            Poll::Ready(heard(7))
        );
    }
}
