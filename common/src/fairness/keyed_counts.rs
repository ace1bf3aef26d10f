//! How many there are of something, in all and of each key.

use std::collections::HashMap;
use std::hash::Hash;

/// Counts, in all and of each key. A key of which there are none is forgotten, so memory is bounded by what is counted.
#[derive(Debug)]
pub struct KeyedCounts<K> {
    all: usize,
    by_key: HashMap<K, usize>,
}

impl<K> Default for KeyedCounts<K> {
    fn default() -> Self {
        KeyedCounts { all: 0, by_key: HashMap::new() }
    }
}

impl<K: Eq + Hash> KeyedCounts<K> {
    /// How many there are in all.
    pub fn all(&self) -> usize {
        self.all
    }

    /// How many there are of a key.
    pub fn of(&self, key: &K) -> usize {
        self.by_key.get(key).copied().unwrap_or(0)
    }

    /// Whether there are none, and no key is kept.
    pub fn is_empty(&self) -> bool {
        self.all == 0 && self.by_key.is_empty()
    }

    /// Counts one more of a key; of `None` in all only.
    pub fn add(&mut self, key: Option<K>) {
        self.all += 1;
        if let Some(key) = key {
            *self.by_key.entry(key).or_default() += 1;
        }
    }

    /// Counts one less of a key; in all only, if none of it was counted.
    pub fn remove(&mut self, key: &K) {
        self.all = self.all.saturating_sub(1);
        if let Some(own) = self.by_key.get_mut(key) {
            *own -= 1;
            if *own == 0 {
                self.by_key.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_without_a_count_are_forgotten() {
        let mut counts = KeyedCounts::default();
        counts.add(Some("a"));
        counts.add(Some("a"));
        counts.add(None);
        assert_eq!((counts.all(), counts.of(&"a"), counts.of(&"b")), (3, 2, 0));
        counts.remove(&"b");
        counts.remove(&"a");
        assert_eq!((counts.all(), counts.of(&"a"), counts.is_empty()), (1, 1, false));
        counts.remove(&"a");
        assert!(counts.is_empty(), "{counts:?}");
    }
}
