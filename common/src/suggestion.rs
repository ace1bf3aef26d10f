//! The known name that is probably meant by one that is not known, for errors that ask "did you mean".

use crate::options::fields::cut;

/// Longest name for which a similar one is searched, bytes.
const MAX_SUGGESTED: usize = 128;
/// Most names that are compared letter by letter. A table can have many thousand columns.
const MAX_COMPARED: usize = 1000;

/// The end of an error's sentence about an unknown name, such as `: did you mean "price"?`; empty if no known name is similar.
pub fn did_you_mean<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> String {
    suggest(wanted, known).map_or_else(String::new, |similar| format!(": did you mean {:?}?", cut(similar)))
}

/// The same name in another case if there is one, else one with few differences.
pub fn suggest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = wanted.to_lowercase();
    // A difference for every third character, at most three: all short names are similar.
    let most = (wanted.chars().count() / 3).min(3);
    let mut closest: Option<(usize, &str)> = None;
    let mut compared = 0;
    for name in known {
        if name.to_lowercase() == lower {
            return Some(name);
        }
        if compared == MAX_COMPARED || name.len() > MAX_SUGGESTED || wanted.len() > MAX_SUGGESTED {
            continue;
        }
        compared += 1;
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

    #[test]
    fn short_name_is_suggested_in_another_case_only() {
        assert_eq!(suggest("c1", ["c0", "C1"].into_iter()), Some("C1"));
        assert_eq!(suggest("c1", ["c0", "c2"].into_iter()), None);
    }

    #[test]
    fn of_very_many_names_only_the_first_are_compared() {
        let known: Vec<String> = (0..2 * MAX_COMPARED).map(|at| format!("column{at:05}")).collect();
        let suggested = |wanted: &str| suggest(wanted, known.iter().map(String::as_str));
        assert_eq!(suggested("colunm00999"), Some("column00999"));
        assert_eq!(suggested("COLUMN01999"), Some("column01999"));
        assert!(suggested("colunm01999").is_none_or(|near| near < "column01000"));
    }

    #[test]
    fn hint_ends_the_sentence_and_stays_short() {
        assert_eq!(did_you_mean("price", ["id", "Price"].into_iter()), r#": did you mean "Price"?"#);
        assert_eq!(did_you_mean("price", ["id"].into_iter()), "");
        let long = "X".repeat(1 << 20);
        assert!(did_you_mean(&long.to_lowercase(), [long.as_str()].into_iter()).len() < 1000);
    }
}
