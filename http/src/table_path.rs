//! Names of tables in paths: `/api/v1/data/a/b` is table `a/b`.

use volley_common::{Error, Result, TableName};

/// The table that the rest of a path names.
///
/// # Errors
/// INVALID_ARGUMENT: a `%` without two digits, an escaped slash, text that is not UTF-8, or no name.
pub fn table_of_path(rest: &str) -> Result<TableName> {
    let components: Vec<String> = rest.split('/').map(decoded).collect::<Result<_>>()?;
    TableName::from_components(&components)
}

fn decoded(component: &str) -> Result<String> {
    let bytes = percent_decoded(component)
        .ok_or_else(|| Error::invalid("the path has a % that is not followed by two hexadecimal digits"))?;
    let text = String::from_utf8(bytes).map_err(|_| Error::invalid("the table's name in the path is not UTF-8"))?;
    match text.contains('/') {
        true => Err(Error::invalid("a component of a table's name holds no slash: write / in the path, and not %2F")),
        false => Ok(text),
    }
}

fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex(bytes.next()?)? << 4 | hex(bytes.next()?)?,
            other => other,
        });
    }
    Some(decoded)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// A name as the rest of a path.
pub fn path_of_table(name: &TableName) -> String {
    let escaped = |component: &String| {
        let bytes = component.bytes().map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        });
        bytes.collect::<String>()
    };
    name.components().iter().map(escaped).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_a_path() {
        for name in ["a", "a/b", "b ü/%2F?#", "../..", "{x}/+"] {
            let name: TableName = name.parse().unwrap();
            assert_eq!(table_of_path(&path_of_table(&name)).unwrap(), name);
        }
        assert_eq!(table_of_path("a+b").unwrap().to_string(), "a+b");
    }

    #[test]
    fn hostile_paths_are_refused() {
        for (path, why) in [
            ("a%2Fb", "not %2F"),
            ("a%2fb", "not %2F"),
            ("%", "two hexadecimal digits"),
            ("a%0", "two hexadecimal digits"),
            ("%zz", "two hexadecimal digits"),
            ("%+1", "two hexadecimal digits"),
            ("%ff", "not UTF-8"),
            ("a%00", "control character"),
            ("a%0Ab", "control character"),
            ("a//b", "empty component"),
            ("", "empty component"),
            ("a/", "empty component"),
        ] {
            let error = table_of_path(path).unwrap_err();
            assert!(error.message.contains(why), "{path}: {error}");
        }
    }
}
