//! Strings that are never shown: passwords and tokens.

use std::fmt;

/// A string that is never shown: its `Debug` prints `***`. It is not overwritten in memory when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text: for the code that verifies it or sends it to its holder, never for a log or an error.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_secret_shows_nothing_of_it() {
        let secret = Secret::new("hunter2!");
        assert_eq!((format!("{secret:?}"), format!("{:#?}", Some(&secret)).contains("hunter")), ("***".into(), false));
        assert_eq!(secret.expose(), "hunter2!");
    }
}
