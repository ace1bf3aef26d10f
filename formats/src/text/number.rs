//! Numbers as JSON writes them, and whether a type holds them without changing them.
//!
//! `007`, `+1`, `.5` and `1_000` are no numbers but text. A float holds a number if the float, printed with as many digits
//! as the text has, gives the text again: `0.1` and `0.10000000000000001` do, `9007199254740993` does not.

use std::fmt::LowerExp;

/// Digits of a number beyond which no float is considered.
const MAX_FLOAT_DIGITS: usize = 800;
/// Numbers that are floats but not numbers of JSON, as `volley get` writes them to CSV.
const SPECIALS: [&str; 3] = ["NaN", "inf", "-inf"];
/// Digits of a [`arrow::datatypes::Decimal128Type`].
const MAX_DECIMAL_DIGITS: usize = 38;

/// A number, split into its parts.
#[derive(Clone, Copy, Debug)]
pub struct NumberText<'a> {
    text: &'a str,
    negative: bool,
    integer: &'a str,
    /// Without trailing zeros.
    fraction: &'a str,
    exponent: Option<i32>,
}

fn digits(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|b| b.is_ascii_digit()).count()
}

impl<'a> NumberText<'a> {
    /// The number, if the text is one as JSON writes it.
    pub fn parse(text: &'a str) -> Option<NumberText<'a>> {
        let bytes = text.as_bytes();
        let negative = bytes.first() == Some(&b'-');
        let start = usize::from(negative);
        let integer = digits(&bytes[start..]);
        let mut at = start + integer;
        if integer == 0 || (integer > 1 && bytes[start] == b'0') {
            return None;
        }
        let mut number = NumberText { text, negative, integer: &text[start..at], fraction: "", exponent: None };
        if bytes.get(at) == Some(&b'.') {
            let count = digits(&bytes[at + 1..]);
            if count == 0 {
                return None;
            }
            number.fraction = text[at + 1..at + 1 + count].trim_end_matches('0');
            at += 1 + count;
        }
        if matches!(bytes.get(at), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
            let count = digits(&bytes[at + 1 + sign..]);
            if count == 0 {
                return None;
            }
            number.exponent = Some(text[at + 1..at + 1 + sign + count].parse().ok()?);
            at += 1 + sign + count;
        }
        (at == bytes.len()).then_some(number)
    }

    /// Whether it is written as an integer, other than `-0`.
    fn is_integer(&self) -> bool {
        self.text.len() == self.integer.len() + usize::from(self.negative) && !(self.negative && self.integer == "0")
    }

    /// The integer, if the type holds it.
    pub fn integer<N: std::str::FromStr>(&self) -> Option<N> {
        if self.is_integer() {
            return self.text.parse().ok();
        }
        self.scaled(0)?.parse().ok()
    }

    /// The float, if it holds the number.
    pub fn float64(&self) -> Option<f64> {
        let value: f64 = self.text.parse().ok()?;
        let short = self.exponent.is_none() && self.integer.len() + self.fraction.len() <= 15;
        (short || (value.is_finite() && self.is_printed_by(value.abs()))).then_some(value)
    }

    /// The float, if it holds the number.
    pub fn float32(&self) -> Option<f32> {
        let value: f32 = self.text.parse().ok()?;
        (value.is_finite() && self.is_printed_by(value.abs())).then_some(value)
    }

    /// Whether a float, printed with as many digits, is this number.
    pub fn is_printed_by(&self, value: impl LowerExp) -> bool {
        let all = self.integer.bytes().chain(self.fraction.bytes());
        let zeros = all.clone().take_while(|b| *b == b'0').count();
        let count = self.integer.len() + self.fraction.len() - zeros;
        if count > MAX_FLOAT_DIGITS {
            return false;
        }
        let printed = format!("{value:.*e}", count.saturating_sub(1));
        let Some((mantissa, exponent)) = printed.split_once('e') else { return false };
        if count == 0 {
            return mantissa == "0";
        }
        let expected = i64::from(self.exponent.unwrap_or(0)) + self.integer.len() as i64 - 1 - zeros as i64;
        exponent.parse() == Ok(expected) && mantissa.bytes().filter(|b| *b != b'.').eq(all.skip(zeros))
    }

    /// The digits of the number times 10 to the power `scale`, if that is an integer.
    fn scaled(&self, scale: i8) -> Option<String> {
        let shift = i64::from(scale) - self.fraction.len() as i64 + i64::from(self.exponent.unwrap_or(0));
        let all = [self.integer, self.fraction].concat();
        let digits = all.trim_start_matches('0');
        if digits.is_empty() {
            return Some("0".into());
        }
        let sign = if self.negative { "-" } else { "" };
        if shift >= 0 {
            let fits = digits.len() as i64 + shift <= 128;
            return fits.then(|| format!("{sign}{digits}{}", "0".repeat(shift as usize)));
        }
        let kept = digits.len().checked_sub(usize::try_from(-shift).ok()?)?;
        let exact = kept > 0 && digits[kept..].bytes().all(|b| b == b'0');
        exact.then(|| format!("{sign}{}", &digits[..kept]))
    }

    /// The digits of the unscaled value of a decimal, if the type holds the number.
    pub fn decimal(&self, precision: u8, scale: i8) -> Option<String> {
        self.scaled(scale).filter(|text| text.trim_start_matches('-').len() <= usize::from(precision))
    }
}

/// A float that is no number of JSON.
pub fn special(text: &str) -> Option<f64> {
    SPECIALS.contains(&text).then(|| text.parse().ok()).flatten()
}

/// What is known of the numbers of a column.
#[derive(Clone, Copy, Debug, Default)]
pub struct NumberStats {
    /// Whether there are numbers.
    pub numbers: bool,
    /// Whether there are [`special`] ones.
    pub specials: bool,
    not_int64: bool,
    not_float64: bool,
    not_decimal: bool,
    integer_digits: usize,
    scale: usize,
}

/// The types of numbers that inference chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberType {
    /// All are integers of 64 bit.
    Int64,
    /// A float holds each.
    Float64,
    /// A decimal of this precision and scale holds each.
    Decimal(u8, i8),
    /// Only text holds each.
    Text,
}

impl NumberStats {
    /// Adds a number.
    pub fn add(&mut self, number: &NumberText<'_>) {
        self.numbers = true;
        self.integer_digits = self.integer_digits.max(number.integer.len());
        if number.is_integer() {
            // 15 digits fit every type.
            if number.integer.len() > 15 {
                let beyond_int64 = number.integer::<i64>().is_none();
                self.not_int64 |= beyond_int64;
                // An id that a float happens to hold would come back as 1.8446744073709552e19.
                self.not_float64 |= beyond_int64 || number.float64().is_none();
            }
            return;
        }
        self.not_int64 = true;
        self.not_float64 |= number.float64().is_none();
        let negative_zero = number.negative && number.integer == "0" && number.fraction.is_empty();
        self.not_decimal |= number.exponent.is_some() || negative_zero;
        self.scale = self.scale.max(number.fraction.len());
    }

    /// Adds what is known of other numbers.
    pub fn merge(&mut self, other: &NumberStats) {
        self.numbers |= other.numbers;
        self.specials |= other.specials;
        self.not_int64 |= other.not_int64;
        self.not_float64 |= other.not_float64;
        self.not_decimal |= other.not_decimal;
        self.integer_digits = self.integer_digits.max(other.integer_digits);
        self.scale = self.scale.max(other.scale);
    }

    /// The type that holds all of them.
    pub fn number_type(&self) -> NumberType {
        let digits = self.integer_digits + self.scale;
        if !self.numbers {
            NumberType::Text
        } else if !self.not_int64 && !self.specials {
            NumberType::Int64
        } else if !self.not_float64 {
            NumberType::Float64
        } else if !self.specials && !self.not_decimal && digits <= MAX_DECIMAL_DIGITS {
            NumberType::Decimal(digits as u8, self.scale as i8)
        } else {
            NumberType::Text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(texts: &[&str]) -> NumberType {
        let mut stats = NumberStats::default();
        texts.iter().for_each(|text| stats.add(&NumberText::parse(text).unwrap()));
        stats.number_type()
    }

    #[test]
    fn text_that_is_no_json_number_is_refused() {
        for text in
            ["", "-", "007", "+1", ".5", "1.", "1e", "1e+", "0x1", "1_0", " 1", "1 ", "-01", "NaN", "1.5.2", "١"]
        {
            assert!(NumberText::parse(text).is_none(), "{text}");
        }
        for text in ["0", "-0", "10", "1.5", "1.50", "1e5", "1E-5", "-2.5e+10"] {
            assert!(NumberText::parse(text).is_some(), "{text}");
        }
    }

    #[test]
    fn number_type_holds_every_number() {
        assert_eq!(types(&["1", "-9223372036854775808"]), NumberType::Int64);
        assert_eq!(types(&["20", "20.75"]), NumberType::Float64);
        assert_eq!(types(&["9007199254740993", "20"]), NumberType::Int64);
        assert_eq!(types(&["9007199254740993", "0.5"]), NumberType::Decimal(17, 1));
        assert_eq!(types(&["9007199254740992", "0.5"]), NumberType::Float64);
        assert_eq!(types(&["18446744073709551615"]), NumberType::Decimal(20, 0));
        assert_eq!(types(&["0.1", "0.10000000000000001", "1.10"]), NumberType::Float64);
        assert_eq!(types(&["0.1234567890123456789"]), NumberType::Decimal(20, 19));
        assert_eq!(types(&["0.1234567890123456789", "1e5"]), NumberType::Text);
        assert_eq!(types(&["-0"]), NumberType::Float64);
        assert_eq!(types(&["1e400"]), NumberType::Text);
        assert_eq!(types(&["1e-400"]), NumberType::Text);
        assert_eq!(types(&["1e23", "5e-324", "1.7976931348623157e308"]), NumberType::Float64);
        assert_eq!(types(&["100000000000000000000000", "0.5"]), NumberType::Decimal(25, 1));
        assert_eq!(types(&["123456789012345678901234567890123456789"]), NumberType::Text);
    }

    #[test]
    fn integers_beyond_int64_are_never_floats() {
        assert_eq!(types(&["18446744073709551616"]), NumberType::Decimal(20, 0));
        assert_eq!(types(&["-9223372036854775809", "7"]), NumberType::Decimal(19, 0));
        assert_eq!(types(&["100000000000000000000", "0.5"]), NumberType::Decimal(22, 1));
        assert_eq!(types(&["18446744073709551616", "1e5"]), NumberType::Text);
        let power = format!("1{}", "0".repeat(40));
        assert_eq!(types(&[&power]), NumberType::Text);
    }

    #[test]
    fn decimals_and_integers_are_exact_or_refused() {
        let number = |text| NumberText::parse(text).unwrap();
        assert_eq!(number("12.50").decimal(4, 1).as_deref(), Some("125"));
        assert_eq!(number("12.55").decimal(4, 1), None);
        assert_eq!(number("-1.5e3").decimal(6, 2).as_deref(), Some("-150000"));
        assert_eq!(number("1000.5").decimal(4, 1), None);
        assert_eq!(number("7.0").integer::<i8>(), Some(7));
        assert_eq!((number("128").integer::<i8>(), number("7.5").integer::<i64>()), (None, None));
        assert_eq!(number("0.1").float32(), Some(0.1));
        assert_eq!((number("16777217").float32(), number("9007199254740993").float64()), (None, None));
    }
}
