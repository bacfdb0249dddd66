//! The PROXY protocol, versions 1 and 2: who the client is, in the words of the proxy before us.
//!
//! It is read only on listeners that ask for it, and only once, before any other octet. A header that
//! is not one ends the connection: a client that reaches such a listener around its proxy is not served.
//!
//! Source: the PROXY protocol, <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The first octets of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest header of version 1, CRLF included. §2.1.
const V1_MAX: usize = 107;

/// The longest rest of a version 2 header that is taken: addresses, and far more extensions than any
/// proxy writes.
const V2_REST_MAX: usize = 2048;

/// What the octets so far are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header.
    Partial,
    /// A whole header.
    Header {
        /// Its length in octets: what follows is the client's.
        used: usize,
        /// The client; none if the proxy speaks for itself (`LOCAL`, `UNKNOWN`).
        client: Option<SocketAddr>,
    },
    /// No header.
    Invalid,
}

/// Reads a header from the first octets of a connection.
pub fn parse(bytes: &[u8]) -> Parsed {
    let common = bytes.len().min(SIGNATURE.len());
    if bytes[..common] == SIGNATURE[..common] {
        // Both versions need more than the signature to say anything.
        return if common < SIGNATURE.len() {
            Parsed::Partial
        } else {
            version_2(bytes)
        };
    }
    version_1(bytes)
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 56324 25\r\n`. §2.1.
fn version_1(bytes: &[u8]) -> Parsed {
    const START: &[u8] = b"PROXY ";
    let common = bytes.len().min(START.len());
    if bytes[..common] != START[..common] {
        return Parsed::Invalid;
    }
    let Some(end) = bytes.iter().take(V1_MAX).position(|&byte| byte == b'\n') else {
        return if bytes.len() < V1_MAX {
            Parsed::Partial
        } else {
            Parsed::Invalid
        };
    };
    let used = end + 1;
    let line = std::str::from_utf8(&bytes[..end])
        .ok()
        .and_then(|line| line.strip_suffix('\r'));
    let Some(line) = line else {
        return Parsed::Invalid;
    };
    let words: Vec<&str> = line.split(' ').skip(1).collect();
    match words.as_slice() {
        ["UNKNOWN", ..] => Parsed::Header { used, client: None },
        [
            family @ ("TCP4" | "TCP6"),
            source,
            destination,
            port,
            destination_port,
        ] => {
            let address = |text: &str| -> Option<IpAddr> {
                let address: IpAddr = text.parse().ok()?;
                (address.is_ipv4() == (*family == "TCP4")).then_some(address)
            };
            let client = address(source).zip(port.parse().ok());
            let ours = address(destination).zip(destination_port.parse::<u16>().ok());
            match (client, ours) {
                (Some(client), Some(_)) => Parsed::Header {
                    used,
                    client: Some(SocketAddr::from(client)),
                },
                (Some(_) | None, _) => Parsed::Invalid,
            }
        }
        _ => Parsed::Invalid,
    }
}

/// Signature, version and command, family, length, addresses, extensions. §2.2.
fn version_2(bytes: &[u8]) -> Parsed {
    let Some((&[kind, family, high, low], rest)) = bytes[SIGNATURE.len()..].split_first_chunk()
    else {
        return Parsed::Partial;
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if kind >> 4 != 2 || length > V2_REST_MAX {
        return Parsed::Invalid;
    }
    let Some(rest) = rest.get(..length) else {
        return Parsed::Partial;
    };
    let used = SIGNATURE.len() + 4 + length;
    match (kind & 0x0f, family) {
        (0, _) => Parsed::Header { used, client: None },
        (1, 0x11) => header(used, client_v4(rest)),
        (1, 0x21) => header(used, client_v6(rest)),
        // UNSPEC, datagrams and Unix sockets name no client that a limit or a record could use.
        (1, _) => Parsed::Header { used, client: None },
        (_, _) => Parsed::Invalid,
    }
}

fn header(used: usize, client: Option<SocketAddr>) -> Parsed {
    client.map_or(Parsed::Invalid, |client| Parsed::Header {
        used,
        client: Some(client),
    })
}

/// Source and destination address, source and destination port.
fn client_v4(rest: &[u8]) -> Option<SocketAddr> {
    let addresses = rest.first_chunk::<12>()?;
    let source = Ipv4Addr::from(*addresses.first_chunk::<4>()?);
    Some((source, u16::from_be_bytes([addresses[8], addresses[9]])).into())
}

fn client_v6(rest: &[u8]) -> Option<SocketAddr> {
    let addresses = rest.first_chunk::<36>()?;
    let source = Ipv6Addr::from(*addresses.first_chunk::<16>()?);
    Some((source, u16::from_be_bytes([addresses[32], addresses[33]])).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> Option<SocketAddr> {
        Some(text.parse().unwrap())
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn every_header_is_read_and_each_of_its_beginnings_is_partial() {
        let v4 = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 0, 25];
        let mut v6 = [0; 36];
        v6[15] = 9;
        v6[33] = 99;
        let mut with_extension = v4.to_vec();
        with_extension.extend([4, 0, 1, 0]);
        for (bytes, expected) in [
            (
                b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 25\r\n".to_vec(),
                client("192.0.2.1:56324"),
            ),
            (
                b"PROXY TCP6 2001:db8::1 2001:db8::2 5 25\r\n".to_vec(),
                client("[2001:db8::1]:5"),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ff::1 ff::2 1 2\r\n".to_vec(), None),
            (v2(0x21, 0x11, &v4), client("192.0.2.1:56324")),
            (v2(0x21, 0x11, &with_extension), client("192.0.2.1:56324")),
            (v2(0x21, 0x21, &v6), client("[::9]:99")),
            (v2(0x20, 0, &[]), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ] {
            let used = bytes.len();
            for length in 0..used {
                assert_eq!(
                    parse(&bytes[..length]),
                    Parsed::Partial,
                    "{length} of {bytes:?}"
                );
            }
            let mut more = bytes.clone();
            more.extend(b"EHLO a\r\n");
            assert_eq!(
                parse(&more),
                Parsed::Header {
                    used,
                    client: expected
                }
            );
        }
    }

    #[test]
    fn what_is_no_header_is_invalid() {
        for bytes in [
            b"EHLO a\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 25\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 2001:db8::2 5 25\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 198.51.100.1 70000 25\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1\r\n".to_vec(),
            b"PROXY\r\n".to_vec(),
            b"PROXY ".repeat(40),
            v2(0x11, 0x11, &[0; 12]),
            v2(0x22, 0x11, &[0; 12]),
            v2(0x21, 0x11, &[0; 11]),
            v2(0x21, 0x11, &[0; 3000]),
        ] {
            assert_eq!(parse(&bytes), Parsed::Invalid, "{bytes:?}");
        }
    }
}
