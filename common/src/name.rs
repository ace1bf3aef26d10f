//! Names of tables.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// Most components of a name.
pub const MAX_COMPONENTS: usize = 16;
/// Most bytes of a name: its components and the slashes between them.
pub const MAX_BYTES: usize = 1024;

/// A table's name: 1 to 16 components of UTF-8, joined by `/` in text.
///
/// ```
/// use volley_common::TableName;
/// let name: TableName = "sales/2026/orders".parse()?;
/// assert_eq!(name.components().len(), 3);
/// assert!("sales//orders".parse::<TableName>().is_err());
/// # Ok::<(), volley_common::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName(Vec<String>);

impl TableName {
    /// The name of these components, as a path descriptor or a catalog row has them. A component that contains a `/` is
    /// several: clients put a whole path, such as a file's, into one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: none or too many components, too long, an empty component, or a control character.
    pub fn from_components<S: AsRef<str>>(components: &[S]) -> Result<Self> {
        let name = || components.iter().map(AsRef::as_ref).collect::<Vec<_>>().join("/");
        let bad = |why: &str| Err(Error::invalid(format!("the table name {:?} {why}", truncate(&name()))));
        if components.is_empty() {
            return Err(Error::invalid("the table name is empty: give 1 to 16 components, joined by /"));
        }
        let bytes: usize = components.iter().map(|c| c.as_ref().len() + 1).sum::<usize>() - 1;
        if bytes > MAX_BYTES {
            return bad("is longer than 1,024 bytes");
        }
        let components: Vec<&str> = components.iter().flat_map(|c| c.as_ref().split('/')).collect();
        if components.len() > MAX_COMPONENTS {
            return bad("has more than 16 components");
        }
        for component in &components {
            if component.is_empty() {
                return bad("has an empty component");
            }
            if component.chars().any(char::is_control) {
                return bad("contains a control character");
            }
        }
        Ok(TableName(components.into_iter().map(String::from).collect()))
    }

    /// The name in a ticket's or command's bytes.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: not UTF-8, or not a name.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        std::str::from_utf8(bytes).map_err(|_| Error::invalid("the table name is not UTF-8"))?.parse()
    }

    /// The components, as in a path descriptor.
    pub fn components(&self) -> &[String] {
        &self.0
    }
}

/// The first 80 characters.
fn truncate(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_string(),
    }
}

impl FromStr for TableName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            return TableName::from_components::<&str>(&[]);
        }
        TableName::from_components(&[text])
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("/"))
    }
}

impl fmt::Debug for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_round_trips_through_text_and_components() {
        let name: TableName = "a/b ü/c".parse().unwrap();
        assert_eq!(name.components(), ["a", "b ü", "c"]);
        assert_eq!(TableName::from_components(name.components()).unwrap(), name);
        assert_eq!(name.to_string(), "a/b ü/c");
    }

    #[test]
    fn component_with_slashes_is_several() {
        let name = TableName::from_components(&["data/w.csv"]).unwrap();
        assert_eq!(name.components(), ["data", "w.csv"]);
        assert_eq!(TableName::from_components(&["a/b", "c"]).unwrap(), "a/b/c".parse().unwrap());
        for bad in [&["/tmp/w.csv"][..], &["a/"], &["a", "/b"], &["a/b"; 9], &["a", ""]] {
            assert!(TableName::from_components(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn invalid_name_is_rejected_with_the_reason() {
        for (name, why) in [
            ("", "is empty"),
            ("a//b", "empty component"),
            ("/a", "empty component"),
            ("a\u{7}b", "control character"),
            (&"x".repeat(1025), "1,024 bytes"),
            (&vec!["a"; 17].join("/"), "16 components"),
        ] {
            let error = name.parse::<TableName>().unwrap_err();
            assert_eq!(error.code, crate::Code::InvalidArgument);
            assert!(error.message.contains(why), "{name:?}: {error}");
        }
        assert!(TableName::from_bytes(&[0xff]).is_err());
    }
}
