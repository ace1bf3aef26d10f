//! Where options come from: the keys of a JSON object, and headers. One that is given twice must have one value.

use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::map::Entry;
use serde_json::{Map, Value};
use tonic::metadata::{KeyAndValueRef, MetadataMap};

use super::{HEADER_PREFIX, NON_OPTION_HEADERS, Options, fields};
use crate::{Error, Result};

/// A JSON object none of whose keys has two values.
pub struct UnambiguousMap(pub Map<String, Value>);

impl<'de> Deserialize<'de> for UnambiguousMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_map(UnambiguousVisitor)
    }
}

struct UnambiguousVisitor;

impl<'de> Visitor<'de> for UnambiguousVisitor {
    type Value = UnambiguousMap;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> std::result::Result<UnambiguousMap, A::Error> {
        let mut map = Map::new();
        while let Some((key, value)) = access.next_entry::<String, Value>()? {
            match map.entry(key) {
                Entry::Vacant(entry) => {
                    entry.insert(value);
                }
                Entry::Occupied(entry) if *entry.get() == value => {}
                Entry::Occupied(entry) => {
                    let key = fields::cut(entry.key());
                    return Err(A::Error::custom(format!("the key {key:?} has two values: leave one out")));
                }
            }
        }
        Ok(UnambiguousMap(map))
    }
}

/// The options of a JSON object and of the headers.
///
/// # Errors
/// INVALID_ARGUMENT: an unknown option, an invalid value, or two different values of one option.
pub(super) fn options_from(mut map: Map<String, Value>, headers: &MetadataMap) -> Result<Options> {
    for entry in headers.iter() {
        let KeyAndValueRef::Ascii(key, value) = entry else { continue };
        let Some(option) = key.as_str().strip_prefix(HEADER_PREFIX) else { continue };
        if NON_OPTION_HEADERS.contains(&option) {
            continue;
        }
        let text = value.to_str().map_err(|_| Error::invalid(format!("the header {key} is not text")))?;
        let option = option.replace('-', "_");
        let value = fields::header_value(&option, text);
        match map.get(&option).filter(|other| !other.is_null()) {
            None => drop(map.insert(option, value)),
            Some(other) if fields::is_same(&option, other, &value)? => {}
            Some(_) => {
                let option = fields::cut(&option);
                return Err(Error::invalid(format!(
                    "the option {option:?} has another value in the header {key} than elsewhere in the request: leave one out"
                )));
            }
        }
    }
    let options = fields::parse(map)?;
    options.check()?;
    Ok(options)
}
