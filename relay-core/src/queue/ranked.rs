//! Jobs in the order in which they are sent: the more urgent first, the older first among equals.
//!
//! RFC 6710 §5.1: a client "sends those with a higher priority before those with a lower one". Nearly all
//! have the same priority, so there is one queue for those, and a map for the others.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

/// Jobs by priority.
#[derive(Debug, Default)]
pub(crate) struct Ranked {
    /// Those of priority 0.
    usual: VecDeque<u32>,
    /// The others; no queue in it is empty.
    others: BTreeMap<Reverse<i8>, VecDeque<u32>>,
}

impl Ranked {
    pub(crate) fn push_back(&mut self, job: u32, priority: i8) {
        self.queue(priority).push_back(job);
    }

    pub(crate) fn push_front(&mut self, job: u32, priority: i8) {
        self.queue(priority).push_front(job);
    }

    fn queue(&mut self, priority: i8) -> &mut VecDeque<u32> {
        match priority {
            0 => &mut self.usual,
            _ => self.others.entry(Reverse(priority)).or_default(),
        }
    }

    pub(crate) fn pop_front(&mut self) -> Option<u32> {
        let urgent = self
            .others
            .first_key_value()
            .map(|(Reverse(first), _)| *first);
        match urgent {
            Some(first) if first > 0 || self.usual.is_empty() => {
                let mut queue = self.others.first_entry()?;
                let job = queue.get_mut().pop_front();
                if queue.get().is_empty() {
                    queue.remove();
                }
                job
            }
            Some(_) | None => self.usual.pop_front(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.usual.is_empty() && self.others.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.usual.len() + self.others.values().map(VecDeque::len).sum::<usize>()
    }

    /// Takes out those that `wanted` names; the others stay in their order.
    pub(crate) fn take_if(&mut self, mut wanted: impl FnMut(u32) -> bool) -> Vec<u32> {
        let mut taken = Vec::new();
        let mut keep = |&job: &u32| {
            let take = wanted(job);
            if take {
                taken.push(job);
            }
            !take
        };
        self.usual.retain(&mut keep);
        self.others.retain(|_, queue| {
            queue.retain(&mut keep);
            !queue.is_empty()
        });
        taken
    }

    /// In no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.others.values().flatten().chain(&self.usual).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_urgent_go_first_and_equals_in_their_order() {
        let mut jobs = Ranked::default();
        for (job, priority) in [(1, 0), (2, -3), (3, 9), (4, 0), (5, 9), (6, 4), (7, -3)] {
            jobs.push_back(job, priority);
        }
        jobs.push_front(8, 9);
        assert_eq!((jobs.len(), jobs.iter().count()), (8, 8));
        jobs.push_back(9, 0);
        jobs.push_back(10, 7);
        assert_eq!(jobs.take_if(|job| job > 8), [9, 10]);
        let order: Vec<u32> = std::iter::from_fn(|| jobs.pop_front()).collect();
        assert_eq!(order, [8, 3, 5, 6, 1, 4, 2, 7]);
        assert!(jobs.is_empty());
    }
}
