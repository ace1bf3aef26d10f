//! The fields of JSON objects by name, and which of them an object has.

use std::collections::HashMap;

use super::cut;
use super::json::JsonFault;

/// Fields with their indexes.
#[derive(Clone, Debug, Default)]
pub struct ObjectFields {
    names: Vec<String>,
    index: HashMap<String, usize>,
    /// The last object that had each field.
    last_object: Vec<u64>,
    objects: u64,
}

impl ObjectFields {
    /// The names of all fields, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Adds a field at the end; returns its index.
    pub fn add(&mut self, name: &str) -> usize {
        self.index.insert(name.to_string(), self.names.len());
        self.names.push(name.to_string());
        self.last_object.push(0);
        self.names.len() - 1
    }

    /// The index of a field, which is `expected` if objects have their fields in one order.
    pub fn find(&self, name: &str, expected: usize) -> Option<usize> {
        let as_expected = self.names.get(expected).is_some_and(|have| have == name);
        if as_expected { Some(expected) } else { self.index.get(name).copied() }
    }

    /// Begins an object, which has no field yet.
    pub fn begin_object(&mut self) {
        self.objects += 1;
    }

    /// The object has the field, with this value.
    ///
    /// # Errors
    /// It has the field twice.
    pub fn enter(&mut self, index: usize, value: &str) -> Result<(), JsonFault> {
        if !self.is_entered(index) {
            self.last_object[index] = self.objects;
            return Ok(());
        }
        Err(JsonFault::new(value, format!("the object has the key {:?} twice", cut(&self.names[index]))))
    }

    /// Whether the object has the field.
    pub fn is_entered(&self, index: usize) -> bool {
        self.last_object[index] == self.objects
    }
}
