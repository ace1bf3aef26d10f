//! Walks over the text of a JSON value that is known to be valid, without building it.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::cut;

/// What is wrong with a value.
#[derive(Debug)]
pub struct JsonFault {
    /// Where the value is in memory: a part of the row's text.
    pub address: usize,
    /// The path of the field, innermost first.
    pub path: Vec<String>,
    /// The reason.
    pub message: String,
}

impl JsonFault {
    /// A fault of a value.
    pub fn new(value: &str, message: impl Into<String>) -> Self {
        JsonFault { address: value.as_ptr() as usize, path: Vec::new(), message: message.into() }
    }

    /// Adds the name of the field that holds the value.
    pub fn within(mut self, name: &str) -> Self {
        self.path.push(name.to_string());
        self
    }
}

impl fmt::Display for JsonFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            let path: Vec<&str> = self.path.iter().rev().map(String::as_str).collect();
            write!(f, "column {:?}: ", cut(&path.join(".")))?;
        }
        f.write_str(&self.message)
    }
}

/// What to do with each part of a value.
type Each<'f, T> = &'f mut dyn FnMut(T) -> Result<(), JsonFault>;

#[derive(Deserialize)]
struct KeyText<'a>(#[serde(borrow)] Cow<'a, str>);

/// Passes each member or element on; keeps the first fault.
struct Walk<'f, 'a, T> {
    each: Each<'f, T>,
    fault: &'f mut Option<JsonFault>,
    text: std::marker::PhantomData<&'a str>,
}

impl<T> Walk<'_, '_, T> {
    fn pass<E: serde::de::Error>(&mut self, item: T) -> Result<(), E> {
        (self.each)(item).map_err(|fault| {
            *self.fault = Some(fault);
            E::custom("")
        })
    }
}

impl<'a> Visitor<'a> for Walk<'_, 'a, (Cow<'a, str>, &'a str)> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((KeyText(key), value)) = map.next_entry::<KeyText<'a>, &'a RawValue>()? {
            self.pass((key, value.get()))?;
        }
        Ok(())
    }
}

impl<'a> Visitor<'a> for Walk<'_, 'a, &'a str> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(mut self, mut seq: A) -> Result<(), A::Error> {
        while let Some(value) = seq.next_element::<&'a RawValue>()? {
            self.pass(value.get())?;
        }
        Ok(())
    }
}

impl<'a> DeserializeSeed<'a> for Walk<'_, 'a, (Cow<'a, str>, &'a str)> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'a> DeserializeSeed<'a> for Walk<'_, 'a, &'a str> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

fn walk<'a, T>(text: &'a str, each: Each<'_, T>) -> Result<(), JsonFault>
where
    for<'f> Walk<'f, 'a, T>: DeserializeSeed<'a>,
{
    let mut fault = None;
    let seed = Walk { each, fault: &mut fault, text: std::marker::PhantomData };
    let result = seed.deserialize(&mut serde_json::Deserializer::from_str(text)).map(|_| ());
    match fault {
        Some(fault) => Err(fault),
        None => result.map_err(|e| JsonFault::new(text, invalid(&e))),
    }
}

fn invalid(error: &serde_json::Error) -> String {
    let text = if error.is_data() { serde_json::Error::custom(error).to_string() } else { error.to_string() };
    text.split(" at line ").next().unwrap_or_default().to_string()
}

/// Calls `each` with every member of an object: its key, and the text of its value.
pub fn members<'a>(object: &'a str, each: Each<'_, (Cow<'a, str>, &'a str)>) -> Result<(), JsonFault> {
    walk(object, each)
}

/// Calls `each` with the text of every element of an array.
pub fn elements<'a>(array: &'a str, each: Each<'_, &'a str>) -> Result<(), JsonFault> {
    walk(array, each)
}

/// What a JSON string says.
pub fn string(text: &str) -> Result<Cow<'_, str>, JsonFault> {
    match serde_json::from_str::<KeyText<'_>>(text) {
        Ok(KeyText(text)) => Ok(text),
        Err(e) => Err(JsonFault::new(text, format!("{}: {}", invalid(&e), cut(text)))),
    }
}
