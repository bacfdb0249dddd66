//! How much of anything a peer may send.
//!
//! The sizes of RFC 5321 §4.5.3.1, and of RFC 4954 §4 for AUTH; the counts are ours.

use crate::command::upper;

/// The longest command line, with its CRLF. RFC 5321 §4.5.3.1.4.
pub const COMMAND_LINE_MAX: usize = 512;
/// The longest MAIL or RCPT line, with its CRLF: 512 and what the extensions add to it.
///
/// RFC 3461 §5.4 asks for 1036 with ORCPT and NOTIFY; the other extensions add to MAIL.
pub const ENVELOPE_LINE_MAX: usize = 2048;
/// The longest line of an authentication exchange, with its CRLF. RFC 4954 §4.
pub const AUTH_LINE_MAX: usize = 12_288;
/// The longest reply line that is written, with its CRLF. RFC 5321 §4.5.3.1.5.
pub const REPLY_LINE_MAX: usize = 512;
/// How many octets of one over-long line are read to find its end.
pub const LINE_SKIP_MAX: usize = 64 * 1024;

/// The longest line that may begin with these octets, with its CRLF.
#[must_use]
pub fn command_line_max(start: &[u8]) -> usize {
    const AUTH: u32 = upper(*b"AUTH");
    const MAIL: u32 = upper(*b"MAIL");
    const RCPT: u32 = upper(*b"RCPT");
    let Some(verb) = start.first_chunk() else {
        return COMMAND_LINE_MAX;
    };
    match upper(*verb) {
        AUTH => AUTH_LINE_MAX,
        MAIL | RCPT => ENVELOPE_LINE_MAX,
        _ => COMMAND_LINE_MAX,
    }
}

/// What one server connection takes, before it refuses or ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest message, in octets; also what SIZE offers. RFC 1870.
    pub message_size: u64,
    /// The most recipients of a message. RFC 5321 §4.5.3.1.10 asks for at least 100.
    pub recipients: u32,
    /// How many octets of a body that is already refused are read to find its end.
    pub discard: u64,
    /// How many erroneous commands are answered until a message goes through.
    pub errors: u32,
    /// How many commands that lead nowhere (NOOP, RSET, VRFY, refused MAIL, empty chunks) are
    /// answered until a message goes through.
    pub junk: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_size: 50 << 20,
            recipients: 1000,
            discard: 1 << 30,
            errors: 20,
            junk: 100,
        }
    }
}
