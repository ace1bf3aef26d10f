//! Names of columns in an argument.

use std::str::FromStr;

/// Names of columns in one argument: separated by commas, quoted as in CSV where needed.
#[derive(Clone, Debug, PartialEq)]
pub struct ColumnList(pub Vec<String>);

/// The names of all lists, in order; `None` if there is no list.
pub fn column_names(lists: &[ColumnList]) -> Option<Vec<String>> {
    (!lists.is_empty()).then(|| lists.iter().flat_map(|list| list.0.iter().cloned()).collect())
}

impl FromStr for ColumnList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut names, mut rest) = (Vec::new(), text);
        loop {
            let (name, after) = match rest.strip_prefix('"') {
                Some(quoted) => quoted_name(quoted)?,
                None => {
                    let end = rest.find(',').unwrap_or(rest.len());
                    (rest[..end].to_string(), &rest[end..])
                }
            };
            names.push(name);
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None if after.is_empty() => return Ok(ColumnList(names)),
                None => return Err(format!("after the closing quote there must be a comma, not {after:?}")),
            }
        }
    }
}

/// A name up to its closing quote, in which "" is a quote, and what follows.
fn quoted_name(text: &str) -> Result<(String, &str), String> {
    let (mut name, mut rest) = (String::new(), text);
    loop {
        let end = rest.find('"').ok_or("the closing quote is missing: '\"a,b\",c' are two columns")?;
        name.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(next) => {
                name.push('"');
                rest = next;
            }
            None => return Ok((name, rest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(arguments: &[&str]) -> Result<Vec<String>, String> {
        let lists = arguments.iter().map(|text| text.parse()).collect::<Result<Vec<ColumnList>, String>>()?;
        Ok(column_names(&lists).unwrap_or_default())
    }

    #[test]
    fn column_names_with_commas_are_quoted_or_repeated() {
        assert_eq!(column_names(&[]), None);
        assert_eq!(names(&["\"a,b\",c", "d"]).unwrap(), ["a,b", "c", "d"]);
        assert_eq!(names(&["\"say \"\"x\"\"\",5\" disk,"]).unwrap(), ["say \"x\"", "5\" disk", ""]);
        assert!(names(&["\"a,b"]).unwrap_err().contains("closing quote"));
        assert!(names(&["\"a\"b"]).unwrap_err().contains("comma"));
    }
}
