//! Passing over body octets that need no attention, many at a time.
//!
//! A compiler turns the loop over a block into vector instructions, because nothing in it branches;
//! what stops a block is then looked at by the decoder, octet by octet.

/// How many octets are judged at once: a few registers, and little to look at again when they fail.
const BLOCK: usize = 64;

/// How many octets at the start of `input` can be passed over: they hold whole CRLFs, no bare CR or
/// LF, no NUL, and no dot that begins a line. A CRLF that is not passed over as a whole is not
/// passed over at all. The octet before `input` is taken for part of a line.
pub(crate) fn clean(input: &[u8]) -> usize {
    if input.len() <= BLOCK || matches!(input[0], b'\n' | 0) {
        return 0;
    }
    let (before, _) = input.as_chunks::<BLOCK>();
    let (after, _) = input[1..].as_chunks::<BLOCK>();
    let blocks = before
        .iter()
        .zip(after)
        .take_while(|(before, after)| is_clean(before, after))
        .count();
    let end = blocks * BLOCK;
    // The octet at `end` was judged by the one before it only.
    if end > 0 && input[end] == b'\n' {
        end - 1
    } else {
        end
    }
}

/// `before[n]` is the octet before `after[n]`.
fn is_clean(before: &[u8; BLOCK], after: &[u8; BLOCK]) -> bool {
    let mut bad = 0;
    for (&before, &after) in before.iter().zip(after) {
        let line_end = u8::from(before == b'\r') ^ u8::from(after == b'\n');
        let dot = u8::from(before == b'\n') & u8::from(after == b'.');
        bad |= line_end | dot | u8::from(after == 0);
    }
    bad == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    /// The same, by the definition.
    fn is_passable(input: &[u8]) -> bool {
        (0..input.len()).all(|at| {
            let before = at.checked_sub(1).map(|at| input[at]);
            match input[at] {
                b'\r' => input.get(at + 1) == Some(&b'\n'),
                b'\n' => before == Some(b'\r'),
                b'.' => before != Some(b'\n'),
                octet => octet != 0,
            }
        })
    }

    #[test]
    fn what_needs_attention_is_not_passed_over() {
        let text: Vec<u8> = b"some text\r\n".repeat(40);
        assert!(clean(&text) > text.len() - 2 * BLOCK);
        for at in 0..text.len() {
            for octet in [b'\r', b'\n', b'.', 0, b'x'] {
                let mut input = text.clone();
                input[at] = octet;
                let passed = clean(&input);
                assert!(is_passable(&input[..passed]), "{octet} at {at}: {passed}");
            }
        }
    }

    #[test]
    fn blocks_may_end_anywhere_in_a_line_end() {
        for lead in 0..=2 * BLOCK {
            let input = [
                &b"x".repeat(lead)[..],
                &b"\r\n.".repeat(2),
                &b"y".repeat(200),
            ]
            .concat();
            assert!(clean(&input) <= lead + 2);
            let input = [&b"x".repeat(lead)[..], b"\r\n", &b"y".repeat(200)].concat();
            let passed = clean(&input);
            assert!(is_passable(&input[..passed]) && passed + 2 * BLOCK > input.len());
        }
    }
}
