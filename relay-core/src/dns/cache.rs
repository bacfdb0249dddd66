//! What was found before: bounded in entries and octets, and no older than its TTL.
//!
//! RFC 2181 §8 (TTLs), RFC 2308 §5 and §7 (for how long a denial or a failure holds).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::DnsFailure;
use super::records::{Data, RecordKind};
use crate::time::Instant;

/// Found records hold at least so long, so that one burst of mail asks once.
const TTL_MIN: Duration = Duration::from_secs(5);
/// Found records hold at most so long.
const TTL_MAX: Duration = Duration::from_secs(24 * 3600);
/// A denial holds at most so long. RFC 2308 §5 suggests up to 3 hours; a new domain is worth less wait.
const DENIAL_MAX: Duration = Duration::from_secs(15 * 60);
/// A server failure holds so long: a domain that times out does not take 15 s for each message.
const FAILURE: Duration = Duration::from_secs(10);

/// What became of one question.
#[derive(Debug, Clone)]
pub(super) struct Found {
    /// The records; none of them if the name has none of the kind.
    pub(super) answer: Result<RecordSet, DnsFailure>,
    /// For how long, in seconds, if the answer says it.
    pub(super) ttl: Option<u32>,
}

/// The records of one kind at one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RecordSet {
    pub(super) data: Vec<Data>,
    pub(super) authentic: bool,
    pub(super) canonical: Option<String>,
}

impl Found {
    pub(super) fn has_records(&self) -> bool {
        self.answer.as_ref().is_ok_and(|set| !set.data.is_empty())
    }

    fn lifetime(&self) -> Duration {
        let ttl = self.ttl.map(|secs| Duration::from_secs(secs.into()));
        match &self.answer {
            Ok(set) if !set.data.is_empty() => ttl.unwrap_or(TTL_MIN).clamp(TTL_MIN, TTL_MAX),
            // RFC 2308 §5: without a SOA a denial should not be kept; TTL_MIN is a burst's worth.
            Ok(_) | Err(DnsFailure::NoSuchDomain | DnsFailure::NoRecord | DnsFailure::NullMx) => {
                ttl.unwrap_or(TTL_MIN).clamp(TTL_MIN, DENIAL_MAX)
            }
            Err(DnsFailure::BadName(_) | DnsFailure::Temporary(_)) => FAILURE,
        }
    }

    fn size(&self) -> usize {
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        match &self.answer {
            Ok(set) => set.data.iter().map(Data::size).sum::<usize>() + text(&set.canonical),
            Err(DnsFailure::BadName(why) | DnsFailure::Temporary(why)) => why.len(),
            Err(DnsFailure::NoSuchDomain | DnsFailure::NoRecord | DnsFailure::NullMx) => 0,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    name: Arc<str>,
    kind: RecordKind,
}

#[derive(Debug)]
struct Entry {
    found: Found,
    expires: Instant,
    size: usize,
}

/// The cache. The entry that expires first goes first.
#[derive(Debug)]
pub(super) struct Cache {
    entries: BTreeMap<Key, Entry>,
    by_expiry: BTreeSet<(Instant, Key)>,
    size: usize,
    entries_max: usize,
    size_max: usize,
}

/// What an entry takes beside its name and records.
const ENTRY_SIZE: usize = 256;

impl Cache {
    pub(super) fn new(entries_max: usize, size_max: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            by_expiry: BTreeSet::new(),
            size: 0,
            entries_max,
            size_max,
        }
    }

    /// What is known of a name now.
    pub(super) fn get(&self, now: Instant, name: &Arc<str>, kind: RecordKind) -> Option<Found> {
        let entry = self.entries.get(&Key {
            name: Arc::clone(name),
            kind,
        })?;
        (now < entry.expires).then(|| entry.found.clone())
    }

    /// Keeps what was found.
    pub(super) fn insert(&mut self, now: Instant, name: &Arc<str>, kind: RecordKind, found: Found) {
        let key = Key {
            name: Arc::clone(name),
            kind,
        };
        self.remove(&key);
        let size = ENTRY_SIZE + name.len() + found.size();
        let expires = now + found.lifetime();
        self.by_expiry.insert((expires, key.clone()));
        self.entries.insert(
            key,
            Entry {
                found,
                expires,
                size,
            },
        );
        self.size += size;
        while self.entries.len() > self.entries_max || self.size > self.size_max {
            let Some((_, first)) = self.by_expiry.first().cloned() else {
                break;
            };
            self.remove(&first);
        }
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.entries_max, self.size_max);
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_expiry.remove(&(entry.expires, key.clone()));
            self.size -= entry.size;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(count: usize, ttl: Option<u32>) -> Found {
        let data = (0..count)
            .map(|n| Data::Mx(0, format!("mx{n}.example")))
            .collect();
        let set = RecordSet {
            data,
            authentic: false,
            canonical: None,
        };
        Found {
            answer: Ok(set),
            ttl,
        }
    }

    fn failed(failure: DnsFailure, ttl: Option<u32>) -> Found {
        Found {
            answer: Err(failure),
            ttl,
        }
    }

    fn at(secs: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(secs))
    }

    #[test]
    fn each_kind_of_answer_holds_for_its_time() {
        for (case, found, secs) in [
            ("a TTL is kept", found(1, Some(300)), 300),
            ("0 lasts for a burst", found(1, Some(0)), 5),
            ("a month is a day", found(1, Some(30 * 86_400)), 86_400),
            ("a denial by its SOA", found(0, Some(60)), 60),
            ("a long denial", found(0, Some(86_400)), 900),
            ("a denial without SOA", found(0, None), 5),
            ("NXDOMAIN", failed(DnsFailure::NoSuchDomain, Some(120)), 120),
            (
                "SERVFAIL",
                failed(DnsFailure::Temporary("x".into()), None),
                10,
            ),
        ] {
            let mut cache = Cache::new(10, 10_000);
            let name = Arc::from("example.com");
            cache.insert(at(1000), &name, RecordKind::Mx, found);
            assert!(
                cache
                    .get(at(1000 + secs - 1), &name, RecordKind::Mx)
                    .is_some(),
                "{case}"
            );
            assert!(
                cache.get(at(1000 + secs), &name, RecordKind::Mx).is_none(),
                "{case}"
            );
            assert!(
                cache.get(at(1000), &name, RecordKind::A).is_none(),
                "{case}"
            );
        }
    }

    #[test]
    fn it_stays_within_its_bounds_and_drops_what_ends_first() {
        let mut cache = Cache::new(100, 1_000_000);
        for n in 0..1000u32 {
            cache.insert(
                at(0),
                &format!("{n}.example").into(),
                RecordKind::Mx,
                found(2, Some(100 + n)),
            );
            assert!(cache.entries.len() <= 100 && cache.entries.len() == cache.by_expiry.len());
        }
        assert!(
            cache
                .get(at(1), &"999.example".into(), RecordKind::Mx)
                .is_some()
        );
        assert!(
            cache
                .get(at(1), &"899.example".into(), RecordKind::Mx)
                .is_none()
        );

        let mut cache = Cache::new(100, 20_000);
        for n in 0..1000u32 {
            cache.insert(
                at(0),
                &format!("{}.example", n % 7).into(),
                RecordKind::Mx,
                found(20, None),
            );
            assert!(cache.size <= 20_000);
        }
        cache.clear();
        assert_eq!((cache.size, cache.entries.len()), (0, 0));
    }
}
