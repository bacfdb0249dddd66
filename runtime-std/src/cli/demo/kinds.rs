//! The receivers of the demo: where each is, how it behaves, and how its mail must end.

use std::net::Ipv4Addr;

/// Where the mail of the demo comes from, and where its reports go back to.
pub(super) const HOME: &str = "app.example";

/// One kind of receiver. Each is the mail exchanger of a domain of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Healthy,
    Greylisting,
    Slow,
    Rejecting,
    Expired,
    NoTls,
    Dropping,
    Dead,
    NullMx,
}

/// How every message of a kind must end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Delivered.
    Delivered,
    /// Delivered, and not at the first attempt.
    DeliveredLater,
    /// Bounced, and reported.
    Bounced,
    /// Given up when its time was over, and reported.
    Expired,
}

impl Kind {
    pub(super) const ALL: [Self; 9] = [
        Self::Healthy,
        Self::Greylisting,
        Self::Slow,
        Self::Rejecting,
        Self::Expired,
        Self::NoTls,
        Self::Dropping,
        Self::Dead,
        Self::NullMx,
    ];

    /// Its place in [`Self::ALL`].
    pub(super) fn index(self) -> usize {
        self as usize
    }

    /// For the table, and the first label of its domain.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Greylisting => "greylisting",
            Self::Slow => "slow",
            Self::Rejecting => "rejecting",
            Self::Expired => "old-certificate",
            Self::NoTls => "broken-tls",
            Self::Dropping => "dropping",
            Self::Dead => "dead",
            Self::NullMx => "null-mx",
        }
    }

    /// How it behaves.
    pub(super) fn manners(self) -> &'static str {
        match self {
            Self::Healthy => "takes everything",
            Self::Greylisting => "says \"try again in 2 seconds\" to whom it does not know",
            Self::Slow => "thinks for a while about each message",
            Self::Rejecting => "knows no mailbox",
            Self::Expired => "shows a certificate that is over",
            Self::NoTls => "offers STARTTLS and speaks no TLS then",
            Self::Dropping => "drops the connection in the middle of each message once",
            Self::Dead => "refuses connections",
            Self::NullMx => "takes no mail at all (RFC 7505)",
        }
    }

    /// The domain whose mail it receives.
    pub(super) fn domain(self) -> String {
        format!("{}.example", self.name())
    }

    /// The name of its host, which its certificate is for.
    pub(super) fn host(self) -> String {
        format!("mx.{}", self.domain())
    }

    /// Its address, if it has a host.
    pub(super) fn address(self) -> Option<Ipv4Addr> {
        match self {
            Self::NullMx => None,
            Self::Healthy
            | Self::Greylisting
            | Self::Slow
            | Self::Rejecting
            | Self::Expired
            | Self::NoTls
            | Self::Dropping
            | Self::Dead => Some(Ipv4Addr::new(127, 0, 0, 11 + self as u8)),
        }
    }

    /// How its mail must end.
    pub(super) fn end(self) -> End {
        match self {
            Self::Healthy | Self::Slow | Self::Expired | Self::NoTls => End::Delivered,
            Self::Greylisting | Self::Dropping => End::DeliveredLater,
            Self::Rejecting | Self::NullMx => End::Bounced,
            Self::Dead => End::Expired,
        }
    }

    /// The sender of the mail to it: reports that come back say by their recipient what they are about.
    pub(super) fn sender(self) -> String {
        format!("{}@{HOME}", self.name())
    }

    /// Whose name this is, as a domain's first label or as a sender's local part.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| name.eq_ignore_ascii_case(kind.name()))
    }

    /// The kind that receives the mail of this domain.
    pub(super) fn of_domain(domain: &str) -> Option<Self> {
        Self::of_name(domain.strip_suffix(".example")?)
    }

    /// The kind that this mailbox is the sender to.
    pub(super) fn of_sender(mailbox: &str) -> Option<Self> {
        let (name, domain) = mailbox.rsplit_once('@')?;
        Self::of_name(name).filter(|_| domain.eq_ignore_ascii_case(HOME))
    }
}
