//! Where a field is in its schema. The text is made only for an error: made at each level, the paths below a field with a
//! long name would cost the product of their number and its length.

use std::fmt;

/// The longest part of a path in an error, characters.
const MAX_SHOWN: usize = 100;

/// A field and those that it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct FieldPath<'a> {
    parent: Option<&'a FieldPath<'a>>,
    name: &'a str,
}

impl<'a> FieldPath<'a> {
    /// A column.
    pub fn new(name: &'a str) -> Self {
        FieldPath { parent: None, name }
    }

    /// A field below this one.
    pub fn child(&'a self, name: &'a str) -> FieldPath<'a> {
        FieldPath { parent: Some(self), name }
    }
}

impl fmt::Display for FieldPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            write!(f, "{parent}.")?;
        }
        f.write_str(&shown(self.name))
    }
}

/// A name of a field as an error shows it.
pub(super) fn shown(name: &str) -> String {
    match name.char_indices().nth(MAX_SHOWN) {
        Some((at, _)) => format!("{}… ({} bytes)", &name[..at], name.len()),
        None => name.to_string(),
    }
}
