//! Values of flags, with errors that say what is expected.

use std::str::FromStr;

use volley_common::TableName;
use volley_common::identity::{check_principal_name, check_receiver};

/// A number that is not negative.
pub fn whole<N: FromStr>(text: &str) -> Result<N, String> {
    text.parse().map_err(|_| "must be a whole number that is not negative, and not too large".into())
}

/// The name of a user, group or token.
pub fn principal_name(text: &str) -> Result<String, String> {
    check_principal_name(text).map(|()| text.to_string()).map_err(|e| e.message)
}

/// `user:NAME` or `group:NAME`. The name may be one that no user of the catalog can have, but a certificate or an OIDC token.
pub fn grantee(text: &str) -> Result<String, String> {
    check_receiver(text).map(|()| text.to_string()).map_err(|e| e.message)
}

/// A prefix of table names by component: `/` is the whole cluster; a slash at the end does not matter.
pub fn prefix(text: &str) -> Result<String, String> {
    let components = text.strip_suffix('/').unwrap_or(text);
    if components.is_empty() && text == "/" {
        return Ok("/".into());
    }
    let name: Result<TableName, _> = components.parse();
    name.map(|_| components.to_string()).map_err(|_| {
        "must be components of table names joined by /, as in sales or sales/eu; / is the whole cluster".into()
    })
}

/// The longest life of a service token that servers allow.
const MAX_TOKEN_DAYS: u64 = 3650;

/// The life of a token as `30d`, in seconds.
pub fn lifetime(text: &str) -> Result<u64, String> {
    let unit = |unit: &str| match unit {
        "s" => Some(1),
        "m" | "min" => Some(60),
        "h" => Some(3_600),
        "d" => Some(86_400),
        "w" => Some(604_800),
        _ => None,
    };
    scaled(text, unit)
        .filter(|seconds| (1..=MAX_TOKEN_DAYS * 86_400).contains(seconds))
        .ok_or_else(|| {
            format!("must be a whole number over 0 with a unit: s, m (minutes), h, d or w, as in 12h or 30d, and at most {MAX_TOKEN_DAYS}d")
        })
}

/// The time after its last write at which a table is dropped, in seconds: a [`lifetime`]; 0 for `never`.
pub fn time_to_live(text: &str) -> Result<u64, String> {
    match text {
        "never" => Ok(0),
        _ => lifetime(text).map_err(|error| format!("{error}; or never")),
    }
}

/// A size as `10GiB`, in bytes.
pub fn byte_size(text: &str) -> Result<u64, String> {
    let unit = |unit: &str| {
        let (letter, base) = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => return Some(1),
            two if two.len() == 2 && two.ends_with('b') => (two.as_bytes()[0], 1000_u64),
            three if three.len() == 3 && three.ends_with("ib") => (three.as_bytes()[0], 1024),
            _ => return None,
        };
        let power = b"kmgtp".iter().position(|known| *known == letter)?;
        base.checked_pow(power as u32 + 1)
    };
    scaled(text, unit).ok_or_else(|| {
        "must be a whole number, of bytes or with a unit: kB, MB, GB, TB, PB (1000) or KiB, MiB, GiB, TiB, PiB (1024)"
            .into()
    })
}

/// A whole number times what its unit stands for.
fn scaled(text: &str, unit: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    number.checked_mul(unit(text[digits..].trim_start())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_have_a_unit() {
        let known =
            [("90s", 90), ("15m", 900), ("2 h", 7_200), ("30d", 2_592_000), ("1w", 604_800), ("3650d", 315_360_000)];
        for (text, seconds) in known {
            assert_eq!(lifetime(text), Ok(seconds), "{text}");
        }
        for text in ["", "30", "0d", "d", "-1d", "1.5h", "1y", "1D", "3651d", "99999999999999999d"] {
            assert!(lifetime(text).is_err_and(|why| why.contains("30d")), "{text}");
        }
    }

    #[test]
    fn table_may_live_for_ever() {
        assert_eq!((time_to_live("12h"), time_to_live("never")), (Ok(43_200), Ok(0)));
        assert!(time_to_live("0s").is_err_and(|why| why.contains("never")));
    }

    #[test]
    fn sizes_are_decimal_or_binary() {
        let known =
            [("0", 0), ("17", 17), ("2kB", 2_000), ("2 KiB", 2_048), ("10GiB", 10 << 30), ("1TB", 10_u64.pow(12))];
        for (text, bytes) in known {
            assert_eq!(byte_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "1.5GB", "-1", "1XB", "1G", "99999999PB", "1\u{e4}b"] {
            assert!(byte_size(text).is_err_and(|why| why.contains("GiB")), "{text}");
        }
    }

    #[test]
    fn prefixes_are_components_of_names() {
        assert_eq!(prefix("/").as_deref(), Ok("/"));
        assert_eq!(prefix("sales/").as_deref(), Ok("sales"));
        assert_eq!(prefix("sales/eu").as_deref(), Ok("sales/eu"));
        for text in ["", "//", "/sales", "a//b", "a\n"] {
            assert!(prefix(text).is_err_and(|why| why.contains("/ is the whole cluster")), "{text:?}");
        }
    }

    #[test]
    fn grantee_is_a_user_or_a_group() {
        assert_eq!(grantee("user:ana").as_deref(), Ok("user:ana"));
        assert_eq!(grantee("group:a b").as_deref(), Ok("group:a b"));
        for text in ["ana", "role:ana", "user", "User:ana"] {
            assert!(grantee(text).is_err_and(|why| why.contains("group:NAME")), "{text}");
        }
        assert!(grantee("user:").is_err() && grantee("user: a").is_err());
        assert!(principal_name("spiffe://a/b").is_err(), "no user of the catalog");
        assert_eq!(grantee("user:spiffe://a/b").as_deref(), Ok("user:spiffe://a/b"), "a certificate");
    }
}
