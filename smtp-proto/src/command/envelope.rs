//! MAIL and RCPT: the lines that carry a path and parameters, and that a busy server reads most.
//!
//! Implements RFC 5321 §4.1.1.2 and §4.1.1.3, and RFC 6531 §3.4 (UTF-8 only where it was declared).

use super::{Command, CommandError};
use crate::address::{AddressError, ForwardPath, MailboxRef, ReversePath};
use crate::extension::Extensions;
use crate::param::{AuthParam, MailParams, RcptParams};

/// `fault` is asked last what is wrong. Only what is small goes through `?`: a command is over a hundred
/// octets, and moving it about would be most of the cost of reading it.
pub(super) fn parse_mail(
    args: &[u8],
    offered: Extensions,
    fault: impl Fn(CommandError) -> CommandError,
) -> Result<Command<'_>, CommandError> {
    let (from, rest) = reverse_path(args).map_err(|error| fault(CommandError::Sender(error)))?;
    let mut params = MailParams::default();
    params
        .read(rest, offered)
        .map_err(|error| fault(CommandError::Param(error)))?;
    if !params.smtputf8 {
        let submitter = match &params.auth {
            Some(AuthParam::Mailbox(mailbox)) => mailbox.is_ascii(),
            Some(AuthParam::Unknown) | None => true,
        };
        if !submitter || !from.mailbox().is_none_or(MailboxRef::is_ascii) {
            return Err(CommandError::Utf8NotDeclared);
        }
    }
    Ok(Command::Mail { from, params })
}

pub(super) fn parse_rcpt(
    args: &[u8],
    offered: Extensions,
    fault: impl Fn(CommandError) -> CommandError,
) -> Result<Command<'_>, CommandError> {
    let (to, rest) = forward_path(args).map_err(|error| fault(CommandError::Recipient(error)))?;
    let mut params = RcptParams::default();
    params
        .read(rest, offered)
        .map_err(|error| fault(CommandError::Param(error)))?;
    Ok(Command::Rcpt { to, params })
}

/// Parts `FROM:<path> params`.
#[inline]
fn reverse_path(args: &[u8]) -> Result<(ReversePath<MailboxRef<'_>>, &[u8]), AddressError> {
    let [
        b'F' | b'f',
        b'R' | b'r',
        b'O' | b'o',
        b'M' | b'm',
        b':',
        args @ ..,
    ] = args
    else {
        return Err(AddressError::Brackets);
    };
    if let Some((mailbox, params)) = plain_path(args) {
        return Ok((ReversePath::Mailbox(mailbox), params));
    }
    let (path, params) = split_path(args).ok_or(AddressError::Brackets)?;
    Ok((ReversePath::borrow_utf8(path)?, params))
}

/// Parts `TO:<path> params`.
#[inline]
fn forward_path(args: &[u8]) -> Result<(ForwardPath<MailboxRef<'_>>, &[u8]), AddressError> {
    let [b'T' | b't', b'O' | b'o', b':', args @ ..] = args else {
        return Err(AddressError::Brackets);
    };
    if let Some((mailbox, params)) = plain_path(args) {
        return Ok((ForwardPath::Mailbox(mailbox), params));
    }
    let (path, params) = split_path(args).ok_or(AddressError::Brackets)?;
    Ok((ForwardPath::borrow_utf8(path)?, params))
}

/// Parts `<path> params` and reads the path, in one pass, if it is one of the kind that nearly all
/// are. What it takes, [`split_path`] and the readers of paths take too.
///
/// Inlined, so that the parts stay in registers: a struct that is written in words and then copied in
/// vectors stalls the processor, and that was half of the time of a line.
#[inline(always)]
fn plain_path(args: &[u8]) -> Option<(MailboxRef<'_>, &[u8])> {
    let [b'<', path @ ..] = args else { return None };
    match MailboxRef::of_plain_path(path)? {
        (mailbox, params @ ([] | [b' ', ..])) => Some((mailbox, params)),
        _ => None,
    }
}

/// Parts `<path> params`. A quoted local part may hold spaces and angle brackets.
///
/// Spaces after the colon are not in the grammar, and clients in use send them.
fn split_path(args: &[u8]) -> Option<(&str, &[u8])> {
    let mut args = args;
    while let [b' ', rest @ ..] = args {
        args = rest;
    }
    let end = match memchr::memchr2(b'"', b'>', args)? {
        end if args[end] == b'>' => end,
        _ => quoted_path_end(args)?,
    };
    let (path, params) = args.split_at(end + 1);
    let parted = matches!((path, params), ([b'<', ..], [] | [b' ', ..]));
    let path = core::str::from_utf8(path).ok()?;
    parted.then_some((path, params))
}

/// Where the bracket is that no quotes are around.
fn quoted_path_end(path: &[u8]) -> Option<usize> {
    let mut quoted = false;
    let mut escaped = false;
    path.iter().position(|&byte| {
        let literal = core::mem::take(&mut escaped);
        match byte {
            b'\\' if quoted => escaped = !literal,
            b'"' => quoted ^= !literal,
            _ => {}
        }
        byte == b'>' && !quoted
    })
}
