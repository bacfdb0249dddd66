//! Passing over body octets that need no attention, many at a time.
//!
//! A compiler turns the loop over a block into vector instructions, because nothing in it branches;
//! what stops a block is then looked at by the decoder, octet by octet. With the feature `std` the loop
//! is compiled for each width of register that a processor may have, and the widest is taken.

/// How many octets are judged at once: a few registers, and little to look at again when they fail.
const BLOCK: usize = 64;

/// How many octets at the start of `input` can be passed over: they hold whole CRLFs, no bare CR or
/// LF, no NUL, and no dot that begins a line. A CRLF that is not passed over as a whole is not
/// passed over at all. The octet before `input` is taken for part of a line.
pub(crate) fn clean(input: &[u8]) -> usize {
    if input.len() <= BLOCK + 1 || matches!(input[0], b'\n' | 0) {
        return 0;
    }
    #[cfg(feature = "std")]
    let blocks =
        fearless_simd::dispatch!(fearless_simd::Level::new(), _width => clean_blocks(input));
    #[cfg(not(feature = "std"))]
    let blocks = clean_blocks(input);
    let end = blocks * BLOCK;
    // The octet at `end` was judged by the one before it only.
    if end > 0 && input[end] == b'\n' {
        end - 1
    } else {
        end
    }
}

/// How many whole blocks of `input` can be passed over, but for its first octet.
#[inline(always)]
fn clean_blocks(input: &[u8]) -> usize {
    let (first, _) = input.as_chunks::<BLOCK>();
    let (second, _) = input[1..].as_chunks::<BLOCK>();
    let (third, _) = input[2..].as_chunks::<BLOCK>();
    first
        .iter()
        .zip(second)
        .zip(third)
        .take_while(|((first, second), third)| is_clean(first, second, third))
        .count()
}

/// Whether a CR in `first` and an LF in `second` stand only together, no LF has a dot after it in
/// `third`, and there is no NUL: `second` begins one octet after `first`, and `third` two.
#[inline(always)]
fn is_clean(first: &[u8; BLOCK], second: &[u8; BLOCK], third: &[u8; BLOCK]) -> bool {
    let mut bad = 0;
    let mut least = u8::MAX;
    for ((&first, &second), &third) in first.iter().zip(second).zip(third) {
        let line_feed = u8::from(second == b'\n');
        bad |= u8::from(first == b'\r') ^ line_feed | line_feed & u8::from(third == b'.');
        least = least.min(second);
    }
    bad == 0 && least > 0
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
