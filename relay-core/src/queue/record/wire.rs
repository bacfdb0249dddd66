//! The small parts of every record: little-endian numbers, varints, texts with a length.

use std::fmt::{self, Write as _};

use super::Invalid;

/// Appends to a buffer.
pub(super) struct Writer<'a>(pub(super) &'a mut Vec<u8>);

impl Writer<'_> {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Seven bits an octet, the lowest first; the highest bit says that more follow.
    pub(super) fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    /// How many follow. Nothing here counts past 32 bits: a record is far smaller.
    pub(super) fn count(&mut self, count: usize) {
        self.varint(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// What a value displays, after its length.
    pub(super) fn text(&mut self, text: impl fmt::Display) {
        let start = self.0.len();
        self.u32(0);
        // Writing to memory does not fail, and no `Display` of ours does.
        let _ = write!(Text(self.0), "{text}");
        let len = u32::try_from(self.0.len() - start - 4).unwrap_or(u32::MAX);
        self.0[start..start + 4].copy_from_slice(&len.to_le_bytes());
    }

    /// Octets, after their number.
    pub(super) fn octets(&mut self, octets: &[u8]) {
        self.u32(u32::try_from(octets.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(octets);
    }

    pub(super) fn optional_text(&mut self, text: Option<impl fmt::Display>) {
        self.u8(u8::from(text.is_some()));
        if let Some(text) = text {
            self.text(text);
        }
    }

    pub(super) fn indexes(&mut self, indexes: &[u32]) {
        self.count(indexes.len());
        indexes.iter().for_each(|&index| self.varint(index));
    }
}

struct Text<'a>(&'a mut Vec<u8>);

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

/// Takes from a slice; every method fails with [`Invalid::Content`] when it is used up.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Invalid> {
        let (head, tail) = self
            .0
            .split_at_checked(len)
            .ok_or(Invalid::Content("too short"))?;
        self.0 = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Invalid> {
        let (head, tail) = self
            .0
            .split_first_chunk()
            .ok_or(Invalid::Content("too short"))?;
        self.0 = tail;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Invalid> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn bool(&mut self) -> Result<bool, Invalid> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Invalid::Content("neither yes nor no")),
        }
    }

    pub(super) fn u32(&mut self) -> Result<u32, Invalid> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Invalid> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Invalid> {
        self.array()
    }

    pub(super) fn varint(&mut self) -> Result<u32, Invalid> {
        let mut value: u32 = 0;
        for shift in [0, 7, 14, 21, 28] {
            let octet = self.u8()?;
            let bits = u32::from(octet & 0x7f);
            if shift == 28 && bits > 0x0f {
                break;
            }
            value |= bits << shift;
            if octet < 0x80 {
                return Ok(value);
            }
        }
        Err(Invalid::Content("a number over 32 bits"))
    }

    /// How many items follow, of at least `size_min` octets each: never more than fit in what is left,
    /// so that a count from a damaged record reserves no memory.
    pub(super) fn count(&mut self, size_min: usize) -> Result<usize, Invalid> {
        let count = self.varint()? as usize;
        if count > self.0.len() / size_min {
            return Err(Invalid::Content("a count over what follows"));
        }
        Ok(count)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Invalid> {
        std::str::from_utf8(self.octets()?).map_err(|_| Invalid::Content("a text not in UTF-8"))
    }

    pub(super) fn octets(&mut self) -> Result<&'a [u8], Invalid> {
        let len = self.u32()? as usize;
        self.take(len)
    }

    pub(super) fn optional_text(&mut self) -> Result<Option<&'a str>, Invalid> {
        if self.bool()? {
            self.text().map(Some)
        } else {
            Ok(None)
        }
    }

    pub(super) fn indexes(&mut self) -> Result<Vec<u32>, Invalid> {
        (0..self.count(1)?).map(|_| self.varint()).collect()
    }

    /// All of it was used.
    pub(super) fn end(&self) -> Result<(), Invalid> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Invalid::Content("too long"))
        }
    }
}
