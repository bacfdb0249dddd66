//! Index checkpoints: which records a sealed segment holds, so that a start need not read it.
//!
//! ```text
//!  FileHeader, end u32, count u32, last id u64, count × (offset | void) u32, checksum u32
//! ```
//!
//! It is only a shortcut: a reader that finds it damaged, or of another segment, reads the segment.

use super::wire::{Reader, Writer};
use super::{FileHeader, FileKind, Invalid};

const FIXED: usize = FileHeader::LEN + 4 + 4 + 8;

/// What is in a segment that is not written any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The number of the segment.
    pub segment: u32,
    /// All before it was synced.
    pub end: u32,
    /// The highest message id in it, void records included.
    pub last_id: u64,
    /// The offsets of its records, ascending; the lowest bit is set in those that were void.
    pub records: Vec<u32>,
}

impl Index {
    /// Writes it, as a whole file.
    #[must_use]
    pub fn encode(&self, salt: u64) -> Vec<u8> {
        let header = FileHeader {
            kind: FileKind::Index,
            number: self.segment,
            salt,
        };
        let mut bytes = Vec::with_capacity(FIXED + 4 * self.records.len() + 4);
        bytes.extend_from_slice(&header.encode());
        let mut writer = Writer(&mut bytes);
        writer.u32(self.end);
        writer.u32(u32::try_from(self.records.len()).unwrap_or(u32::MAX));
        writer.u64(self.last_id);
        self.records.iter().for_each(|&entry| writer.u32(entry));
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a whole file.
    ///
    /// # Errors
    /// [`Invalid`] if it is none, or damaged, or of another store.
    pub fn decode(bytes: &[u8], salt: u64) -> Result<Self, Invalid> {
        let header = FileHeader::decode(bytes)?;
        if header.kind != FileKind::Index || header.salt != salt {
            return Err(Invalid::NotARecord);
        }
        let (content, crc) = bytes.split_last_chunk::<4>().ok_or(Invalid::Short)?;
        if crc32fast::hash(content) != u32::from_le_bytes(*crc) {
            return Err(Invalid::Checksum);
        }
        let mut reader = Reader(content.get(FileHeader::LEN..).ok_or(Invalid::Short)?);
        let (end, count, last_id) = (reader.u32()?, reader.u32()?, reader.u64()?);
        if reader.0.len() != count as usize * 4 {
            return Err(Invalid::Short);
        }
        let records = (0..count)
            .map(|_| reader.u32())
            .collect::<Result<Vec<_>, _>>()?;
        if !records.is_sorted_by(|a, b| a | 1 < b | 1) {
            return Err(Invalid::Content("offsets that do not ascend"));
        }
        Ok(Self {
            segment: header.number,
            end,
            last_id,
            records,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_reads_back_and_damage_in_it_is_found() {
        let index = Index {
            segment: 7,
            end: 16_384,
            last_id: 99,
            records: vec![4096, 4160 | 1, 8192],
        };
        let bytes = index.encode(5);
        assert_eq!(Index::decode(&bytes, 5), Ok(index));
        assert!(Index::decode(&bytes, 6).is_err());
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert!(Index::decode(&bad, 5).is_err(), "octet {at}");
            assert!(Index::decode(&bytes[..at], 5).is_err(), "cut at {at}");
        }
    }
}
