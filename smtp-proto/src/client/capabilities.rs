//! What a server offers: its reply to EHLO or LHLO, read tolerantly.
//!
//! Servers write these lines in odd case and spacing, twice, and with parameters that nobody defined.
//! A line that is not understood offers nothing; it never makes the reply an error. Where two lines
//! name a limit, the smaller one counts.
//!
//! RFC 5321 §4.1.1.1 (EHLO), and the documents named at each field.

use crate::extension::{Extension, Extensions, Mechanism, Mechanisms};
use crate::reply::Reply;

/// What the server offered in its last reply to EHLO or LHLO. Nothing after HELO, after STARTTLS and
/// before any hello.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The extensions.
    pub extensions: Extensions,
    /// The mechanisms of AUTH that this crate knows by name. RFC 4954 §3.
    pub mechanisms: Mechanisms,
    /// The largest message in bytes. RFC 1870 §4: zero means no fixed limit, as does no number.
    pub size_max: Option<u64>,
    /// The most transactions on one connection. RFC 9422.
    pub mail_max: Option<u32>,
    /// The most recipients in one transaction. RFC 9422.
    pub rcpt_max: Option<u32>,
    /// The most recipient domains in one transaction. RFC 9422.
    pub rcpt_domain_max: Option<u32>,
    /// The smallest by-time in seconds that the server takes with mode R. RFC 2852 §3.
    pub by_min_secs: Option<u32>,
    /// The longest hold in seconds. RFC 4865 §3.
    pub hold_max_secs: Option<u64>,
}

impl Capabilities {
    /// Reads a successful reply to EHLO or LHLO.
    ///
    /// Its first line is the server's name and greeting and offers nothing.
    pub fn parse(reply: &Reply) -> Self {
        let mut offered = Self::default();
        for line in reply.lines().skip(1) {
            offered.add_line(line);
        }
        offered
    }

    /// Whether an extension is offered.
    ///
    /// BINARYMIME without CHUNKING is no offer: such a body has no other way. RFC 3030 §3.
    pub fn has(&self, extension: Extension) -> bool {
        let usable = extension != Extension::BinaryMime || self.extensions.has(Extension::Chunking);
        usable && self.extensions.has(extension)
    }

    fn add_line(&mut self, line: &str) {
        // `AUTH=LOGIN PLAIN` is how it was written before RFC 2554, and `SIZE=100` is met too.
        let mut words = line.split([' ', '=']).filter(|word| !word.is_empty());
        let Some(extension) = words.next().and_then(Extension::from_keyword) else {
            return;
        };
        self.extensions = self.extensions.with(extension);
        match extension {
            Extension::Auth => {
                for mechanism in words.filter_map(Mechanism::from_name) {
                    self.mechanisms = self.mechanisms.with(mechanism);
                }
            }
            Extension::Size => {
                lower(
                    &mut self.size_max,
                    words.next().and_then(number).filter(|&max| max > 0),
                );
            }
            Extension::DeliverBy => lower(&mut self.by_min_secs, words.next().and_then(number)),
            Extension::FutureRelease => {
                lower(&mut self.hold_max_secs, words.next().and_then(number));
            }
            Extension::Limits => self.add_limits(line),
            Extension::Pipelining | Extension::EightBitMime | Extension::SmtpUtf8 => {}
            Extension::EnhancedStatusCodes | Extension::Dsn | Extension::Chunking => {}
            Extension::BinaryMime | Extension::StartTls | Extension::RequireTls => {}
            Extension::MtPriority | Extension::XClient => {}
        }
    }

    /// RFC 9422 §3: `LIMITS name=value ...`; names that are not known are ignored, and so is a value
    /// that is not a number over zero.
    fn add_limits(&mut self, line: &str) {
        for (name, value) in line.split(' ').filter_map(|word| word.split_once('=')) {
            let value = number(value).filter(|&value| value > 0);
            match name.to_ascii_uppercase().as_str() {
                "MAILMAX" => lower(&mut self.mail_max, value),
                "RCPTMAX" => lower(&mut self.rcpt_max, value),
                "RCPTDOMAINMAX" => lower(&mut self.rcpt_domain_max, value),
                _ => {}
            }
        }
    }
}

/// Sets a limit to the smaller of what it is and what was just read.
fn lower<T: Ord>(limit: &mut Option<T>, read: Option<T>) {
    *limit = match (limit.take(), read) {
        (Some(old), Some(new)) => Some(old.min(new)),
        (old, new) => old.or(new),
    };
}

/// Digits and nothing else; `from_str` alone would take a sign.
fn number<T: core::str::FromStr>(text: &str) -> Option<T> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &[&str]) -> Capabilities {
        let mut all = alloc::vec!["mx.example.org greets you"];
        all.extend_from_slice(lines);
        let code = crate::code::Code::new(250).unwrap();
        Capabilities::parse(&Reply::new(code, &all).unwrap())
    }

    #[test]
    fn all_that_is_known() {
        let offered = parse(&[
            "PIPELINING",
            "SIZE 35882577",
            "8BITMIME",
            "SMTPUTF8",
            "STARTTLS",
            "AUTH PLAIN LOGIN SCRAM-SHA-256",
            "DSN",
            "CHUNKING",
            "BINARYMIME",
            "ENHANCEDSTATUSCODES",
            "REQUIRETLS",
            "LIMITS MAILMAX=100 RCPTMAX=50 RCPTDOMAINMAX=1",
            "DELIVERBY 240",
            "FUTURERELEASE 864000 2030-01-01T00:00:00Z",
            "MT-PRIORITY MIXER",
            "XCLIENT NAME ADDR",
            "X-UNKNOWN",
        ]);
        let expected = Capabilities {
            extensions: Extension::ALL.into_iter().collect(),
            mechanisms: [Mechanism::Plain, Mechanism::Login, Mechanism::ScramSha256]
                .into_iter()
                .collect(),
            size_max: Some(35_882_577),
            mail_max: Some(100),
            rcpt_max: Some(50),
            rcpt_domain_max: Some(1),
            by_min_secs: Some(240),
            hold_max_secs: Some(864_000),
        };
        assert_eq!(offered, expected);
    }

    #[test]
    fn odd_case_and_spacing() {
        let offered = parse(&[
            "  pipelining ",
            "Size\t 100",
            "auth\tplain  Login ",
            "AUTH=PLAIN CRAM-MD5 X-OWN",
        ]);
        assert!(offered.has(Extension::Pipelining));
        assert_eq!(offered.size_max, Some(100));
        let expected = [Mechanism::Plain, Mechanism::Login, Mechanism::CramMd5];
        assert!(offered.mechanisms.iter().eq(expected));
    }

    #[test]
    fn sizes() {
        for (lines, size, size_max) in [
            (&["SIZE"][..], true, None),
            (&["SIZE 0"], true, None),
            (&["SIZE=10"], true, Some(10)),
            (&["SIZE 10", "SIZE 9", "SIZE"], true, Some(9)),
            (&["SIZE +5"], true, None),
            (&["SIZE 99999999999999999999999"], true, None),
            (&["SIZED 5"], false, None),
        ] {
            let offered = parse(lines);
            let read = (offered.has(Extension::Size), offered.size_max);
            assert_eq!(read, (size, size_max), "{lines:?}");
        }
    }

    #[test]
    fn binary_bodies_need_chunks() {
        assert!(!parse(&["BINARYMIME"]).has(Extension::BinaryMime));
        assert!(parse(&["BINARYMIME", "CHUNKING"]).has(Extension::BinaryMime));
    }

    #[test]
    fn useless_limits_are_ignored() {
        let offered = parse(&[
            "LIMITS RCPTMAX=0 MAILMAX=x RCPTDOMAINMAX",
            "LIMITS rcptmax=7 FOO=1",
        ]);
        assert_eq!((offered.rcpt_max, offered.mail_max), (Some(7), None));
        assert_eq!(offered.rcpt_domain_max, None);
    }

    #[test]
    fn the_first_line_offers_nothing() {
        let reply = Reply::parse(b"250 PIPELINING\r\n").unwrap();
        assert_eq!(Capabilities::parse(&reply), Capabilities::default());
    }
}
