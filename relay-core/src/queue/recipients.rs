//! The recipients of a job: indexes in the envelope, in 16 octets for the common cases.

/// A set of indexes in `Envelope::recipients`. A run of neighbours takes no heap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recipients {
    /// `first`, `first + 1`, … `first + len - 1`.
    Run { first: u32, len: u32 },
    /// Ascending.
    List(Box<[u32]>),
}

impl Recipients {
    /// From ascending indexes.
    pub(crate) fn new(indexes: &[u32]) -> Self {
        debug_assert!(indexes.is_sorted(), "indexes are ascending");
        let len = u32::try_from(indexes.len()).unwrap_or(u32::MAX);
        match (indexes.first(), indexes.last()) {
            (None, _) | (_, None) => Self::Run { first: 0, len: 0 },
            (Some(&first), Some(&last)) if last - first == len - 1 => Self::Run { first, len },
            (Some(_), Some(_)) => Self::List(indexes.into()),
        }
    }

    pub(crate) fn len(&self) -> u32 {
        match self {
            Self::Run { len, .. } => *len,
            Self::List(list) => u32::try_from(list.len()).unwrap_or(u32::MAX),
        }
    }

    pub(crate) fn contains(&self, index: u32) -> bool {
        match self {
            Self::Run { first, len } => index >= *first && index - first < *len,
            Self::List(list) => list.binary_search(&index).is_ok(),
        }
    }

    pub(crate) fn to_vec(&self) -> Vec<u32> {
        match self {
            Self::Run { first, len } => (0..*len).map(|n| first + n).collect(),
            Self::List(list) => list.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_keeps_its_indexes() {
        assert_eq!(size_of::<Recipients>(), 16);
        for indexes in [
            &[][..],
            &[7],
            &[0, 1, 2],
            &[3, 5, 6],
            &[u32::MAX - 1, u32::MAX],
        ] {
            let set = Recipients::new(indexes);
            assert_eq!(set.to_vec(), indexes);
            assert_eq!(set.len() as usize, indexes.len());
            assert!(indexes.iter().all(|&index| set.contains(index)));
            assert!(!set.contains(4));
        }
        assert!(matches!(
            Recipients::new(&[1, 2, 3]),
            Recipients::Run { first: 1, len: 3 }
        ));
    }
}
