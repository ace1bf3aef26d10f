//! What serde expected of a value, in words that do not name the types of a program.

use std::fmt::Display;

/// The text of an error of serde, with what was expected in plain words.
pub fn in_plain_words(error: &impl Display) -> String {
    let text = error.to_string();
    let Some((what, expected)) = text.rsplit_once(", expected ") else { return text };
    let (expected, place) = match expected.find(" at line ") {
        Some(at) => expected.split_at(at),
        None => (expected, ""),
    };
    let plain = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number that is not negative",
        "i32" | "i64" => "a whole number",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "string or map" => "a text",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other => other,
    };
    format!("{what}, expected {plain}{place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_the_program_are_not_named() {
        let of = |text: &str| in_plain_words(&text);
        assert_eq!(
            of("invalid type: string \"many\", expected u32 at line 1 column 9"),
            "invalid type: string \"many\", expected a whole number from 0 to 4294967295 at line 1 column 9"
        );
        assert_eq!(of("invalid type: integer `5`, expected a sequence"), "invalid type: integer `5`, expected a list");
        assert_eq!(of("invalid type: null, expected struct DropBody"), "invalid type: null, expected an object");
        for text in ["unknown field `x`, expected `a` or `b`", "EOF while parsing"] {
            assert_eq!(of(text), text);
        }
    }
}
