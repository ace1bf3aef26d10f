//! The known name that is probably meant by one that is not known, for errors that ask "did you mean".

/// Longest name for which a similar one is searched, bytes.
const MAX_SUGGESTED: usize = 128;

/// The same name in another case if there is one, else one with few differences.
pub fn suggest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = wanted.to_lowercase();
    // A difference for every third character, at most three.
    let most = (wanted.chars().count() / 3).clamp(1, 3);
    let mut closest: Option<(usize, &str)> = None;
    for name in known {
        if name.to_lowercase() == lower {
            return Some(name);
        }
        if name.len() > MAX_SUGGESTED || wanted.len() > MAX_SUGGESTED {
            continue;
        }
        let distance = strsim::osa_distance(&lower, &name.to_lowercase());
        if distance <= most && closest.is_none_or(|(least, _)| distance < least) {
            closest = Some((distance, name));
        }
    }
    closest.map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestion_prefers_another_case_to_fewer_differences() {
        let known = ["price1", "PRICE", "pride"];
        assert_eq!(suggest("price", known.into_iter()), Some("PRICE"));
        assert_eq!(suggest("prico1", known.into_iter()), Some("price1"));
        assert_eq!(suggest("quantity", known.into_iter()), None);
        assert_eq!(suggest("x", std::iter::empty()), None);
    }
}
