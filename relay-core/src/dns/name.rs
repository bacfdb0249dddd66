//! Names as they are asked for: A-labels, lower case, no last dot.
//!
//! RFC 1035 §2.3.4 (sizes), RFC 5890 (IDNA), RFC 5321 §2.3.5 (what a domain is).

use std::net::IpAddr;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

/// The longest name as text without its last dot: 255 octets on the wire. RFC 1035 §2.3.4.
const NAME_MAX: usize = 253;
/// The longest label. RFC 1035 §2.3.4.
const LABEL_MAX: usize = 63;

/// The form that is asked for of a domain that a person or a peer wrote.
///
/// # Errors
/// Why it is no name, in words.
pub(super) fn to_query_name(text: &str) -> Result<String, &'static str> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let name = if text.is_ascii() {
        text.to_ascii_lowercase()
    } else {
        // Quadratic work on long labels is cut off before it starts.
        if text.len() > 4 * NAME_MAX {
            return Err("it is longer than 253 octets");
        }
        Uts46::new()
            .to_ascii(
                text.as_bytes(),
                AsciiDenyList::STD3,
                Hyphens::Check,
                DnsLength::Verify,
            )
            .map_err(|_| "it is not a valid internationalized name")?
            .into_owned()
    };
    check(&name)?;
    Ok(name)
}

/// The form that is asked for of a name that need not be a host's: any printable octets will do.
///
/// # Errors
/// Why it cannot be asked for, in words.
pub(super) fn to_any_name(text: &str) -> Result<String, &'static str> {
    if !text.is_ascii() {
        return to_query_name(text);
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name.len() > NAME_MAX {
        return Err("it is longer than 253 octets");
    }
    if name.parse::<IpAddr>().is_ok() {
        return Err("it is an address");
    }
    let fits = |label: &str| (1..=LABEL_MAX).contains(&label.len());
    if !name.split('.').all(fits) {
        return Err("a label is empty, or longer than 63 octets");
    }
    if !name.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        return Err("it holds an octet that is not printed");
    }
    Ok(name)
}

/// Whether a name has the form of a host's: letters, digits, hyphens inside labels, and the
/// underscore that some hosts have in spite of RFC 952; and is not an IPv4 address.
pub(super) fn check(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it is empty");
    }
    if name.len() > NAME_MAX {
        return Err("it is longer than 253 octets");
    }
    for label in name.split('.') {
        if label.is_empty() {
            return Err("a label is empty");
        }
        if label.len() > LABEL_MAX {
            return Err("a label is longer than 63 octets");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("a label begins or ends with a hyphen");
        }
        if !label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        {
            return Err("it holds a character that no host name has");
        }
    }
    // No top-level domain is all digits (RFC 3696 §2): this is an address, or the start of one.
    let last = name.rsplit('.').next().unwrap_or(name);
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return Err("it is a number or an address, not a name");
    }
    Ok(())
}

/// Whether a name means this host by RFC 6761 §6.3, whatever a server would say.
pub(super) fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

/// The name under which the names of an address are found. RFC 1035 §3.5, RFC 3596 §2.5.
pub fn reverse(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{d}.{c}.{b}.{a}.in-addr.arpa")
        }
        IpAddr::V6(ip) => {
            let mut name = String::with_capacity(72);
            for octet in ip.octets().iter().rev() {
                name.push_str(&format!("{:x}.{:x}.", octet & 15, octet >> 4));
            }
            name.push_str("ip6.arpa");
            name
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_brought_into_one_form() {
        for (text, name) in [
            ("Example.COM", "example.com"),
            ("example.com.", "example.com"),
            ("a_b.example", "a_b.example"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.Example.", "xn--bcher-kva.example"),
            ("日本語。jp", "xn--wgv71a119e.jp"),
            ("3com.com", "3com.com"),
        ] {
            assert_eq!(to_query_name(text).as_deref(), Ok(name), "{text}");
        }
    }

    #[test]
    fn what_is_no_name_is_never_asked_for() {
        let label = "a".repeat(64);
        let long = vec!["abcdefg"; 32].join(".");
        for bad in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a b.example",
            "a\0.example",
            "a\r\n.example",
            "-a.example",
            "a-.example",
            "192.0.2.1",
            "192.0.2.1.",
            "[192.0.2.1]",
            "::1",
            "a@b",
            "a/b.example",
            "ü-.example",
            "\u{200d}.example",
            "xn--\u{fc}.example",
            &label,
            &long,
        ] {
            assert!(to_query_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn reverse_names() {
        assert_eq!(
            reverse("192.0.2.1".parse().unwrap()),
            "1.2.0.192.in-addr.arpa"
        );
        assert_eq!(
            reverse("2001:db8::567:89ab".parse().unwrap()),
            "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"
        );
    }
}
