//! Texts that many jobs share (senders, reasons), each kept once, within a budget of octets.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::pool::Pool;

/// What a text costs beside its octets: reference counts, the map's entry, the pool's slot.
const OVERHEAD: usize = 96;

/// The handle of an interned text. 0 stands for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TextId(u32);

impl TextId {
    /// No text.
    pub(crate) const NONE: Self = Self(0);
}

/// Texts by handle, counted by reference.
#[derive(Debug)]
pub(crate) struct Interner {
    ids: BTreeMap<Arc<str>, u32>,
    texts: Pool<Counted>,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Counted {
    text: Arc<str>,
    uses: u32,
}

impl Interner {
    /// Keeps texts until they take `bytes_max` octets; after that only their short forms.
    pub(crate) const fn new(bytes_max: usize) -> Self {
        Self {
            ids: BTreeMap::new(),
            texts: Pool::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// The handle of `text`. Over the budget a new text is kept as `short(text)`, which has few values.
    pub(crate) fn intern(&mut self, text: &str, short: impl FnOnce(&str) -> String) -> TextId {
        if let Some(&id) = self.ids.get(text) {
            return self.count(id);
        }
        if self.bytes + text.len() + OVERHEAD <= self.bytes_max {
            return self.insert(text);
        }
        let short = short(text);
        match self.ids.get(short.as_str()) {
            Some(&id) => self.count(id),
            None => self.insert(&short),
        }
    }

    pub(crate) fn get(&self, id: TextId) -> Option<&str> {
        self.texts
            .get(id.0.checked_sub(1)?)
            .map(|counted| &*counted.text)
    }

    /// One use less; the last one forgets the text.
    pub(crate) fn release(&mut self, id: TextId) {
        let Some(handle) = id.0.checked_sub(1) else {
            return;
        };
        let counted = &mut self.texts[handle];
        counted.uses -= 1;
        if counted.uses == 0
            && let Some(counted) = self.texts.remove(handle)
        {
            self.bytes -= counted.text.len() + OVERHEAD;
            self.ids.remove(&counted.text);
        }
    }

    fn count(&mut self, handle: u32) -> TextId {
        self.texts[handle].uses += 1;
        TextId(handle + 1)
    }

    fn insert(&mut self, text: &str) -> TextId {
        let text: Arc<str> = text.into();
        self.bytes += text.len() + OVERHEAD;
        let handle = self.texts.insert(Counted {
            text: Arc::clone(&text),
            uses: 1,
        });
        self.ids.insert(text, handle);
        TextId(handle + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_shared_counted_and_bounded() {
        let mut texts = Interner::new(300);
        let short = |_: &str| "short".to_owned();
        let a = texts.intern("a", short);
        assert_eq!(texts.intern("a", short), a);
        let b = texts.intern("b", short);
        assert_ne!(a, b);
        let long = "c".repeat(200);
        let c = texts.intern(&long, short);
        assert_eq!(texts.get(c), Some("short"), "over the budget");
        texts.release(a);
        assert_eq!(texts.get(a), Some("a"), "one use is left");
        texts.release(a);
        texts.release(b);
        texts.release(c);
        texts.release(TextId::NONE);
        assert_eq!((texts.bytes, texts.ids.len(), texts.texts.len()), (0, 0, 0));
        let c = texts.intern(&long, short);
        assert_eq!(texts.get(c), Some(&*long), "there is room again");
    }
}
