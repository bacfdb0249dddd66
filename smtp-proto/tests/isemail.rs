//! The addresses of the isemail collection: what is valid by RFC 5321 is accepted, the rest refused.
//!
//! The collection stands beside the workspace and is no part of it.

#![allow(clippy::print_stderr)]

use smtp_proto::Mailbox;

const VECTORS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../shared/vectors/isemail/test/tests.xml"
);

#[test]
fn valid_addresses_and_no_others() {
    let Ok(xml) = std::fs::read_to_string(VECTORS) else {
        // Loudly: a test that finds no data proves nothing.
        eprintln!("NOT RUN: no isemail vectors at {VECTORS}");
        return;
    };
    let mut tested = 0;
    for test in xml.split("<test ").skip(1) {
        let address = unescape(element(test, "address").unwrap_or_default());
        let category = element(test, "category").expect("a category");
        let valid = matches!(
            category,
            "ISEMAIL_VALID_CATEGORY" | "ISEMAIL_DNSWARN" | "ISEMAIL_RFC5321"
        );
        let parsed = Mailbox::parse(&address);
        assert_eq!(parsed.is_ok(), valid, "{address:?} {category} {parsed:?}");
        if let Ok(mailbox) = parsed {
            assert_eq!(Mailbox::parse(&mailbox.to_string()), Ok(mailbox.clone()));
            assert_eq!(
                Mailbox::parse(&mailbox.canonical().to_string()),
                Ok(mailbox)
            );
        }
        tested += 1;
    }
    assert!(tested >= 160, "{tested} addresses");
}

fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

/// Entities; and U+2400 to U+2421 stand for control characters, which XML cannot hold.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let (entity, tail) = after.split_once(';').expect("a whole entity");
        out.push(match entity {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            number => {
                let hex = number.strip_prefix("#x").expect("a known entity");
                let code = u32::from_str_radix(hex, 16).expect("a number");
                char::from_u32(code).expect("a character")
            }
        });
        rest = tail;
    }
    out.push_str(rest);
    let control = |c: char| match u32::from(c) {
        code @ 0x2400..=0x2420 => char::from_u32(code - 0x2400).unwrap_or(c),
        0x2421 => '\u{7f}',
        _ => c,
    };
    out.chars().map(control).collect()
}
