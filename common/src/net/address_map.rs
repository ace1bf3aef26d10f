//! One shared value for each address.

use std::collections::HashMap;
use std::convert::Infallible;

use parking_lot::Mutex;

/// One value, such as a channel, for each `HOST:PORT`; created when the address is first used.
pub struct AddressMap<T> {
    max_len: usize,
    values: Mutex<HashMap<String, T>>,
}

impl<T> Default for AddressMap<T> {
    fn default() -> Self {
        AddressMap::bounded(usize::MAX)
    }
}

impl<T> AddressMap<T> {
    /// A map that forgets all its values when a further one would exceed `max_len`.
    pub fn bounded(max_len: usize) -> Self {
        AddressMap { max_len, values: Mutex::default() }
    }
}

impl<T: Clone> AddressMap<T> {
    /// The value of `addr`; the first call creates it. `make` runs under the map's lock, so it must be fast.
    ///
    /// # Errors
    /// Those of `make`. After an error nothing is stored, and nothing is forgotten.
    pub fn get_or_insert<E>(&self, addr: &str, make: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let mut values = self.values.lock();
        if let Some(value) = values.get(addr) {
            return Ok(value.clone());
        }
        let value = make()?;
        if values.len() >= self.max_len {
            values.clear();
        }
        values.insert(addr.to_string(), value.clone());
        Ok(value)
    }

    /// As [`AddressMap::get_or_insert`], for values whose creation cannot fail.
    pub fn get_or_insert_with(&self, addr: &str, make: impl FnOnce() -> T) -> T {
        let Ok(value) = self.get_or_insert(addr, || Ok::<T, Infallible>(make()));
        value
    }

    /// The value of `addr`, if there is one.
    pub fn get(&self, addr: &str) -> Option<T> {
        self.values.lock().get(addr).cloned()
    }

    /// All values.
    pub fn values(&self) -> Vec<T> {
        self.values.lock().values().cloned().collect()
    }

    /// Forgets the value of `addr`; the next use creates another one.
    pub fn remove(&self, addr: &str) {
        self.values.lock().remove(addr);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn value_is_made_once_and_not_kept_after_an_error() {
        let map = AddressMap::default();
        assert_eq!(map.get_or_insert("a:1", || Err("bad")), Err("bad"));
        assert_eq!(map.get_or_insert_with("a:1", || 1), 1);
        assert_eq!(map.get_or_insert_with("a:1", || 2), 1);
    }

    #[test]
    fn bounded_map_starts_anew_when_it_is_full() {
        let map = AddressMap::bounded(2);
        for addr in ["a:1", "b:1"] {
            map.get_or_insert_with(addr, || 1);
        }
        assert_eq!(map.get_or_insert("c:1", || Err("bad")), Err("bad"));
        assert_eq!((map.get("a:1"), map.get("b:1")), (Some(1), Some(1)), "an error clears nothing");
        assert_eq!(map.get_or_insert_with("c:1", || 1), 1);
        assert_eq!((map.get("a:1"), map.get("c:1")), (None, Some(1)));
        assert_eq!(map.values(), [1]);
    }
}
