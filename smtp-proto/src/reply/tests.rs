use alloc::string::ToString;
use alloc::vec;

use proptest::prelude::*;

use super::*;

#[test]
fn well_formed() {
    for (wire, code, enhanced, lines) in [
        ("250 ok\r\n", "250", None, vec!["ok"]),
        ("250\r\n", "250", None, vec![""]),
        ("250 \r\n", "250", None, vec![""]),
        ("250-a\r\n250 b\r\n", "250", None, vec!["a", "b"]),
        ("250-a\r\n250-\r\n250\r\n", "250", None, vec!["a", "", ""]),
        ("571 5.7.1 no\r\n", "571", Some("5.7.1"), vec!["5.7.1 no"]),
        (
            "550-5.1.1 a\r\n550 5.1.1\r\n",
            "550",
            Some("5.1.1"),
            vec!["5.1.1 a", "5.1.1"],
        ),
        // The final line decides, so that no stale code of an earlier one does.
        (
            "550-5.1.1 a\r\n550 b\r\n",
            "550",
            None,
            vec!["5.1.1 a", "b"],
        ),
        // The class contradicts the code.
        ("550 2.0.0 no\r\n", "550", None, vec!["2.0.0 no"]),
        ("450 5.1.1 no\r\n", "450", None, vec!["5.1.1 no"]),
        ("354 2.0.0 go\r\n", "354", None, vec!["2.0.0 go"]),
        // Text that is not text.
        (
            "250 a\u{1b}[31m\tb\u{85}c\r\n",
            "250",
            None,
            vec!["a?[31m b?c"],
        ),
        ("250 gr\u{fc}n\r\n", "250", None, vec!["gr\u{fc}n"]),
    ] {
        let reply = Reply::parse(wire.as_bytes()).unwrap();
        assert_eq!(reply.code().to_string(), code, "{wire:?}");
        assert_eq!(
            reply.enhanced().map(|it| it.to_string()).as_deref(),
            enhanced,
            "{wire:?}"
        );
        assert!(reply.lines().eq(lines), "{wire:?}");
    }
    let latin1 = Reply::parse(b"250 gr\xfcn \xff\xfe\r\n").unwrap();
    assert!(latin1.lines().eq(["gr?n ??"]));
}

#[test]
fn malformed() {
    use ReplyError::*;
    for (wire, why) in [
        (&b"250-a\r\n550 b\r\n"[..], CodeChanged),
        (b"250-a\r\n251 b\r\n", CodeChanged),
        (b"250 ok\n", BareLf),
        (b"250-a\n250 b\r\n", BareLf),
        (b"\n", BareLf),
        (b"250 a\rb\r\n", BareCr),
        (b"250 a\r\r\n", BareCr),
        (b"250 a\0b\r\n", Nul),
        (b"\r\n", BadCode),
        (b"25\r\n", BadCode),
        (b"25 ok\r\n", BadCode),
        (b"2500 ok\r\n", BadSeparator),
        (b"250+ok\r\n", BadSeparator),
        (b"250\tok\r\n", BadSeparator),
        (b" 250 ok\r\n", BadCode),
        (b"150 ok\r\n", BadCode),
        (b"650 ok\r\n", BadCode),
        (b"2x0 ok\r\n", BadCode),
        (b"ok\r\n", BadCode),
        (b"250-a\r\n\r\n", BadCode),
        (b"250-a\r\n", Unfinished),
        (b"250 a\r", Unfinished),
        (b"", Unfinished),
        (b"250 a\r\n250 b\r\n", Trailing),
        (b"250 a\r\n\r\n", Trailing),
    ] {
        assert_eq!(
            Reply::parse(wire),
            Err(why),
            "{:?}",
            wire.escape_ascii().to_string()
        );
    }
}

#[test]
fn limits() {
    let line = |len: usize| alloc::format!("250-{}\r\n", "x".repeat(len - 6)).into_bytes();
    let last = b"250 end\r\n";
    let read = |wire: &[u8]| {
        ReplyReader::new()
            .receive(wire, LINES_MAX)
            .map(|(_, reply)| reply)
    };

    let longest = [&line(LINE_MAX)[..], last].concat();
    assert!(read(&longest).unwrap().is_some());
    assert_eq!(read(&line(LINE_MAX + 1)), Err(ReplyError::LineTooLong));
    assert_eq!(
        read(&line(LINE_MAX + 1)[..LINE_MAX + 1]),
        Err(ReplyError::LineTooLong)
    );

    let most = [&line(10).repeat(LINES_MAX - 1)[..], last].concat();
    assert!(read(&most).unwrap().is_some());
    assert_eq!(
        read(&line(10).repeat(LINES_MAX + 1)),
        Err(ReplyError::TooManyLines)
    );

    let full = REPLY_MAX / LINE_MAX;
    assert_eq!(read(&line(LINE_MAX).repeat(full)), Ok(None));
    assert_eq!(
        read(&line(LINE_MAX).repeat(full + 1)),
        Err(ReplyError::TooLong)
    );
}

#[test]
fn one_printable_line() {
    for (lines, expected) in [
        (&["ok"][..], "250 ok"),
        (&[""], "250"),
        (&["a  b", "", "c"], "250 a b c"),
        (
            &["2.1.5 fine", "2.1.5 really", "2.1.5"],
            "250 2.1.5 fine really",
        ),
        (
            &["2.1.5 fine", "2.1.55 really", "2.1.5 x"],
            "250 2.1.5 fine 2.1.55 really x",
        ),
        (&["gr\u{fc}n \u{202e}x"], "250 gr?n ?x"),
    ] {
        let reply = Reply::new(Code::new(250).unwrap(), lines).unwrap();
        assert_eq!(reply.sanitised(), expected);
        assert_eq!(reply.to_string(), expected);
    }
    let long = "word ".repeat(400);
    let reply = Reply::new(Code::new(250).unwrap(), &[&long]).unwrap();
    let text = reply.sanitised();
    assert!(text.len() == SANITISED_MAX && text.ends_with("..."));
}

#[test]
fn lines_that_no_reply_has() {
    let code = Code::new(250).unwrap();
    assert!(Reply::new(code, &["a\r\n250 b"]).is_err());
    assert!(Reply::new(code, &["a\nb"]).is_err());
    assert!(Reply::new(code, &["a\0"]).is_err());
    assert_eq!(Reply::new(code, &[]), Reply::new(code, &[""]));
}

#[test]
fn challenges() {
    let challenge = |text| {
        Reply::new(Code::new(334).unwrap(), &[text])
            .unwrap()
            .challenge()
    };
    assert_eq!(
        challenge("VXNlcm5hbWU6").as_deref(),
        Some(&b"Username:"[..])
    );
    assert_eq!(challenge("").as_deref(), Some(&b""[..]));
    assert_eq!(challenge("not base64"), None);
}

/// What a server may send, whole replies mixed with what comes close.
fn wires() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        6 => "[245][0-5][0-9][ -][ -~]{0,20}\r\n",
        4 => "250[ -](5\\.1\\.1|2\\.0\\.0|x)?( [a-z\u{e9}\t\u{7}]{0,9})?\r\n",
        1 => "[0-9]{2,4}.{0,3}\r?\n",
    ]
    .prop_map(String::into_bytes);
    let junk = prop::collection::vec(any::<u8>(), 0..8);
    prop::collection::vec(prop_oneof![9 => line, 1 => junk], 0..8).prop_map(|parts| parts.concat())
}

/// All replies of some pieces, and the error that ends them.
fn read_all<'p>(pieces: impl Iterator<Item = &'p [u8]>) -> (Vec<Reply>, Option<ReplyError>) {
    let mut reader = ReplyReader::new();
    let mut replies = Vec::new();
    for mut piece in pieces {
        while !piece.is_empty() {
            match reader.receive(piece, LINES_MAX) {
                Ok((used, reply)) => {
                    piece = &piece[used..];
                    replies.extend(reply);
                }
                Err(why) => return (replies, Some(why)),
            }
        }
    }
    (replies, None)
}

proptest! {
    #[test]
    fn every_chunking_gives_the_same(wire in wires(), len in 1usize..40) {
        let whole = read_all([&wire[..]].into_iter());
        prop_assert_eq!(&read_all(wire.chunks(1)), &whole);
        prop_assert_eq!(&read_all(wire.chunks(len)), &whole);
    }

    #[test]
    fn what_was_read_can_be_written(wire in wires()) {
        for reply in read_all([&wire[..]].into_iter()).0 {
            let mut again = Vec::new();
            reply.write(&mut again);
            prop_assert_eq!(Reply::parse(&again), Ok(reply.clone()));
            let text = reply.sanitised();
            prop_assert!(text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
        }
    }
}
