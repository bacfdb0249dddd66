//! The body codecs against naive ones, for every way of cutting the input.

use proptest::prelude::*;
use smtp_proto::dot::{BodyFault, ChunkDecoder, DotDecoder, DotEncoder, LineEndings, Piece};

/// What a decoder gave: the body, the first fault, and where the data ended.
#[derive(Debug, PartialEq, Eq, Default)]
struct Decoded {
    body: Vec<u8>,
    fault: Option<BodyFault>,
    end: Option<usize>,
}

fn decode(line_endings: LineEndings, input: &[u8], cuts: &[usize]) -> Decoded {
    let mut decoder = DotDecoder::new(line_endings);
    let mut decoded = Decoded::default();
    let mut total = 0;
    for part in cut(input, cuts) {
        let mut at = 0;
        loop {
            let (used, piece) = decoder.decode(&part[at..]);
            at += used;
            match piece {
                Piece::Body(body) => {
                    assert!(!body.is_empty() && decoded.fault.is_none());
                    decoded.body.extend_from_slice(body);
                }
                Piece::Fault(fault) => assert_eq!(decoded.fault.replace(fault), None),
                Piece::End => {
                    decoded.end = Some(total + at);
                    return decoded;
                }
                Piece::NeedMore => break,
            }
        }
        assert_eq!(
            at,
            part.len(),
            "all of a part is used before more is asked for"
        );
        total += at;
    }
    decoded
}

fn cut<'a>(input: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    let mut rest = input;
    for &cut in cuts {
        let (part, tail) = rest.split_at(cut.min(rest.len()));
        parts.push(part);
        rest = tail;
    }
    parts.push(rest);
    parts
}

/// The same by the letter of RFC 5321: find CRLF.CRLF, split at CRLF, take away leading dots.
fn naive(line_endings: LineEndings, input: &[u8]) -> Decoded {
    let with_crlf = [b"\r\n", input].concat();
    let Some(end) = with_crlf.windows(5).position(|w| w == b"\r\n.\r\n") else {
        panic!("the input has an end")
    };
    let stuffed = &input[..end];
    let mut body = Vec::new();
    let mut fault = None;
    let mut at = 0;
    while at < stuffed.len() {
        let line_start = at == 0 || stuffed[..at].ends_with(b"\r\n");
        match (stuffed[at], stuffed.get(at + 1)) {
            (b'.', _) if line_start => {}
            (b'\r', Some(b'\n')) => body.push(b'\r'),
            (b'\r', _) => {
                fault = fault.or(Some(BodyFault::BareCr));
                body.extend_from_slice(b"\r\n");
            }
            (b'\n', _) if at > 0 && stuffed[at - 1] == b'\r' => body.push(b'\n'),
            (b'\n', _) => {
                fault = fault.or(Some(BodyFault::BareLf));
                body.extend_from_slice(b"\r\n");
            }
            (0, _) => {
                fault = Some(BodyFault::Nul);
                if line_endings == LineEndings::Normalise {
                    break;
                }
            }
            (other, _) => body.push(other),
        }
        at += 1;
    }
    let refused = fault.is_some_and(|f| line_endings == LineEndings::Reject || f == BodyFault::Nul);
    Decoded {
        body: if refused { Vec::new() } else { body },
        fault: fault.filter(|_| refused),
        end: Some(end + 3),
    }
}

fn assert_no_bare_line_ends(bytes: &[u8]) {
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'\r' => assert_eq!(bytes.get(at + 1), Some(&b'\n'), "bare CR in {bytes:?}"),
            b'\n' => assert!(at > 0 && bytes[at - 1] == b'\r', "bare LF in {bytes:?}"),
            _ => {}
        }
    }
}

/// Octets that matter, and one that does not.
fn tricky() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => Just(&b"\r\n"[..]),
        6 => Just(&b"."[..]),
        8 => Just(&b"x"[..]),
        1 => Just(&b"\r"[..]),
        1 => Just(&b"\n"[..]),
        1 => Just(&b"\0"[..]),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn every_cut_gives_what_the_rfc_says(
        body in tricky(),
        cuts in prop::collection::vec(0usize..6, 0..20),
        normalise: bool,
    ) {
        let line_endings =
            if normalise { LineEndings::Normalise } else { LineEndings::Reject };
        let input = [&body[..], b"\r\n.\r\nQUIT\r\n"].concat();
        let mut expected = naive(line_endings, &input);
        let mut decoded = decode(line_endings, &input, &cuts);
        prop_assert_eq!((decoded.end, decoded.fault.is_some()), (expected.end, expected.fault.is_some()));
        if decoded.fault.is_some() {
            // What was given out before the fault is for the caller to drop.
            decoded.body.clear();
            expected.body.clear();
            decoded.fault = expected.fault;
        }
        prop_assert_eq!(decoded, expected);
    }

    #[test]
    fn what_is_encoded_ends_once_and_decodes_to_itself(
        body in tricky(),
        cuts in prop::collection::vec(0usize..6, 0..20),
    ) {
        // The decoder refuses NUL, which is not what this test is about.
        let body: Vec<u8> = body.into_iter().filter(|&b| b != 0).collect();
        let mut wire = Vec::new();
        let mut encoder = DotEncoder::new();
        for part in cut(&body, &cuts) {
            encoder.encode(part, &mut wire);
        }
        encoder.finish(&mut wire);
        assert_no_bare_line_ends(&wire);
        let decoded = decode(LineEndings::Reject, &wire, &[]);
        prop_assert_eq!(decoded.end, Some(wire.len()));
        prop_assert_eq!(decoded.fault, None);

        let mut expected = Vec::new();
        for (at, &byte) in body.iter().enumerate() {
            match byte {
                b'\r' if body.get(at + 1) != Some(&b'\n') => expected.extend_from_slice(b"\r\n"),
                b'\n' if at == 0 || body[at - 1] != b'\r' => expected.extend_from_slice(b"\r\n"),
                other => expected.push(other),
            }
        }
        let whole = expected.is_empty() || expected.ends_with(b"\r\n");
        if !whole {
            expected.extend_from_slice(b"\r\n");
        }
        prop_assert_eq!(decoded.body, expected);
    }

    #[test]
    fn chunks_are_checked_the_same_for_every_cut(
        body in tricky(),
        cuts in prop::collection::vec(0usize..6, 0..20),
        normalise: bool,
    ) {
        let line_endings =
            if normalise { LineEndings::Normalise } else { LineEndings::Reject };
        let whole = decode_chunks(ChunkDecoder::new(line_endings), &body, &[]);
        let mut parts = decode_chunks(ChunkDecoder::new(line_endings), &body, &cuts);
        prop_assert_eq!(parts.fault, whole.fault);
        if whole.fault.is_none() {
            assert_no_bare_line_ends(&whole.body);
            prop_assert_eq!(&parts.body, &whole.body);
        }
        parts = decode_chunks(ChunkDecoder::binary(), &body, &cuts);
        prop_assert_eq!(parts.body, body);
    }
}

fn decode_chunks(mut decoder: ChunkDecoder, input: &[u8], cuts: &[usize]) -> Decoded {
    let mut decoded = Decoded::default();
    let mut take = |piece| match piece {
        Piece::Body(body) => decoded.body.extend_from_slice(body),
        Piece::Fault(fault) => assert_eq!(decoded.fault.replace(fault), None),
        Piece::End => panic!("chunks have no end of their own"),
        Piece::NeedMore => {}
    };
    for part in cut(input, cuts) {
        let mut at = 0;
        while at < part.len() {
            let (used, piece) = decoder.decode(&part[at..]);
            at += used;
            take(piece);
        }
    }
    decoder.finish().into_iter().for_each(take);
    decoded
}

#[test]
fn nothing_but_crlf_dot_crlf_ends_the_data() {
    let ends = [
        "\n.\n",
        "\n.\r\n",
        "\r\n.\n",
        "\r.\r",
        "\r\n.\r",
        "\r.\r\n",
        "\n.\r",
        "\r.\n",
        "\r\n\0.\r\n",
        "\r\n. \r\n",
        "\r\n..\r\n",
    ];
    for end in ends {
        for line_endings in [LineEndings::Reject, LineEndings::Normalise] {
            let input = format!("a{end}MAIL FROM:<x@y>\r\n.\r\n");
            let decoded = decode(line_endings, input.as_bytes(), &[]);
            assert_eq!(decoded.end, Some(input.len()), "{end:?}");
        }
    }
}

#[test]
fn large_blocks_are_given_out_whole() {
    let body = "a line of text that is as long as most are\r\n".repeat(1000);
    let input = format!("{body}.\r\n");
    let mut decoder = DotDecoder::new(LineEndings::Reject);
    assert_eq!(
        decoder.decode(input.as_bytes()),
        (body.len(), Piece::Body(body.as_bytes()))
    );
    assert_eq!(decoder.decode(b".\r\n"), (3, Piece::End));
}
