//! Destination domains: which jobs are for them, which lane they lead to, who waits to know.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::lanes::LaneNo;
use super::pool::Pool;
use super::tick::Tick;
use crate::id::ResolveId;

/// Domains without jobs that are remembered for what was found.
const IDLE_MAX: usize = 4096;

/// The domains that jobs are for.
#[derive(Debug)]
pub(crate) struct Domains {
    entries: Pool<DomainEntry>,
    names: BTreeMap<Arc<str>, u32>,
    asked: BTreeMap<ResolveId, u32>,
    /// Domains that wait for a question to be answered before theirs is put.
    unasked: VecDeque<u32>,
    last_id: u64,
}

#[derive(Debug)]
struct DomainEntry {
    name: Arc<str>,
    jobs: u32,
    found: Option<(LaneNo, Tick)>,
    /// Jobs that wait for the answer; none while there is no question.
    waiting: Option<Vec<u32>>,
}

impl Domains {
    pub(crate) const fn new() -> Self {
        Self {
            entries: Pool::new(),
            names: BTreeMap::new(),
            asked: BTreeMap::new(),
            unasked: VecDeque::new(),
            last_id: 0,
        }
    }

    /// The handle of a domain, with one job more for it.
    pub(crate) fn add_job(&mut self, name: &str) -> u32 {
        let handle = match self.names.get(name) {
            Some(&handle) => handle,
            None => {
                let name: Arc<str> = name.into();
                let entry = DomainEntry {
                    name: Arc::clone(&name),
                    jobs: 0,
                    found: None,
                    waiting: None,
                };
                let handle = self.entries.insert(entry);
                self.names.insert(name, handle);
                handle
            }
        };
        self.entries[handle].jobs += 1;
        handle
    }

    /// One job less.
    pub(crate) fn remove_job(&mut self, domain: u32) {
        let entry = &mut self.entries[domain];
        entry.jobs -= 1;
        if entry.jobs == 0 && (entry.found.is_none() || self.entries.len() > IDLE_MAX) {
            self.forget(domain);
        }
    }

    pub(crate) fn name(&self, domain: u32) -> &Arc<str> {
        &self.entries[domain].name
    }

    /// The lane that the domain leads to, if that was found lately.
    pub(crate) fn lane(&self, domain: u32, now: Tick) -> Option<LaneNo> {
        self.entries[domain]
            .found
            .filter(|&(_, until)| now < until)
            .map(|(lane, _)| lane)
    }

    /// The lane that the domain led to when it was looked for last.
    pub(crate) fn last_lane(&self, domain: u32) -> Option<LaneNo> {
        self.entries[domain].found.map(|(lane, _)| lane)
    }

    /// Lets a job wait for the answer; puts the question if it is not put yet.
    pub(crate) fn ask(&mut self, domain: u32, job: u32) {
        match &mut self.entries[domain].waiting {
            Some(waiting) => waiting.push(job),
            none @ None => {
                *none = Some(vec![job]);
                self.unasked.push_back(domain);
            }
        }
    }

    /// Has it asked again where a domain leads, unless that was found lately or is being asked. Nothing
    /// waits for the answer.
    pub(crate) fn ask_again(&mut self, domain: u32, now: Tick) {
        let known = self.lane(domain, now).is_some();
        let entry = &mut self.entries[domain];
        if !known && entry.waiting.is_none() {
            entry.waiting = Some(Vec::new());
            self.unasked.push_back(domain);
        }
    }

    /// The next question to put, if fewer than `asked_max` are out.
    pub(crate) fn question(&mut self, asked_max: usize) -> Option<(ResolveId, u32)> {
        if self.asked.len() >= asked_max {
            return None;
        }
        let domain = self.unasked.pop_front()?;
        self.last_id += 1;
        let id = ResolveId(self.last_id);
        self.asked.insert(id, domain);
        Some((id, domain))
    }

    /// How many questions are out.
    pub(crate) fn asked(&self) -> usize {
        self.asked.len()
    }

    /// Takes the question of an answer. The domain's jobs wait until [`Self::take_waiting`].
    pub(crate) fn answered(&mut self, id: ResolveId) -> Option<u32> {
        self.asked.remove(&id)
    }

    /// The jobs that waited to know where the domain leads.
    pub(crate) fn take_waiting(&mut self, domain: u32) -> Vec<u32> {
        self.entries[domain].waiting.take().unwrap_or_default()
    }

    /// Remembers which lane a domain leads to; gives back the one that it led to before, if another.
    pub(crate) fn found(&mut self, domain: u32, lane: LaneNo, until: Tick) -> Option<LaneNo> {
        let before = self.entries[domain].found.replace((lane, until));
        before.map(|(before, _)| before).filter(|&no| no != lane)
    }

    /// Forgets which lane a domain leads to; gives it back.
    pub(crate) fn forget_lane(&mut self, domain: u32) -> Option<LaneNo> {
        self.entries[domain].found.take().map(|(lane, _)| lane)
    }

    /// The handle of a domain that is known.
    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.names.get(name).copied()
    }

    /// Forgets a domain that no job came to wait for, after its question was answered.
    pub(crate) fn forget_if_unused(&mut self, domain: u32) {
        // A job that was settled on the way may have taken its domain with it.
        if self
            .entries
            .get(domain)
            .is_some_and(|entry| entry.jobs == 0)
        {
            self.forget(domain);
        }
    }

    /// Forgets all lanes: the configuration changed.
    pub(crate) fn forget_lanes(&mut self) {
        for handle in 0..self.entries.slots() {
            if let Some(entry) = self.entries.get_mut(handle) {
                entry.found = None;
            }
        }
    }

    /// Forgets domains without jobs whose lane was found too long ago.
    pub(crate) fn tidy(&mut self, now: Tick) {
        let old: Vec<u32> = self
            .entries
            .iter()
            .filter(|(_, entry)| {
                entry.jobs == 0 && entry.found.is_none_or(|(_, until)| until <= now)
            })
            .map(|(handle, _)| handle)
            .collect();
        old.into_iter().for_each(|domain| self.forget(domain));
    }

    fn forget(&mut self, domain: u32) {
        if self.entries[domain].waiting.is_none()
            && let Some(entry) = self.entries.remove(domain)
        {
            self.names.remove(&entry.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_put_once_for_all_jobs_of_a_domain() {
        let mut domains = Domains::new();
        let domain = domains.add_job("example.com");
        assert_eq!(domains.add_job("example.com"), domain);
        domains.ask(domain, 1);
        domains.ask(domain, 2);
        let (id, asked) = domains.question(256).unwrap();
        assert_eq!(asked, domain);
        assert!(domains.question(256).is_none());
        domains.ask(domain, 3);
        assert!(domains.question(256).is_none(), "the question is out");
        assert_eq!(domains.answered(id), Some(domain));
        assert_eq!(domains.answered(id), None);
        domains.ask(domain, 4);
        assert!(domains.question(256).is_none(), "its jobs still wait");
        assert_eq!(domains.take_waiting(domain), [1, 2, 3, 4]);
        domains.remove_job(domain);
        domains.remove_job(domain);
        assert!(domains.names.is_empty(), "nothing is remembered of it");
    }

    #[test]
    fn questions_out_at_once_are_bounded() {
        let mut domains = Domains::new();
        for n in 0..300 {
            let domain = domains.add_job(&format!("{n}.example"));
            domains.ask(domain, n);
        }
        let ids: Vec<_> = std::iter::from_fn(|| domains.question(256)).collect();
        assert_eq!(ids.len(), 256);
        assert!(domains.answered(ids[0].0).is_some());
        assert!(domains.question(256).is_some());
        assert!(domains.question(256).is_none());
    }
}
