//! Sets of octets, as tables: what a part of an address may hold, one look each.

/// A set of octets.
pub(crate) struct Octets([bool; 256]);

const DIGITS_LETTERS: Octets = Octets([false; 256]).with_alphanumeric();

/// What a label may hold. RFC 5321 §4.1.2 `Let-dig`, `Ldh-str`.
pub(crate) static PLAIN_LABEL: Octets = DIGITS_LETTERS.with(b"-");

/// The same and octets of U-labels; whether the characters are allowed is asked of them. RFC 6531
/// §3.3.
pub(crate) static LABEL: Octets = DIGITS_LETTERS.with(b"-").with_non_ascii();

/// What an atom may hold. RFC 5322 §3.2.3 `atext`.
pub(crate) static PLAIN_ATEXT: Octets = DIGITS_LETTERS.with(ATEXT_SPECIALS);

/// The same and octets of UTF-8, as in [`LABEL`].
pub(crate) static ATEXT: Octets = DIGITS_LETTERS.with(ATEXT_SPECIALS).with_non_ascii();

/// What a client may call itself. See [`crate::ClientName`].
pub(crate) static CLIENT_NAME: Octets = DIGITS_LETTERS.with(b"-._:[]");

const ATEXT_SPECIALS: &[u8] = b"!#$%&'*+-/=?^_`{|}~";

impl Octets {
    const fn with_alphanumeric(mut self) -> Self {
        let mut octet = 0;
        while octet < 0x80 {
            self.0[octet] |= (octet as u8).is_ascii_alphanumeric();
            octet += 1;
        }
        self
    }

    const fn with_non_ascii(mut self) -> Self {
        let mut octet = 0x80;
        while octet < self.0.len() {
            self.0[octet] = true;
            octet += 1;
        }
        self
    }

    const fn with(mut self, others: &[u8]) -> Self {
        let mut nr = 0;
        while nr < others.len() {
            self.0[others[nr] as usize] = true;
            nr += 1;
        }
        self
    }

    /// Whether the set has it.
    pub(crate) const fn has(&self, octet: u8) -> bool {
        self.0[octet as usize]
    }

    /// How many octets at the start are all in the set. Four are looked at in each turn of the loop.
    #[inline]
    pub(crate) fn prefix(&self, octets: &[u8]) -> usize {
        let (fours, _) = octets.as_chunks();
        let mut end = 0;
        for &[a, b, c, d] in fours {
            if !self.has(a) {
                return end;
            }
            if !self.has(b) {
                return end + 1;
            }
            if !self.has(c) {
                return end + 2;
            }
            if !self.has(d) {
                return end + 3;
            }
            end += 4;
        }
        let rest = octets[end..].iter();
        end + rest.take_while(|&&octet| self.has(octet)).count()
    }
}
