//! How a sender wants a message handled: what MAIL asked for beyond the envelope.
//!
//! ```text
//!  MAIL parameters, TLS-Required: No ──inbound──▶ Handling ──record──▶ engine: when, in what order
//!   (seconds from now)                       (points in time)        └▶ outbound: to whom, and passed on
//! ```
//!
//! RFC 2852 (DELIVERBY), RFC 4865 (FUTURERELEASE), RFC 4954 §5 (AUTH=), RFC 6710 (MT-PRIORITY), RFC 8689
//! (REQUIRETLS, TLS-Required).

use smtp_proto::{AuthParam, ByMode, DeliverBy, Domain, Hold, MailParams, Priority};

use crate::time::UnixTime;

/// How a message is to be handled. The default is what a sender gets who says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handling {
    /// What TLS it needs on its way.
    pub tls: TlsWish,
    /// It is not sent before this. RFC 4865.
    pub release: Option<UnixTime>,
    /// It is late after this. RFC 2852.
    pub deadline: Option<Deadline>,
    /// How urgent it is; none is the same as 0, and is not passed on. RFC 6710.
    pub priority: Option<Priority>,
    /// Who submitted it, as far as the sender was believed. RFC 4954 §5.
    pub submitter: Option<AuthParam>,
    /// The domain of the MAIL FROM that it leaves under, if that is not the sender's own: see
    /// [`crate::bounce::return_path`]. Chosen by the domain of From when the message came.
    pub return_path: Option<Domain>,
}

/// What TLS a message needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsWish {
    /// What the relay's configuration and the receiver's policy ask for.
    #[default]
    AsConfigured,
    /// REQUIRETLS: verified TLS to a host that asks the same of the next, or no delivery. RFC 8689 §4.2.1.
    Required,
    /// `TLS-Required: No`: what a receiver's policy (DANE, MTA-STS) asks for must not stop it. RFC 8689
    /// §3, §4.2.2.
    NotRequired,
}

/// When a message is late, and what happens then. RFC 2852 §4.1.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// When.
    pub at: UnixTime,
    /// What happens then.
    pub mode: ByMode,
    /// Relays that cannot pass the deadline on report so.
    pub trace: bool,
}

impl Handling {
    /// What the parameters of a MAIL that came at `now` ask for.
    #[must_use]
    pub fn new(params: &MailParams, now: UnixTime) -> Self {
        let release = params.hold.map(|hold| match hold {
            Hold::For(secs) => later(now, i64::from(secs.get())),
            Hold::Until(unix) => UnixTime::from_secs(unix),
        });
        Self {
            tls: match params.requiretls {
                true => TlsWish::Required,
                false => TlsWish::AsConfigured,
            },
            release: release.filter(|&release| release > now),
            deadline: params.by.map(|by| Deadline {
                at: later(now, i64::from(by.seconds())),
                mode: by.mode(),
                trace: by.trace(),
            }),
            priority: params.mt_priority,
            submitter: params.auth.clone(),
            return_path: None,
        }
    }

    /// From -9 to 9.
    #[must_use]
    pub fn level(&self) -> i8 {
        self.priority.map_or(0, Priority::level)
    }
}

impl Deadline {
    /// As it is passed on at `now`: what is left. None for a message to be returned whose time is over.
    ///
    /// RFC 2852 §4.1.4: "a by-time value indicating the number of seconds remaining".
    #[must_use]
    pub fn left(&self, now: UnixTime) -> Option<DeliverBy> {
        let secs = |time: UnixTime| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        let left = secs(self.at)
            .saturating_sub(secs(now))
            .clamp(-999_999_999, 999_999_999);
        let by = DeliverBy::new(i32::try_from(left).ok()?, self.mode)?;
        Some(if self.trace { by.with_trace() } else { by })
    }
}

fn later(now: UnixTime, secs: i64) -> UnixTime {
    let millis = now
        .as_millis()
        .saturating_add_signed(secs.saturating_mul(1000));
    UnixTime::from_millis(millis)
}

#[cfg(test)]
mod tests {
    use super::*;
    use smtp_proto::{Extension, Extensions};

    const NOON: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn handling(params: &str) -> Handling {
        let all: Extensions = Extension::ALL.into_iter().collect();
        Handling::new(&MailParams::parse(params, all).unwrap(), NOON)
    }

    #[test]
    fn seconds_become_points_in_time() {
        let it = handling("HOLDFOR=60 BY=-5;NT MT-PRIORITY=-3 REQUIRETLS AUTH=<>");
        assert_eq!(it.release, Some(UnixTime::from_secs(1_800_000_060)));
        let deadline = it.deadline.unwrap();
        assert_eq!(deadline.at, UnixTime::from_secs(1_799_999_995));
        assert_eq!((it.tls, it.level()), (TlsWish::Required, -3));
        assert_eq!(it.submitter, Some(AuthParam::Unknown));
        assert_eq!(handling(""), Handling::default());
    }

    #[test]
    fn a_release_in_the_past_is_none() {
        assert_eq!(handling("HOLDUNTIL=1999-01-01T00:00:00Z").release, None);
        let until = handling("HOLDUNTIL=2027-01-15T08:00:01Z").release;
        assert_eq!(until, Some(UnixTime::from_secs(1_800_000_001)));
    }

    #[test]
    fn what_is_left_is_passed_on() {
        let after = |deadline: Deadline, secs: u64| {
            deadline.left(UnixTime::from_secs(1_800_000_000 + secs))
        };
        let back = handling("BY=120;R").deadline.unwrap();
        assert_eq!(after(back, 20).unwrap().to_string(), "100;R");
        assert_eq!(after(back, 120), None);
        let told = handling("BY=120;NT").deadline.unwrap();
        assert_eq!(after(told, 130).unwrap().to_string(), "-10;NT");
    }
}
