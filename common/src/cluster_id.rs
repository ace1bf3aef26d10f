//! A cluster's id, and which of two is the later one after a recovery.
//!
//! A cluster that lost the majority of its coordinators can be made to go on with one of them. What it is from
//! then on must not be taken for what the lost ones still believe in, so it has another id: that of the cluster as
//! it was formed, the number of the recovery, and a random number, so that two recoveries are never one:
//!
//! ```
//! use volley_common::cluster_id::{Relation, recovered, relation};
//! let formed = "0123456789abcdef0123456789abcdef";
//! let once = recovered(formed, 7);
//! assert_eq!(once, "0123456789abcdef0123456789abcdef.1.00000007");
//! assert_eq!(relation(formed, &once), Relation::Later);
//! assert_eq!(relation(&once, formed), Relation::Earlier);
//! assert_eq!(relation(&once, &recovered(formed, 8)), Relation::Foreign);
//! ```

/// What another cluster id is to one's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The same cluster.
    Same,
    /// The cluster after a recovery that ours has not seen: it counts, ours does not.
    Later,
    /// The cluster before a recovery: it does not count any more.
    Earlier,
    /// Another cluster.
    Foreign,
}

/// The id after a recovery; `chance` is a random number.
pub fn recovered(id: &str, chance: u32) -> String {
    let (formed, recoveries) = parse(id);
    format!("{formed}.{}.{chance:08x}", recoveries + 1)
}

/// What `theirs` is to `ours`.
pub fn relation(ours: &str, theirs: &str) -> Relation {
    let ((formed, own), (their_formed, their)) = (parse(ours), parse(theirs));
    match their.cmp(&own) {
        _ if ours == theirs => Relation::Same,
        _ if formed != their_formed => Relation::Foreign,
        std::cmp::Ordering::Greater => Relation::Later,
        std::cmp::Ordering::Less => Relation::Earlier,
        std::cmp::Ordering::Equal => Relation::Foreign,
    }
}

/// The id as it was formed, and how many recoveries there were.
fn parse(id: &str) -> (&str, u64) {
    let (formed, rest) = id.split_once('.').unwrap_or((id, ""));
    let recoveries = rest.split('.').next().and_then(|number| number.parse().ok()).unwrap_or(0);
    (formed, recoveries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recovery_is_later_than_all_before_it() {
        let mut ids = vec!["ab".to_string()];
        for chance in 0..12 {
            ids.push(recovered(&ids[ids.len() - 1], chance));
        }
        for (at, id) in ids.iter().enumerate() {
            for (before, earlier) in ids[..at].iter().enumerate() {
                assert_eq!(relation(earlier, id), Relation::Later, "{before} and {at}");
                assert_eq!(relation(id, earlier), Relation::Earlier, "{before} and {at}");
            }
            assert_eq!(relation(id, id), Relation::Same);
        }
    }

    #[test]
    fn other_clusters_are_foreign_however_often_they_were_recovered() {
        for other in ["cd", "cd.1.00000000", "", "abc.1.00000000"] {
            assert_eq!(relation("ab", other), Relation::Foreign, "{other:?}");
            assert_eq!(relation(other, "ab"), Relation::Foreign, "{other:?}");
        }
    }
}
