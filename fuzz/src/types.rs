//! The wire types: what one reads, it writes so that it reads the same again.

use core::fmt::{Debug, Display};

use smtp_proto::address::{ForwardPath, Mailbox, MailboxRef, ReversePath};
use smtp_proto::client::Capabilities;
use smtp_proto::client_name::ClientName;
use smtp_proto::code::{Code, EnhancedCode};
use smtp_proto::command::Command;
use smtp_proto::domain::{AddressLiteral, Domain, Host};
use smtp_proto::extension::{Extension, Extensions, Mechanism};
use smtp_proto::param::{AuthParam, DeliverBy, EnvId, MailParams, Notify, Orcpt, RcptParams};
use smtp_proto::reply::Reply;

fn all() -> Extensions {
    Extension::ALL.into_iter().collect()
}

/// Octets, as a command line, as a reply, and if they are text as each of the types that a command
/// or a reply is made of.
pub fn wire_types(data: &[u8]) {
    command(data);
    reply(data);
    let Ok(text) = core::str::from_utf8(data) else {
        return;
    };
    again(text, |t| AddressLiteral::parse(t).ok());
    again(text, |t| ClientName::parse(t).ok());
    again(text, |t| t.parse::<Mechanism>().ok());
    again(text, Extension::from_keyword);
    again(text, |t| Code::parse(t.as_bytes()));
    again(text, EnhancedCode::parse);
    again(text, EnvId::parse);
    again(text, Orcpt::parse);
    again(text, Notify::parse);
    again(text, DeliverBy::parse);
    again(text, AuthParam::parse);
    again(text, |t| MailParams::parse(t, all()).ok());
    again(text, |t| RcptParams::parse(t, all()).ok());
    made(text);
    borrowed(text);
}

fn command(line: &[u8]) {
    let Ok(command) = Command::parse(line, all()) else {
        return;
    };
    let mut written = Vec::new();
    command.write(&mut written);
    let written = written.strip_suffix(b"\r\n").expect("a whole line");
    assert!(!written.iter().any(u8::is_ascii_control), "{command}");
    assert_eq!(Command::parse(written, all()).as_ref(), Ok(&command));
    // With nothing offered the command is the same or its parameters are unknown.
    if let Ok(plain) = Command::parse(line, Extensions::NONE) {
        assert_eq!(plain, command);
    }
}

fn reply(octets: &[u8]) {
    let Ok(reply) = Reply::parse(octets) else {
        return;
    };
    let mut written = Vec::new();
    reply.write(&mut written);
    let again = Reply::parse(&written).expect("it was just written");
    assert_eq!(again, reply);
    assert_eq!(Capabilities::parse(&again), Capabilities::parse(&reply));
    assert!(reply.sanitised().bytes().all(|b| matches!(b, b' '..=b'~')));
}

/// What is made of a meaning rather than read says that meaning on the wire.
fn made(text: &str) {
    if let Some(envid) = EnvId::new(text) {
        assert_eq!(envid.as_str(), text);
        assert_eq!(EnvId::parse(&envid.to_string()), Some(envid));
    }
    for addr_type in ["rfc822", "utf-8"] {
        if let Some(orcpt) = Orcpt::new(addr_type, text) {
            assert_eq!((orcpt.addr_type(), orcpt.address()), (addr_type, text));
            assert_eq!(Orcpt::parse(&orcpt.to_string()), Some(orcpt));
        }
    }
    let host = Host::parse("a.example").expect("a host");
    if let Ok(mailbox) = Mailbox::new(text, host) {
        assert!(mailbox.local_part_chars().eq(text.chars()));
        assert_eq!(Mailbox::parse_utf8(&mailbox.to_string()), Ok(mailbox));
    }
}

/// What borrows the text is what owns it.
fn borrowed(text: &str) {
    let mailbox = MailboxRef::parse_utf8(text);
    assert_eq!(mailbox.map(|it| it.to_mailbox()), Mailbox::parse_utf8(text));
    if let Ok(mailbox) = mailbox {
        let canonical = mailbox.to_mailbox().canonical();
        assert_eq!(mailbox.to_string(), mailbox.to_mailbox().to_string());
        assert_eq!(canonical, mailbox.to_mailbox());
        let written = canonical.to_string();
        assert_eq!(MailboxRef::parse_utf8(&written), Ok(mailbox));
        // In brackets it is a path, whether or not it is read in one pass.
        let line = format!("MAIL FROM:<{text}> SMTPUTF8");
        let from = ReversePath::Mailbox(mailbox);
        match Command::parse(line.as_bytes(), all()) {
            Ok(Command::Mail { from: read, .. }) => assert_eq!(read, from),
            other => panic!("{line:?} is {other:?}"),
        }
    }
    let path = ReversePath::borrow_utf8(text).map(|it| it.to_path());
    assert_eq!(path, ReversePath::parse_utf8(text));
    let path = ForwardPath::borrow_utf8(text).map(|it| it.to_path());
    assert_eq!(path, ForwardPath::parse_utf8(text));
    if let Ok(domain) = Domain::parse_utf8(text) {
        assert!(domain.is_within(&domain) && domain.to_lowercase() == domain);
    }
}

fn again<T: PartialEq + Debug + Display>(text: &str, parse: impl Fn(&str) -> Option<T>) {
    let Some(value) = parse(text) else { return };
    let written = value.to_string();
    let control = |c: char| c.is_ascii_control();
    assert!(!written.contains(control), "{written:?}");
    let read = parse(&written);
    assert_eq!(read.as_ref(), Some(&value), "{text:?}, {written:?}");
    assert_eq!(read.map(|it| it.to_string()), Some(written));
}
