//! What clients did that somebody may want to act on: told, but never so often that telling it is
//! itself an attack.
//!
//! A site is told of so often as a program that bans addresses needs; all sites together so often as a
//! disk bears. What is left out is counted, and the next line says how much it was.

use std::time::Duration;

use super::limits::{Limiter, Site};
use super::{Engine, Output};
use crate::config::Rate;
use crate::events::{ClientDid, ClientEvent};
use crate::id::SessionId;
use crate::rng::Rng;
use crate::time::Instant;

/// Lines about one site.
const OF_SITE: Rate = Rate {
    count: 30,
    per: Duration::from_mins(10),
};

/// Lines about all sites: at 300 octets each, less than 50 MB a day.
const OF_ALL: Rate = Rate {
    count: 1000,
    per: Duration::from_mins(10),
};

/// How much was told, and what was not.
#[derive(Debug)]
pub(super) struct Notices {
    sites: Limiter<Site>,
    all: Limiter<()>,
    suppressed: u64,
}

impl Notices {
    pub(super) const fn new(now: Instant) -> Self {
        Self {
            sites: Limiter::new(now),
            all: Limiter::new(now),
            suppressed: 0,
        }
    }

    /// Whether to tell this one; if so, how many were not told before it.
    fn admit(&mut self, site: Site, now: Instant, rng: &mut Rng) -> Option<u64> {
        let told = self.all.wait(&(), OF_ALL, now).is_none()
            && self.sites.take(&site, OF_SITE, now, rng).is_ok()
            && self.all.take(&(), OF_ALL, now, rng).is_ok();
        if told {
            return Some(std::mem::take(&mut self.suppressed));
        }
        self.suppressed += 1;
        None
    }
}

impl Engine {
    /// Tells what the client of a session did.
    pub(super) fn notice(
        &mut self,
        session: SessionId,
        did: ClientDid,
        name: Option<&str>,
        reason: &str,
    ) {
        let Some(peer) = self.admit.peer(session) else {
            return;
        };
        let now = self.clock.now();
        let told = self
            .notices
            .admit(Site::of(peer), now.instant, &mut self.rng);
        if let Some(suppressed) = told {
            let mut event = ClientEvent::new(now.unix, did, peer, name, reason);
            event.suppressed = suppressed;
            self.out.push_back(Output::Client(Box::new(event)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attack_writes_a_bounded_log_and_the_rest_is_counted() {
        let mut rng = Rng::from_number(1);
        let at = |secs| Instant::from_origin(Duration::from_secs(secs));
        let mut notices = Notices::new(at(0));
        let site = |n: u8| Site::of([192, 0, 2, n].into());
        let mut told = 0;
        for _ in 0..10_000 {
            told += u32::from(notices.admit(site(1), at(5), &mut rng).is_some());
        }
        assert_eq!(told, OF_SITE.count);
        assert_eq!(
            notices.admit(site(2), at(5), &mut rng),
            Some(9970),
            "another site is heard"
        );
        assert_eq!(notices.admit(site(2), at(5), &mut rng), Some(0));
        let mut told = 0;
        for n in 0..100_000_u32 {
            let site = Site::of(std::net::Ipv4Addr::from_bits(n).into());
            told += u32::from(notices.admit(site, at(6), &mut rng).is_some());
        }
        assert!(told <= OF_ALL.count, "{told}");
        assert!(notices.admit(site(9), at(1000), &mut rng) > Some(90_000));
    }
}
