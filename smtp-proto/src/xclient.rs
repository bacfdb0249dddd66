//! XCLIENT: a front end tells whose connection it passes on.
//!
//! ```text
//!  front end                         server
//!   EHLO ──────────────────────────▶ 250 … XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT
//!   XCLIENT ADDR=192.0.2.7 PORT=… ─▶ 220 greeting: the session begins anew, as that client's
//!   EHLO ──────────────────────────▶ 250 …
//! ```
//!
//! It is no standard. The syntax is that of Postfix, <https://www.postfix.org/XCLIENT_README.html>; values
//! are in xtext (RFC 3461 §4). Whether a client is believed is decided above: a server offers it to no one
//! by itself.

use alloc::string::{String, ToString as _};
use core::fmt;
use core::net::IpAddr;

use crate::client_name::ClientName;
use crate::xtext;

/// What a front end says of the client behind it. What it does not say is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XClient {
    /// `NAME`: the client's name in the DNS.
    pub name: Option<Told<ClientName>>,
    /// `ADDR`: its address.
    pub addr: Option<Told<IpAddr>>,
    /// `PORT`: its port.
    pub port: Option<Told<u16>>,
    /// `PROTO`: what it speaks.
    pub proto: Option<Proto>,
    /// `HELO`: what it calls itself.
    pub helo: Option<Told<ClientName>>,
    /// `LOGIN`: the name that it logged in with at the front end.
    pub login: Option<Told<String>>,
    /// `DESTADDR`: the address that it connected to.
    pub dest_addr: Option<Told<IpAddr>>,
    /// `DESTPORT`: the port that it connected to.
    pub dest_port: Option<Told<u16>>,
}

/// A value, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told<T> {
    /// This.
    Known(T),
    /// `[UNAVAILABLE]`: there is none.
    Unavailable,
    /// `[TEMPUNAVAIL]`: it could not be found out now.
    TempUnavailable,
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    /// It said HELO.
    Smtp,
    /// It said EHLO.
    Esmtp,
}

/// The attributes, in the order in which a server lists them.
pub(crate) const ATTRIBUTES: &str = "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT";

const UNAVAILABLE: &str = "[UNAVAILABLE]";
const TEMP_UNAVAILABLE: &str = "[TEMPUNAVAIL]";

impl XClient {
    /// Reads `NAME=value ADDR=value …`: at least one attribute, none twice, none that is not known.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut said = Self::default();
        for word in text.split(' ') {
            said.add(word)?;
        }
        Some(said)
    }

    fn add(&mut self, word: &str) -> Option<()> {
        let (attribute, value) = word.split_once('=')?;
        let value = xtext::decode(value, false)?;
        match attribute.to_ascii_uppercase().as_str() {
            "NAME" => once(&mut self.name, told(&value, client_name)?),
            "ADDR" => once(&mut self.addr, told(&value, address)?),
            "PORT" => once(&mut self.port, told(&value, port)?),
            "PROTO" => once(&mut self.proto, Proto::parse(&value)?),
            "HELO" => once(&mut self.helo, told(&value, client_name)?),
            "LOGIN" => once(&mut self.login, told(&value, login)?),
            "DESTADDR" => once(&mut self.dest_addr, told(&value, address)?),
            "DESTPORT" => once(&mut self.dest_port, told(&value, port)?),
            _ => None,
        }
    }
}

fn once<T>(field: &mut Option<T>, value: T) -> Option<()> {
    field.replace(value).is_none().then_some(())
}

fn told<T>(text: &str, read: fn(&str) -> Option<T>) -> Option<Told<T>> {
    if text.eq_ignore_ascii_case(UNAVAILABLE) {
        Some(Told::Unavailable)
    } else if text.eq_ignore_ascii_case(TEMP_UNAVAILABLE) {
        Some(Told::TempUnavailable)
    } else {
        read(text).map(Told::Known)
    }
}

fn client_name(text: &str) -> Option<ClientName> {
    ClientName::parse(text).ok()
}

fn login(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_string())
}

/// An IPv4 address, or an IPv6 address after `IPV6:`, which some leave out.
fn address(text: &str) -> Option<IpAddr> {
    let six = text
        .get(..5)
        .filter(|start| start.eq_ignore_ascii_case("IPV6:"));
    match six {
        Some(_) => text[5..].parse().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|octet| octet.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

impl Proto {
    fn parse(text: &str) -> Option<Self> {
        if text.eq_ignore_ascii_case("SMTP") {
            Some(Self::Smtp)
        } else if text.eq_ignore_ascii_case("ESMTP") {
            Some(Self::Esmtp)
        } else {
            None
        }
    }
}

/// Writes the attributes, as [`XClient::parse`] reads them.
impl fmt::Display for XClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        let mut write = |attribute: &str, value: Option<String>| match value {
            Some(value) => {
                let space = if core::mem::take(&mut first) { "" } else { " " };
                write!(f, "{space}{attribute}={}", xtext::Encoded(&value))
            }
            None => Ok(()),
        };
        write("NAME", text(&self.name, ClientName::to_string))?;
        write("ADDR", text(&self.addr, address_text))?;
        write("PORT", text(&self.port, u16::to_string))?;
        let proto = self.proto.map(|proto| match proto {
            Proto::Smtp => "SMTP".to_string(),
            Proto::Esmtp => "ESMTP".to_string(),
        });
        write("PROTO", proto)?;
        write("HELO", text(&self.helo, ClientName::to_string))?;
        write("LOGIN", text(&self.login, String::clone))?;
        write("DESTADDR", text(&self.dest_addr, address_text))?;
        write("DESTPORT", text(&self.dest_port, u16::to_string))
    }
}

fn text<T>(told: &Option<Told<T>>, write: fn(&T) -> String) -> Option<String> {
    told.as_ref().map(|told| match told {
        Told::Known(value) => write(value),
        Told::Unavailable => UNAVAILABLE.to_string(),
        Told::TempUnavailable => TEMP_UNAVAILABLE.to_string(),
    })
}

fn address_text(address: &IpAddr) -> String {
    match address {
        IpAddr::V4(four) => four.to_string(),
        IpAddr::V6(six) => alloc::format!("IPV6:{six}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_front_ends_send_round_trips() {
        for text in [
            "NAME=spike.example.org ADDR=192.0.2.7",
            "NAME=[UNAVAILABLE] ADDR=IPV6:2001:db8::7 PORT=40000 PROTO=ESMTP",
            "NAME=[TEMPUNAVAIL] HELO=a.example LOGIN=me+2Bthee@a.example",
            "ADDR=192.0.2.7 DESTADDR=192.0.2.1 DESTPORT=587",
            "PROTO=SMTP LOGIN=[UNAVAILABLE]",
        ] {
            let said = XClient::parse(text).unwrap();
            assert_eq!(said.to_string(), text);
        }
        let said = XClient::parse("addr=ipv6:::1 name=[unavailable] proto=smtp").unwrap();
        assert_eq!(said.addr, Some(Told::Known("::1".parse().unwrap())));
        assert_eq!(said.name, Some(Told::Unavailable));
        assert_eq!(said.proto, Some(Proto::Smtp));
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            " ",
            "ADDR",
            "ADDR=",
            "ADDR=1.2.3",
            "ADDR=IPV6:192.0.2.1",
            "ADDR=192.0.2.1  PORT=1",
            "ADDR=192.0.2.1 ADDR=192.0.2.2",
            "PORT=65536",
            "PORT=+1",
            "PROTO=LMTP",
            "NAME=a+0D+0Ab",
            "NAME=a+20b",
            "LOGIN=",
            "SSL=1",
        ] {
            assert_eq!(XClient::parse(text), None, "{text:?}");
        }
    }
}
