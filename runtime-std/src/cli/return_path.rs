//! `trace ADDRESS`: which message a return path names.

use std::fmt;
use std::io::Write;
use std::path::Path;

use relay_core::bounce::return_path::NotOurs;
use smtp_proto::Mailbox;

use super::Failure;
use super::credential::Format;
use crate::clock::Clock;
use crate::load;

/// The id of the message. One whose time is over is told nevertheless: an operator asks.
pub(super) fn message_of(
    data_dir: &Path,
    address: &str,
    format: Format,
    out: &mut dyn Write,
) -> Result<String, Failure> {
    let no = |why: &dyn fmt::Display| Failure::Said(format!("{address} is no return path: {why}"));
    let mailbox = Mailbox::parse(address).map_err(|error| no(&error))?;
    let keys = load::return_path::read(data_dir).map_err(Failure::said)?;
    let keys = keys.ok_or_else(|| no(&"there are no keys in the data directory"))?;
    let token = match keys.verify(&mailbox, Clock::new().now().unix) {
        Ok(token) | Err(NotOurs::Expired(token)) => token,
        Err(why @ (NotOurs::Form | NotOurs::UnknownKey(_) | NotOurs::Forged)) => {
            return Err(no(&why));
        }
    };
    if format == Format::Text {
        writeln!(
            out,
            "The return path of recipient {} of message {}; it counts until {}",
            token.recipient + 1,
            token.message,
            token.expires
        )?;
    }
    Ok(token.message.to_string())
}
