//! A pool of slots in pages: handles of four octets, no copy and no spike when it grows.

use std::fmt;

const PAGE: usize = 512;

/// Values behind small handles. A handle is reused after its value is removed.
pub(crate) struct Pool<T> {
    pages: Vec<Vec<Option<T>>>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Pool<T> {
    pub(crate) const fn new() -> Self {
        Self {
            pages: Vec::new(),
            free: Vec::new(),
            len: 0,
        }
    }

    /// How many values there are.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// The number of slots, free ones included: every handle is below it.
    pub(crate) fn slots(&self) -> u32 {
        let last = self.pages.last().map_or(0, Vec::len);
        u32::try_from(self.pages.len().saturating_sub(1) * PAGE + last).unwrap_or(u32::MAX)
    }

    /// Keeps a value.
    ///
    /// # Panics
    /// At 2^32 values, which no memory holds.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if let Some(handle) = self.free.pop() {
            let (page, slot) = split(handle);
            self.pages[page][slot] = Some(value);
            return handle;
        }
        let handle = self.slots();
        assert!(handle < u32::MAX, "a pool holds fewer than 2^32 values");
        if self.pages.last().is_none_or(|page| page.len() == PAGE) {
            self.pages.push(Vec::with_capacity(PAGE));
        }
        if let Some(page) = self.pages.last_mut() {
            page.push(Some(value));
        }
        handle
    }

    pub(crate) fn get(&self, handle: u32) -> Option<&T> {
        let (page, slot) = split(handle);
        self.pages.get(page)?.get(slot)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, handle: u32) -> Option<&mut T> {
        let (page, slot) = split(handle);
        self.pages.get_mut(page)?.get_mut(slot)?.as_mut()
    }

    /// Takes a value out; its handle becomes free.
    pub(crate) fn remove(&mut self, handle: u32) -> Option<T> {
        let (page, slot) = split(handle);
        let value = self.pages.get_mut(page)?.get_mut(slot)?.take()?;
        self.len -= 1;
        self.free.push(handle);
        if self.len == 0 {
            self.pages.clear();
            self.free = Vec::new();
        }
        Some(value)
    }

    /// What the pages take of the heap.
    #[cfg(test)]
    pub(crate) fn heap_bytes(&self) -> usize {
        self.pages.len() * PAGE * size_of::<Option<T>>() + self.free.capacity() * size_of::<u32>()
    }

    /// All values with their handles, by handle.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..self.slots()).filter_map(|handle| Some((handle, self.get(handle)?)))
    }
}

fn split(handle: u32) -> (usize, usize) {
    let handle = handle as usize;
    (handle / PAGE, handle % PAGE)
}

impl<T> std::ops::Index<u32> for Pool<T> {
    type Output = T;

    fn index(&self, handle: u32) -> &T {
        self.get(handle).expect("the handle of a value")
    }
}

impl<T> std::ops::IndexMut<u32> for Pool<T> {
    fn index_mut(&mut self, handle: u32) -> &mut T {
        self.get_mut(handle).expect("the handle of a value")
    }
}

impl<T> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_reused_and_pages_are_crossed() {
        let mut pool = Pool::new();
        let handles: Vec<u32> = (0..1500).map(|n| pool.insert(n)).collect();
        assert_eq!(pool.slots(), 1500);
        for &handle in &handles[..1000] {
            assert_eq!(pool.remove(handle), Some(handle));
            assert_eq!(pool.remove(handle), None);
        }
        assert_eq!((pool.len(), pool.iter().count()), (500, 500));
        let again = pool.insert(7);
        assert!(again < 1000, "a free slot comes first");
        assert_eq!(pool[again], 7);
        for handle in std::iter::once(again).chain(1000..1500) {
            pool.remove(handle);
        }
        assert_eq!((pool.len(), pool.slots()), (0, 0));
    }
}
