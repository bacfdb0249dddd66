//! The body codecs against naive ones that look at one octet at a time.

use smtp_proto::dot::{BodyFault, ChunkDecoder, DotDecoder, DotEncoder, LineEndings, Piece};

/// What a decoder gave: the body up to a fault, the fault, and where the data ended.
#[derive(Debug, Default, PartialEq)]
struct Decoded {
    body: Vec<u8>,
    fault: Option<BodyFault>,
    end: Option<usize>,
}

/// Octets of a body. The first byte says how the input is cut.
///
/// Cut or whole, DATA and BDAT are decoded as the naive decoders do it; and what the encoder writes,
/// however it is given, is one body in the wire's form that decodes to what was meant.
pub fn body_codec(data: &[u8]) {
    let Some((&cut, octets)) = data.split_first() else {
        return;
    };
    let whole = octets.len().max(1);
    for endings in [LineEndings::Reject, LineEndings::Normalise] {
        for size in [whole, 1 + usize::from(cut), 1] {
            let naive = naive_dots(endings, octets);
            assert_eq!(dots(endings, octets, size).settled(), naive.settled());
            let naive = naive_lines(endings, octets, true);
            assert_eq!(chunks(endings, octets, size).settled(), naive.settled());
        }
    }
    let written = encode(octets, whole);
    assert_eq!(encode(octets, 1 + usize::from(cut)), written);
    assert_eq!(encode(octets, 1), written);
    let decoded = dots(LineEndings::Reject, &written, whole);
    assert_eq!(decoded.end, Some(written.len()), "it ends at its end only");
    // A NUL is the one octet that the encoder passes on and the decoder refuses.
    if !octets.contains(&0) {
        assert_eq!((decoded.body, decoded.fault), (lines_of(octets), None));
    }
}

fn encode(octets: &[u8], size: usize) -> Vec<u8> {
    let (mut encoder, mut wire) = (DotEncoder::new(), Vec::new());
    for piece in octets.chunks(size) {
        encoder.encode(piece, &mut wire);
    }
    encoder.finish(&mut wire);
    wire
}

/// Bare CRs and LFs as CRLF, and a CRLF at the end.
fn lines_of(octets: &[u8]) -> Vec<u8> {
    let mut lines = naive_lines(LineEndings::Normalise, octets, true).body;
    if !lines.is_empty() && !lines.ends_with(b"\r\n") {
        lines.extend(b"\r\n");
    }
    lines
}

fn dots(endings: LineEndings, octets: &[u8], size: usize) -> Decoded {
    let mut decoder = DotDecoder::new(endings);
    let mut decoded = Decoded::default();
    let mut before = 0;
    for piece in octets.chunks(size) {
        let mut at = 0;
        loop {
            let (used, given) = decoder.decode(&piece[at..]);
            at += used;
            match given {
                Piece::Body(body) => decoded.add(body),
                Piece::Fault(fault) => assert_eq!(decoded.fault.replace(fault), None),
                Piece::End => {
                    decoded.end = Some(before + at);
                    return decoded;
                }
                Piece::NeedMore => break,
            }
        }
        assert_eq!(at, piece.len());
        before += at;
    }
    decoded
}

fn chunks(endings: LineEndings, octets: &[u8], size: usize) -> Decoded {
    let mut decoder = ChunkDecoder::new(endings);
    let mut decoded = Decoded::default();
    for mut piece in octets.chunks(size) {
        while !piece.is_empty() {
            let (used, given) = decoder.decode(piece);
            piece = &piece[used..];
            match given {
                Piece::Body(body) => decoded.add(body),
                Piece::Fault(fault) => assert_eq!(decoded.fault.replace(fault), None),
                Piece::NeedMore => assert!(piece.is_empty()),
                Piece::End => panic!("a chunk has no end of its own"),
            }
        }
    }
    match decoder.finish() {
        Some(Piece::Body(body)) => decoded.add(body),
        Some(Piece::Fault(fault)) => assert_eq!(decoded.fault.replace(fault), None),
        Some(Piece::End | Piece::NeedMore) => panic!("an octet is owed, or none"),
        None => {}
    }
    decoded
}

impl Decoded {
    /// Whether a bare CR is given out before it is known to be one depends on the cut.
    fn settled(mut self) -> Self {
        if self.fault == Some(BodyFault::BareCr) && self.body.last() == Some(&b'\r') {
            self.body.pop();
        }
        self
    }

    fn add(&mut self, body: &[u8]) {
        assert!(self.fault.is_none() && !body.is_empty());
        self.body.extend_from_slice(body);
    }

    fn fault(&mut self, fault: BodyFault, endings: LineEndings) {
        match endings {
            _ if self.fault.is_some() => {}
            LineEndings::Normalise if fault != BodyFault::Nul => {
                // The CR of a bare one is there already.
                let is_cr = fault == BodyFault::BareCr;
                self.body
                    .extend_from_slice(if is_cr { b"\n" } else { b"\r\n" });
            }
            LineEndings::Reject | LineEndings::Normalise => self.fault = Some(fault),
        }
    }

    fn put(&mut self, octet: u8) {
        if self.fault.is_none() {
            self.body.push(octet);
        }
    }
}

/// RFC 5321 §2.3.8: CR and LF only together. A CR at the end is bare if nothing can follow.
fn naive_lines(endings: LineEndings, octets: &[u8], ended: bool) -> Decoded {
    let mut decoded = Decoded::default();
    let mut after_cr = false;
    for &octet in octets {
        if after_cr && octet != b'\n' {
            decoded.fault(BodyFault::BareCr, endings);
        }
        match octet {
            b'\n' if !after_cr => decoded.fault(BodyFault::BareLf, endings),
            0 => decoded.fault(BodyFault::Nul, endings),
            _ => decoded.put(octet),
        }
        after_cr = octet == b'\r';
    }
    if after_cr && ended {
        decoded.fault(BodyFault::BareCr, endings);
    }
    decoded
}

/// RFC 5321 §4.5.2: the data up to CRLF.CRLF, and in it the dot at the start of each line away.
fn naive_dots(endings: LineEndings, octets: &[u8]) -> Decoded {
    let wire = [b"\r\n", octets].concat();
    let end = wire.windows(5).position(|five| five == b"\r\n.\r\n");
    // Without an end the last octets may still turn out to be one.
    let open = [&b"\r\n.\r"[..], b"\r\n."]
        .into_iter()
        .find(|open| wire.ends_with(open));
    let (stop, ended) = match (end, open) {
        (Some(end), _) => (end + 2, true),
        (None, Some(open)) => (wire.len() - open.len() + 2, false),
        (None, None) => (wire.len(), false),
    };
    let mut unstuffed = Vec::new();
    for at in 2..stop {
        if wire[at] != b'.' || !wire[..at].ends_with(b"\r\n") {
            unstuffed.push(wire[at]);
        }
    }
    let mut decoded = naive_lines(endings, &unstuffed, false);
    decoded.end = ended.then_some(stop + 1);
    decoded
}
