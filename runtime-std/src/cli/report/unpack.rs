//! From a file to the reports in it: out of mails, gzip and zip, within bounds.
//!
//! ```text
//!  octets ─┬─ 1f 8b ──▶ gunzip ──────┐
//!          ├─ PK ─────▶ each entry ──┼──▶ again, at most 4 deep, at most 64 MiB in all
//!          ├─ a mail ─▶ each part ───┘
//!          ├─ "{" ────▶ TLS-RPT
//!          └─ "<" ────▶ DMARC
//! ```
//!
//! What a file is says its content, not its name: both lie. Whoever sends a report may send a small
//! file that unpacks to a large one; what is past the bound is an error, and nothing of it is shown.

use std::fmt;
use std::io::{self, Cursor, Read};

use flate2::read::MultiGzDecoder;
use mail_parser::{Message, MessageParser, PartType};
use zip::ZipArchive;

use super::{Report, dmarc, tls};

/// How much is unpacked of one file, in octets, the file included.
pub(super) const SIZE_MAX: usize = 64 * 1024 * 1024;
/// How many containers may lie in each other: a mail, a forwarded mail, zip, gzip.
const DEPTH_MAX: usize = 4;
/// How many entries of a zip, and parts of a mail, are looked at.
const PARTS_MAX: usize = 1000;

/// Why there is no report in a file.
#[derive(Debug)]
pub(super) enum UnpackError {
    /// It unpacks to more than [`SIZE_MAX`].
    TooLarge,
    /// Too many containers in each other, or too many entries in one.
    TooDeep,
    /// It is damaged.
    Damaged(&'static str, String),
    /// It is no report and holds none.
    Nothing,
}

impl fmt::Display for UnpackError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => write!(
                f,
                "unpacks to more than {} MiB: no report is that large",
                SIZE_MAX >> 20
            ),
            Self::TooDeep => f.write_str("holds too many parts, or parts in parts"),
            Self::Damaged(what, why) => write!(f, "is no {what} that can be read: {why}"),
            Self::Nothing => f.write_str(
                "holds no report: neither TLS-RPT (JSON) nor DMARC aggregate (XML), plain, in gzip, \
                 zip or a mail",
            ),
        }
    }
}

impl std::error::Error for UnpackError {}

/// The reports in a file.
pub(super) fn unpack(octets: &[u8]) -> Result<Vec<Report>, UnpackError> {
    let mut unpacker = Unpacker {
        left: SIZE_MAX
            .checked_sub(octets.len())
            .ok_or(UnpackError::TooLarge)?,
        found: Vec::new(),
    };
    unpacker.open(octets, 0)?;
    if unpacker.found.is_empty() {
        return Err(UnpackError::Nothing);
    }
    Ok(unpacker.found)
}

struct Unpacker {
    /// Octets that may still be made.
    left: usize,
    found: Vec<Report>,
}

impl Unpacker {
    fn open(&mut self, octets: &[u8], depth: usize) -> Result<(), UnpackError> {
        if depth > DEPTH_MAX {
            return Err(UnpackError::TooDeep);
        }
        let text = octets.strip_prefix(b"\xef\xbb\xbf").unwrap_or(octets);
        match text.trim_ascii_start() {
            [0x1f, 0x8b, ..] => {
                let inside = self.read(MultiGzDecoder::new(octets), "gzip")?;
                self.open(&inside, depth + 1)
            }
            [b'P', b'K', 3 | 5, 4 | 6, ..] => self.open_zip(octets, depth),
            [b'{', ..] => {
                let report = tls::parse(text)
                    .map_err(|error| UnpackError::Damaged("TLS report", error.to_string()))?;
                self.found.push(Report::Tls(report));
                Ok(())
            }
            [b'<', ..] => {
                let report = dmarc::parse(text)
                    .map_err(|error| UnpackError::Damaged("DMARC report", error))?;
                self.found.push(Report::Dmarc(report));
                Ok(())
            }
            _ => match MessageParser::new().parse(octets) {
                Some(message) => self.open_mail(&message, depth),
                None => Err(UnpackError::Nothing),
            },
        }
    }

    fn open_zip(&mut self, octets: &[u8], depth: usize) -> Result<(), UnpackError> {
        let damaged = |error: zip::result::ZipError| UnpackError::Damaged("zip", error.to_string());
        let mut archive = ZipArchive::new(Cursor::new(octets)).map_err(damaged)?;
        if archive.len() > PARTS_MAX {
            return Err(UnpackError::TooDeep);
        }
        for at in 0..archive.len() {
            let entry = archive.by_index(at).map_err(damaged)?;
            if entry.is_file() {
                let inside = self.read(entry, "zip")?;
                self.open(&inside, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Looks at each part that may be a report. A mail says many things beside, so what is none is left.
    fn open_mail(&mut self, message: &Message<'_>, depth: usize) -> Result<(), UnpackError> {
        if message.parts.len() > PARTS_MAX {
            return Err(UnpackError::TooDeep);
        }
        for part in &message.parts {
            match &part.body {
                PartType::Message(inner) if depth < DEPTH_MAX => {
                    self.open_mail(inner, depth + 1)?
                }
                PartType::Message(_) => return Err(UnpackError::TooDeep),
                PartType::Multipart(_) | PartType::Html(_) => {}
                PartType::Text(_) | PartType::Binary(_) | PartType::InlineBinary(_) => {
                    let octets = part.contents();
                    if is_report(octets) {
                        self.open(octets, depth + 1)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// All that a decoder gives, if that is within what is left.
    fn read(&mut self, from: impl Read, what: &'static str) -> Result<Vec<u8>, UnpackError> {
        let mut octets = Vec::new();
        let more = self.left as u64 + 1;
        from.take(more)
            .read_to_end(&mut octets)
            .map_err(|error: io::Error| UnpackError::Damaged(what, error.to_string()))?;
        self.left = self
            .left
            .checked_sub(octets.len())
            .ok_or(UnpackError::TooLarge)?;
        Ok(octets)
    }
}

/// Whether the part of a mail looks like a report, or like a container that may hold one.
fn is_report(octets: &[u8]) -> bool {
    let text = octets.strip_prefix(b"\xef\xbb\xbf").unwrap_or(octets);
    matches!(
        text.trim_ascii_start(),
        [0x1f, 0x8b, ..] | [b'P', b'K', 3, 4, ..] | [b'{', ..] | [b'<', b'?' | b'f', ..]
    )
}
