//! What is found on the way of a message, and where: the words that [`super::outcome`] judges.

use std::io;
use std::net::SocketAddr;

use smtp_proto::Reply;
use smtp_proto::client::Fatal;

use super::tls_policy::TlsFault;
use crate::dns::DnsFailure;
use crate::queue::store::LoadFailed;

/// What was being done, in the order in which an attempt comes to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Reading our own store.
    Store,
    /// Asking for the addresses of a host.
    Resolve,
    /// Asking our own rules whether an address may be used.
    Policy,
    /// Connecting.
    Connect,
    /// Waiting for the greeting.
    Greeting,
    /// EHLO or HELO.
    Hello,
    /// STARTTLS and the handshake.
    Tls,
    /// AUTH.
    Auth,
    /// MAIL, and what it needs of the host.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// Sending the body.
    Body,
    /// Waiting for the reply that ends it.
    Dot,
}

impl Stage {
    #[cfg(test)]
    pub(super) const ALL: [Self; 13] = [
        Self::Store,
        Self::Resolve,
        Self::Policy,
        Self::Connect,
        Self::Greeting,
        Self::Hello,
        Self::Tls,
        Self::Auth,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Body,
        Self::Dot,
    ];

    /// The name in [`Reason::stage`].
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Resolve => "resolve",
            Self::Policy => "policy",
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Hello => "ehlo",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Body => "body",
            Self::Dot => "dot",
        }
    }

    /// What was waited for, to end a sentence with.
    pub(super) const fn awaited(self) -> &'static str {
        match self {
            Self::Store => "the stored message",
            Self::Resolve => "the answer of DNS",
            Self::Policy => "a decision",
            Self::Connect => "the connection",
            Self::Greeting => "the greeting",
            Self::Hello => "the reply to EHLO",
            Self::Tls => "the end of the TLS handshake",
            Self::Auth => "the reply to AUTH",
            Self::Mail => "the reply to MAIL",
            Self::Rcpt => "the reply to RCPT",
            Self::Data => "the reply to DATA",
            Self::Body => "the end of the body",
            Self::Dot => "the reply to the end of the message",
        }
    }
}

/// What was found at a stage.
#[derive(Debug, Clone)]
pub(super) enum Finding {
    /// The host replied.
    Reply(Reply),
    /// The host went away, or cannot be understood.
    Lost(Loss),
    /// A host has no addresses.
    Dns(DnsFailure),
    /// It cannot be known whether a host has TLSA records.
    Tlsa(DnsFailure),
    /// The domain's MTA-STS policy does not name the host, and it has no TLSA records that decide.
    Stray,
    /// An address must not be used.
    Forbidden(Forbidden),
    /// TLS is not as the policy wants it.
    Tls(TlsFault),
    /// The login cannot be done, in our words.
    Login(String),
    /// The host does not offer what the message needs.
    Lacks(Need),
    /// The message cannot be read.
    Store(LoadFailed),
}

/// How a connection ended, or did not begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Loss {
    /// The host closed it.
    Closed,
    /// An error of the network.
    Broken(io::ErrorKind),
    /// A deadline passed.
    Timeout,
    /// The host broke the protocol.
    Protocol(String),
}

impl From<Fatal> for Loss {
    fn from(why: Fatal) -> Self {
        Self::Protocol(why.to_string())
    }
}

impl From<Option<io::ErrorKind>> for Loss {
    fn from(why: Option<io::ErrorKind>) -> Self {
        why.map_or(Self::Closed, Self::Broken)
    }
}

/// Why an address must not be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Forbidden {
    /// `prohibited_hosts`, or an address that is nobody's, in the words of the rule.
    Prohibited(String),
    /// One of our own listeners: the message would come back.
    Own(SocketAddr),
    /// None of the host's addresses is of the family of the address that we send from.
    Family,
}

/// What a message needs and a host does not offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// 8BITMIME. RFC 6152.
    EightBitMime,
    /// SMTPUTF8. RFC 6531.
    SmtpUtf8,
    /// BINARYMIME and CHUNKING. RFC 3030.
    BinaryMime,
    /// A larger SIZE than this. RFC 1870.
    Size(u64),
    /// TLS with a certificate that names the host, and a host whose name is certain. RFC 8689 §4.2.1.
    VerifiedTls,
    /// REQUIRETLS. RFC 8689 §4.2.1.
    RequireTls,
    /// DELIVERBY, to return what is late. RFC 2852 §4.1.4.1.
    DeliverBy,
    /// More time than is left. RFC 2852 §4.1.4.1.
    Time,
}
