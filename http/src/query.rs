//! The parameters of a query string.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use url::form_urlencoded;
use volley_common::options::fields::{cut, header_value};
use volley_common::{Error, Result};

/// The most parameters of a request.
const MAX_PARAMETERS: usize = 1024;

/// The parameters of a request: each is taken once, and what is left is refused.
#[derive(Debug, Default)]
pub(crate) struct QueryParameters(BTreeMap<String, Vec<String>>);

impl QueryParameters {
    /// Those of a query string.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: text that is not UTF-8, or too many.
    pub fn parse(query: Option<&str>) -> Result<Self> {
        let mut parameters = BTreeMap::<String, Vec<String>>::new();
        for (count, (name, value)) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()).enumerate() {
            if count == MAX_PARAMETERS {
                return Err(Error::invalid(format!("the request has more than {MAX_PARAMETERS} parameters")));
            }
            // What is not UTF-8 was replaced.
            if name.contains('\u{fffd}') || value.contains('\u{fffd}') {
                return Err(Error::invalid("a parameter of the request is not UTF-8"));
            }
            parameters.entry(name.into_owned()).or_default().push(value.into_owned());
        }
        Ok(QueryParameters(parameters))
    }

    /// Takes a parameter that is given once.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it has two different values.
    pub fn take(&mut self, name: &str) -> Result<Option<String>> {
        let mut values = self.0.remove(name).unwrap_or_default();
        values.dedup();
        match values.len() {
            0 | 1 => Ok(values.pop()),
            _ => Err(Error::invalid(format!("the parameter {name:?} has two values: leave one out"))),
        }
    }

    /// Takes a whole number.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it is none, or given twice.
    pub fn take_number(&mut self, name: &str) -> Result<Option<u64>> {
        let Some(text) = self.take(name)? else { return Ok(None) };
        let number = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
        number.map(Some).ok_or_else(|| {
            Error::invalid(format!("the parameter {name:?} is {:?}, and must be a whole number", cut(&text)))
        })
    }

    /// Takes what is given of these options, as the keys of a command. A list of columns is divided at commas if it is given once; given
    /// several times, each value is a name.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: an option has two different values.
    pub fn take_options(&mut self, names: &[&str]) -> Result<Map<String, Value>> {
        let mut options = Map::new();
        for name in names {
            let value = match (*name, self.0.get(*name).map_or(0, Vec::len)) {
                (_, 0) => continue,
                ("columns" | "shard_by" | "stats_columns", 2..) => {
                    let mut names = self.0.remove(*name).unwrap_or_default();
                    // One name with a comma is given twice.
                    names.dedup();
                    names.into()
                }
                _ => match self.take(name)? {
                    Some(text) => header_value(name, &text),
                    None => continue,
                },
            };
            options.insert((*name).to_string(), value);
        }
        Ok(options)
    }

    /// Refuses what was not taken.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: names it, and what there is.
    pub fn finish(self, known: &[&str]) -> Result<()> {
        match self.0.into_keys().next() {
            None => Ok(()),
            Some(name) => Err(Error::invalid(format!(
                "there is no parameter {:?} here: the parameters are {}",
                cut(&name),
                if known.is_empty() { "none".into() } else { known.join(", ") }
            ))),
        }
    }
}

/// A query string of options, as [`QueryParameters::take_options`] reads it.
pub(crate) fn encode_options(options: &Map<String, Value>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    for (name, value) in options {
        match value {
            Value::Array(items) => {
                let texts = || items.iter().filter_map(Value::as_str);
                // One name with a comma would be divided.
                let repeated = texts().any(|text| text.contains(',') || text.trim() != text);
                match (repeated, items.len()) {
                    (true, 1) => texts().for_each(|text| {
                        query.append_pair(name, text).append_pair(name, text);
                    }),
                    (true, _) => texts().for_each(|text| {
                        query.append_pair(name, text);
                    }),
                    (false, _) => {
                        query.append_pair(name, &texts().collect::<Vec<_>>().join(","));
                    }
                }
            }
            Value::String(text) => {
                query.append_pair(name, text);
            }
            other => {
                query.append_pair(name, &other.to_string());
            }
        }
    }
    query.finish()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    const NAMES: [&str; 3] = ["columns", "limit", "where"];

    fn options(query: &str) -> Result<Value> {
        let mut parameters = QueryParameters::parse(Some(query))?;
        let options = parameters.take_options(&NAMES)?;
        parameters.finish(&NAMES)?;
        Ok(options.into())
    }

    #[test]
    fn parameters_become_options() {
        assert_eq!(options("").unwrap(), json!({}));
        assert_eq!(options("columns=a,b&limit=3").unwrap(), json!({ "columns": ["a", "b"], "limit": 3 }));
        assert_eq!(options("columns=a,b&columns=c").unwrap(), json!({ "columns": ["a,b", "c"] }));
        assert_eq!(options("where=x+%3E+%27a%26b%27").unwrap(), json!({ "where": "x > 'a&b'" }));
        assert_eq!(options("limit=3&limit=3").unwrap(), json!({ "limit": 3 }));
        for (query, why) in [
            ("limit=3&limit=4", "two values"),
            ("colums=a", "no parameter \"colums\" here: the parameters are columns, limit, where"),
            ("where=%ff", "not UTF-8"),
        ] {
            assert!(options(query).unwrap_err().message.contains(why), "{query}");
        }
        assert!(QueryParameters::parse(Some(&"a&".repeat(2000))).unwrap_err().message.contains("more than 1024"));
    }

    #[test]
    fn numbers_are_whole() {
        let number = |query| QueryParameters::parse(Some(query)).unwrap().take_number("n");
        assert_eq!((number("n=7").unwrap(), number("").unwrap()), (Some(7), None));
        for query in ["n=", "n=-1", "n=%2B1", "n=1.0", "n=99999999999999999999"] {
            assert!(number(query).unwrap_err().message.contains("whole number"), "{query}");
        }
    }

    #[test]
    fn encoded_options_are_read_back() {
        for value in [
            json!({ "columns": ["a", "b c"], "limit": 7, "where": "x > 'ä&=,'" }),
            json!({ "columns": ["a,b"] }),
            json!({ "columns": ["a,b", " c"] }),
        ] {
            let Value::Object(map) = &value else { panic!("an object") };
            assert_eq!(options(&encode_options(map)).unwrap(), value, "{value}");
        }
    }
}
