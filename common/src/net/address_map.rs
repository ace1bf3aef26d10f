//! One shared value for each address.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::Result;

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
    /// Those of `make`. After an error nothing is stored.
    pub fn get_or_insert(&self, addr: &str, make: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut values = self.values.lock();
        if let Some(value) = values.get(addr) {
            return Ok(value.clone());
        }
        if values.len() >= self.max_len {
            values.clear();
        }
        let value = make()?;
        values.insert(addr.to_string(), value.clone());
        Ok(value)
    }

    /// As [`AddressMap::get_or_insert`], for values whose creation cannot fail.
    pub fn get_or_insert_with(&self, addr: &str, make: impl FnOnce() -> T) -> T {
        let mut values = self.values.lock();
        if let Some(value) = values.get(addr) {
            return value.clone();
        }
        if values.len() >= self.max_len {
            values.clear();
        }
        let value = make();
        values.insert(addr.to_string(), value.clone());
        value
    }

    /// The value of `addr`, if there is one.
    pub fn get(&self, addr: &str) -> Option<T> {
        self.values.lock().get(addr).cloned()
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
    use crate::Error;

    #[test]
    fn value_is_made_once_and_not_kept_after_an_error() {
        let map = AddressMap::default();
        assert!(map.get_or_insert("a:1", || Err(Error::invalid("bad"))).is_err());
        assert_eq!(map.get_or_insert("a:1", || Ok(1)).unwrap(), 1);
        assert_eq!(map.get_or_insert("a:1", || Ok(2)).unwrap(), 1);
    }

    #[test]
    fn bounded_map_starts_anew_when_it_is_full() {
        let map = AddressMap::bounded(2);
        for addr in ["a:1", "b:1", "c:1"] {
            map.get_or_insert(addr, || Ok(1)).unwrap();
        }
        assert_eq!(map.get_or_insert("c:1", || Ok(2)).unwrap(), 1);
        assert_eq!(map.get_or_insert("a:1", || Ok(2)).unwrap(), 2);
    }
}
