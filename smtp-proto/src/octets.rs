//! Sets of octets, as tables: what a part of an address may hold, one look each.

/// A set of octets.
pub(crate) struct Octets([bool; 256]);

/// What a label may hold. RFC 5321 §4.1.2 `Let-dig`, `Ldh-str`. Octets of U-labels are in it; whether
/// the characters are allowed is asked of them. RFC 6531 §3.3.
pub(crate) static LABEL: Octets = Octets::alphanumeric_and(b"-");

/// What an atom may hold. RFC 5322 §3.2.3 `atext`. Octets of UTF-8 as in [`LABEL`].
pub(crate) static ATEXT: Octets = Octets::alphanumeric_and(b"!#$%&'*+-/=?^_`{|}~");

impl Octets {
    /// ASCII letters and digits, all octets above ASCII, and these.
    const fn alphanumeric_and(others: &[u8]) -> Self {
        let mut set = [false; 256];
        let mut octet = 0;
        while octet < set.len() {
            set[octet] = octet >= 0x80 || (octet as u8).is_ascii_alphanumeric();
            octet += 1;
        }
        let mut nr = 0;
        while nr < others.len() {
            set[others[nr] as usize] = true;
            nr += 1;
        }
        Self(set)
    }

    /// Whether the set has it.
    pub(crate) const fn has(&self, octet: u8) -> bool {
        self.0[octet as usize]
    }
}
