//! A report from the store to the queue: the original is read back, and the report written about it.

use std::sync::Arc;

use bytes::Bytes;

use super::{original_len, write};
use crate::config::SigningDomain;
use crate::engine::{NotWritten, ReportDue, Submission};
use crate::outbound::Loaded;
use crate::queue::message::{Body, Message};
use crate::queue::store::{LoadFailed, Store};

/// Writes the report that the engine wants, and signs it. It waits for the disk.
///
/// # Errors
/// [`NotWritten`].
pub fn write_due(
    due: &ReportDue,
    store: &dyn Store,
    domains: &[Arc<SigningDomain>],
) -> Result<Box<Submission>, NotWritten> {
    let original = match &due.original {
        Some(original) => Arc::clone(original),
        None => match store.load(due.report.about, due.place) {
            Ok((message, body)) => Arc::new(Loaded { message, body }),
            Err(LoadFailed::Damaged(why)) => return Err(NotWritten::Damaged(why)),
            Err(LoadFailed::Io(why)) => return Err(NotWritten::Later(why)),
        },
    };
    let message = &original.message;
    let body = match &original.body {
        Body::Memory(bytes) => bytes.clone(),
        Body::Spooled => headers(message, store)?,
    };
    let bytes = match message.prefix.is_empty() {
        true => body,
        false => [message.prefix.as_ref(), &body].concat().into(),
    };
    let mut report = write(&due.report, message, &bytes)
        .map_err(|not_due| NotWritten::NotDue(not_due.to_string()))?;
    report.sign(domains, due.report.now);
    Ok(Box::new(report))
}

/// What is returned of a large body. Of a damaged one nothing: the sender hears of that all the same.
fn headers(message: &Message, store: &dyn Store) -> Result<Bytes, NotWritten> {
    let len = original_len(message).saturating_sub(message.prefix.len());
    match store.spool_read(message.id, 0, len) {
        Err(LoadFailed::Damaged(_)) => Ok(Bytes::new()),
        read => read.map_err(|failed| NotWritten::Later(failed.to_string())),
    }
}
