//! The queries of TPC-H, with the values that the specification gives for validation (revision 3, clause 2.4).

/// In the order of their numbers, from 1.
const QUERIES: [&str; 22] = [
    include_str!("../../queries/q01.sql"),
    include_str!("../../queries/q02.sql"),
    include_str!("../../queries/q03.sql"),
    include_str!("../../queries/q04.sql"),
    include_str!("../../queries/q05.sql"),
    include_str!("../../queries/q06.sql"),
    include_str!("../../queries/q07.sql"),
    include_str!("../../queries/q08.sql"),
    include_str!("../../queries/q09.sql"),
    include_str!("../../queries/q10.sql"),
    include_str!("../../queries/q11.sql"),
    include_str!("../../queries/q12.sql"),
    include_str!("../../queries/q13.sql"),
    include_str!("../../queries/q14.sql"),
    include_str!("../../queries/q15.sql"),
    include_str!("../../queries/q16.sql"),
    include_str!("../../queries/q17.sql"),
    include_str!("../../queries/q18.sql"),
    include_str!("../../queries/q19.sql"),
    include_str!("../../queries/q20.sql"),
    include_str!("../../queries/q21.sql"),
    include_str!("../../queries/q22.sql"),
];
/// The place of the fraction of query 11, which depends on the scale.
const FRACTION: &str = "{fraction}";

/// The numbers of these queries, or of all.
///
/// # Errors
/// A number that is none of a query.
pub fn chosen(numbers: &[usize]) -> Result<Vec<usize>, String> {
    let all = 1..=QUERIES.len();
    match numbers.iter().find(|number| !all.contains(*number)) {
        Some(unknown) => Err(format!("there is no query {unknown}: they are 1 to {}", QUERIES.len())),
        None if numbers.is_empty() => Ok(all.collect()),
        None => Ok(numbers.to_vec()),
    }
}

/// The text of a query at this scale.
///
/// # Panics
/// It is none of [`chosen`].
pub fn text(number: usize, scale: f64) -> String {
    QUERIES[number - 1].replace(FRACTION, &format!("{:.12}", 0.0001 / scale))
}

/// As the report names a query.
pub fn name(number: usize) -> String {
    format!("q{number:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_queries_run_unless_some_are_chosen() {
        assert_eq!(chosen(&[]).unwrap().len(), 22);
        assert_eq!(chosen(&[22, 1]).unwrap(), [22, 1]);
        assert!(chosen(&[0]).is_err() && chosen(&[1, 23]).is_err());
    }

    #[test]
    fn fraction_follows_the_scale() {
        assert!(text(11, 1.0).contains("* 0.000100000000\n"), "{}", text(11, 1.0));
        assert!(text(11, 10.0).contains("* 0.000010000000\n"), "{}", text(11, 10.0));
        assert!((1..=22).all(|number| !text(number, 1.0).contains(['{', '?', '$'])));
    }
}
