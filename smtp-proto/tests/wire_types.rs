//! What was read can be written, and reads the same: for every wire type, and for lines that come
//! close to being valid.

use proptest::prelude::*;
use smtp_proto::server::{Config, Connection};
use smtp_proto::{
    Command, Domain, EnhancedCode, Extension, Extensions, ForwardPath, Host, MailParams, Mailbox,
    Orcpt, RcptParams, ReversePath,
};

fn all() -> Extensions {
    Extension::ALL.into_iter().collect()
}

/// Words of the grammar in any order, with some noise.
fn near(words: &'static [&'static str]) -> impl Strategy<Value = String> {
    let word = prop_oneof![
        20 => prop::sample::select(words).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(word, 0..12).prop_map(|words| words.concat())
}

const ADDRESS: &[&str] = &[
    "a",
    "B",
    "9",
    ".",
    "-",
    "@",
    "@",
    "\"",
    "\\",
    " ",
    "<",
    ">",
    "[",
    "]",
    "IPv6:",
    "::1",
    "1.2.3.4",
    "example.com",
    "ü",
    "+",
    ":",
    ";",
    "postmaster",
    "\r",
    "\n",
    "\0",
];

const LINE: &[&str] = &[
    "EHLO ",
    "MAIL FROM:",
    "RCPT TO:",
    "BDAT ",
    "AUTH ",
    "VRFY ",
    "DATA",
    "QUIT",
    "<a@b>",
    "<>",
    "<é@b>",
    " SIZE=",
    "1",
    "2",
    " BODY=",
    "8BITMIME",
    " SMTPUTF8",
    " RET=HDRS",
    " ENVID=",
    "+2B",
    "+",
    " NOTIFY=",
    "NEVER",
    "DELAY",
    ",",
    " ORCPT=",
    "rfc822;",
    "utf-8;",
    "é",
    " BY=",
    "-",
    ";",
    "RT",
    " HOLDFOR=",
    " HOLDUNTIL=",
    "2026-02-28T12:00:00Z",
    " MT-PRIORITY=",
    " REQUIRETLS",
    " AUTH=",
    "PLAIN",
    " ",
    "=",
    "AAAA",
    "LAST",
    "x",
    "\0",
];

macro_rules! round_trips {
    ($parse:expr, $text:expr) => {
        if let Ok(value) = $parse($text) {
            let written = value.to_string();
            prop_assert_eq!($parse(&written), Ok(value.clone()), "{}", written);
            prop_assert!(!written.contains(['\r', '\n', '\0']), "{}", written);
        }
    };
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        cases: 4000,
        ..ProptestConfig::default()
    })]

    #[test]
    fn addresses(text in near(ADDRESS)) {
        round_trips!(Mailbox::parse_utf8, &text);
        round_trips!(Domain::parse_utf8, &text);
        round_trips!(Host::parse_utf8, &text);
        round_trips!(ReversePath::parse_utf8, &text);
        round_trips!(ForwardPath::parse_utf8, &text);
        if let Ok(mailbox) = Mailbox::parse_utf8(&text) {
            let canonical = mailbox.canonical();
            prop_assert_eq!(&canonical, &mailbox);
            prop_assert_eq!(Mailbox::parse_utf8(&canonical.to_string()), Ok(canonical));
            prop_assert_eq!(Mailbox::parse(&text).is_ok(), mailbox.is_ascii());
        }
    }

    #[test]
    fn commands(text in near(LINE)) {
        if let Ok(command) = Command::parse(text.as_bytes(), all()) {
            let written = command.to_string();
            prop_assert_eq!(Command::parse(written.as_bytes(), all()), Ok(command.clone()));
        }
        round_trips!(|text| MailParams::parse(text, all()), &text);
        round_trips!(|text| RcptParams::parse(text, all()), &text);
        round_trips!(|text: &str| EnhancedCode::parse(text).ok_or(()), &text);
        round_trips!(|text: &str| Orcpt::parse(text).ok_or(()), &text);
    }
}

/// Queues hold millions of addresses, listeners tens of thousands of connections. Texts of up to 23
/// octets are within these sizes: most addresses take nothing from the heap.
#[test]
fn values_are_small() {
    assert!(size_of::<Domain>() <= 24);
    assert!(size_of::<Mailbox>() <= 48);
    assert!(size_of::<Orcpt>() <= 32);
    assert!(size_of::<MailParams>() <= 128);
    assert!(size_of::<Config>() <= 256);
    assert!(
        size_of::<Connection>() <= 256,
        "{}",
        size_of::<Connection>()
    );
}
