//! The end of a record: how the message is to be handled. A record of a message that is to be handled
//! like any other has none.

use smtp_proto::{AuthParam, ByMode, Domain, Priority};

use super::wire::{Reader, Writer};
use super::{Invalid, VERSION_RETURN_PATH};
use crate::queue::handling::{Deadline, Handling, TlsWish};
use crate::time::UnixTime;

const MODE_NONE: u8 = 0;
const MODE_NOTIFY: u8 = 1;
const MODE_RETURN: u8 = 2;
const TRACE: u8 = 4;

/// What stands for no priority: none is as low.
const PRIORITY_NONE: i8 = i8::MIN;

pub(super) fn write(writer: &mut Writer<'_>, handling: &Handling) {
    writer.u8(match handling.tls {
        TlsWish::AsConfigured => 0,
        TlsWish::Required => 1,
        TlsWish::NotRequired => 2,
    });
    // No message was ever to be released at the start of 1970.
    writer.u64(handling.release.map_or(0, UnixTime::as_millis));
    match handling.deadline {
        None => writer.u8(MODE_NONE),
        Some(Deadline { at, mode, trace }) => {
            let mode = match mode {
                ByMode::Notify => MODE_NOTIFY,
                ByMode::Return => MODE_RETURN,
            };
            writer.u8(mode | if trace { TRACE } else { 0 });
            writer.u64(at.as_millis());
        }
    }
    let level = handling.priority.map_or(PRIORITY_NONE, Priority::level);
    writer.u8(level.to_le_bytes()[0]);
    writer.optional_text(handling.submitter.as_ref());
    if let Some(domain) = &handling.return_path {
        writer.text(domain);
    }
}

pub(super) fn read(reader: &mut Reader<'_>, version: u8) -> Result<Handling, Invalid> {
    let tls = match reader.u8()? {
        0 => TlsWish::AsConfigured,
        1 => TlsWish::Required,
        2 => TlsWish::NotRequired,
        _ => return Err(Invalid::Content("an unknown wish for TLS")),
    };
    let release = match reader.u64()? {
        0 => None,
        millis => Some(UnixTime::from_millis(millis)),
    };
    let bits = reader.u8()?;
    let mode = match bits & !TRACE {
        MODE_NONE => None,
        MODE_NOTIFY => Some(ByMode::Notify),
        MODE_RETURN => Some(ByMode::Return),
        _ => return Err(Invalid::Content("an unknown way to be late")),
    };
    let deadline = match mode {
        None => None,
        Some(mode) => Some(Deadline {
            at: UnixTime::from_millis(reader.u64()?),
            mode,
            trace: bits & TRACE != 0,
        }),
    };
    let priority = match i8::from_le_bytes([reader.u8()?]) {
        PRIORITY_NONE => None,
        level => Some(Priority::new(level).ok_or(Invalid::Content("an unknown priority"))?),
    };
    let submitter = reader
        .optional_text()?
        .map(|text| AuthParam::parse(text).ok_or(Invalid::Content("an invalid submitter")));
    let submitter = submitter.transpose()?;
    let return_path = match version {
        VERSION_RETURN_PATH => {
            let domain = Domain::parse(reader.text()?);
            Some(domain.map_err(|_| Invalid::Content("an invalid return path"))?)
        }
        _ => None,
    };
    Ok(Handling {
        tls,
        release,
        deadline,
        priority,
        submitter,
        return_path,
    })
}
