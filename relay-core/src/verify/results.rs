//! The Authentication-Results field: what was verified, for those who read the message after us.
//!
//! RFC 8601 §2.2 (syntax), §2.7 (results), §5 (forged ones are removed), RFC 8617 §4.1.1.

use smtp_proto::Domain;

use super::arc::ArcResult;
use super::{Identified, Verdict};

/// The name of the field.
pub(crate) const NAME: &str = "Authentication-Results";

impl Verdict {
    /// The field with its CRLF, by this host.
    #[must_use]
    pub fn field(&self, hostname: &Domain) -> String {
        format!("{NAME}: {}\r\n", self.text(hostname))
    }

    /// The value of the field, without CRLF at its end.
    pub(crate) fn text(&self, hostname: &Domain) -> String {
        let mut results = vec![self.spf_text()];
        for dkim in &self.dkim {
            let mut text = format!("dkim={}", dkim.result);
            if let Some(why) = dkim.why {
                text.push_str(&format!(" reason=\"{why}\""));
            }
            if !dkim.domain.is_empty() {
                text.push_str(&format!(
                    " header.d={} header.s={} header.a={}",
                    dkim.domain, dkim.selector, dkim.algorithm
                ));
                let start = &dkim.start;
                let plain = |c: char| c.is_ascii_alphanumeric();
                if start.chars().all(plain) {
                    text.push_str(&format!(" header.b={start}"));
                } else {
                    // `/`, `+` and `=` stand in no token. RFC 2045 §5.1.
                    text.push_str(&format!(" header.b=\"{}\"", harmless(start)));
                }
            }
            results.push(text);
        }
        if self.dkim.is_empty() {
            results.push("dkim=none".into());
        }
        let dmarc = &self.dmarc;
        let mut text = format!("dmarc={}", dmarc.result);
        if !dmarc.domain.is_empty() {
            text.push_str(&format!(
                " (p={}) header.from={}",
                dmarc.policy, dmarc.domain
            ));
        }
        results.push(text);
        results.push(self.arc_text());
        format!("{hostname};\r\n\t{}", results.join(";\r\n\t"))
    }

    fn spf_text(&self) -> String {
        let spf = &self.spf;
        let domain = value(&spf.domain);
        let identity = match spf.identity {
            _ if domain.is_empty() => String::new(),
            Identified::MailFrom => format!(" smtp.mailfrom={domain}"),
            Identified::Helo => format!(" smtp.helo={domain}"),
        };
        format!("spf={}{identity}", spf.result)
    }

    fn arc_text(&self) -> String {
        let arc = &self.arc;
        let ip = match self.ip {
            std::net::IpAddr::V4(ip) => ip.to_string(),
            std::net::IpAddr::V6(ip) => format!("\"{ip}\""),
        };
        let result = match arc.result {
            ArcResult::None => return format!("arc=none smtp.remote-ip={ip}"),
            ArcResult::Pass => "pass",
            ArcResult::Fail | ArcResult::TempError => "fail",
        };
        let why = arc
            .why
            .map_or(String::new(), |why| format!(" reason=\"{why}\""));
        let sealer = &arc.sealer;
        format!(
            "arc={result}{why} (i={} d={sealer}) smtp.remote-ip={ip}",
            arc.sets
        )
    }
}

/// What a peer said, as a domain or a quoted string, and nothing where it said nothing. RFC 8601 §2.2.
fn value(text: &str) -> String {
    let harmless = harmless(text);
    let is_domain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if harmless.chars().all(is_domain) {
        harmless
    } else {
        format!("\"{harmless}\"")
    }
}

/// What a peer said, as characters that mean nothing in a quoted string.
fn harmless(text: &str) -> String {
    let harmless = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_' | '+' | '/' | '=' => c,
        '[' | ']' | ':' => c,
        _ => '?',
    };
    text.chars().take(253).map(harmless).collect()
}

/// Whether a value of this field claims to come from `hostname`. What cannot be read is taken for a
/// claim: some reader may read it. RFC 8601 §2.2, §5.
pub(crate) fn claims_to_be(value: &[u8], hostname: &str) -> bool {
    let Some(text) = skip_comments(value) else {
        return true;
    };
    let name: Vec<u8> = match text.strip_prefix(b"\"") {
        Some(quoted) => {
            let Some(end) = memchr::memchr(b'"', quoted) else {
                return true;
            };
            quoted[..end]
                .iter()
                .copied()
                .filter(|&b| b != b'\\')
                .collect()
        }
        None => {
            let ends = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n' | b';' | b'(');
            let end = text.iter().position(ends).unwrap_or(text.len());
            text[..end].to_vec()
        }
    };
    name.trim_ascii().eq_ignore_ascii_case(hostname.as_bytes())
}

/// What follows white space and comments; none if a comment does not end. RFC 5322 §3.2.2.
fn skip_comments(value: &[u8]) -> Option<&[u8]> {
    let mut rest = value.trim_ascii_start();
    while rest.first() == Some(&b'(') {
        let mut depth = 0usize;
        let mut octets = rest.iter().enumerate();
        let end = loop {
            match octets.next()? {
                (_, b'\\') => drop(octets.next()),
                (_, b'(') => depth += 1,
                (at, b')') => {
                    depth -= 1;
                    if depth == 0 {
                        break at;
                    }
                }
                (_, _) => {}
            }
        };
        rest = rest[end + 1..].trim_ascii_start();
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::claims_to_be;

    #[test]
    fn a_claim_is_seen_in_every_guise() {
        for claim in [
            " relay.example; spf=pass",
            "\r\n\tRELAY.example 1; none",
            " (a (nested \\) one)) (b) relay.example(c); spf=pass",
            "\"relay.example\"; none",
            " \"re\\lay.example\" ; none",
            "relay.example",
            " (without end relay.other; none",
            " \"without end; none",
        ] {
            assert!(claims_to_be(claim.as_bytes(), "relay.example"), "{claim:?}");
        }
        for other in [
            " relay.example.org; none",
            "example; none",
            "",
            " ; relay.example",
        ] {
            assert!(
                !claims_to_be(other.as_bytes(), "relay.example"),
                "{other:?}"
            );
        }
    }
}
