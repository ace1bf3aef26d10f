//! Cluster ids, and which of two ids is the later one after an unsafe recovery.
//!
//! A cluster that lost the majority of its coordinators can continue with one of them. It then has another id, so that
//! its members are not confused with the lost ones if these come back: the id from its bootstrap, the number of the
//! recovery, and a random number that tells two concurrent recoveries apart:
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

/// How another cluster's id relates to the own one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The same cluster.
    Same,
    /// The same cluster after a recovery that the own id does not include: the other id is valid, the own one is not.
    Later,
    /// The same cluster before a recovery: the other id is no longer valid.
    Earlier,
    /// A different cluster.
    Foreign,
}

/// The id after a recovery of cluster `id`; `nonce` is a random number.
pub fn recovered(id: &str, nonce: u32) -> String {
    let (bootstrap, recoveries) = parse(id);
    format!("{bootstrap}.{}.{nonce:08x}", recoveries + 1)
}

/// How `theirs` relates to `ours`.
pub fn relation(ours: &str, theirs: &str) -> Relation {
    let ((our_bootstrap, our_recoveries), (their_bootstrap, their_recoveries)) = (parse(ours), parse(theirs));
    match their_recoveries.cmp(&our_recoveries) {
        _ if ours == theirs => Relation::Same,
        _ if our_bootstrap != their_bootstrap => Relation::Foreign,
        std::cmp::Ordering::Greater => Relation::Later,
        std::cmp::Ordering::Less => Relation::Earlier,
        std::cmp::Ordering::Equal => Relation::Foreign,
    }
}

/// The id from the bootstrap, and the number of recoveries since.
fn parse(id: &str) -> (&str, u64) {
    let (bootstrap, rest) = id.split_once('.').unwrap_or((id, ""));
    let recoveries = rest.split('.').next().and_then(|number| number.parse().ok()).unwrap_or(0);
    (bootstrap, recoveries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_is_later_than_all_before_it() {
        let mut ids = vec!["ab".to_string()];
        for nonce in 0..12 {
            ids.push(recovered(&ids[ids.len() - 1], nonce));
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
    fn other_cluster_is_foreign_after_any_recoveries() {
        for other in ["cd", "cd.1.00000000", "", "abc.1.00000000"] {
            assert_eq!(relation("ab", other), Relation::Foreign, "{other:?}");
            assert_eq!(relation(other, "ab"), Relation::Foreign, "{other:?}");
        }
    }
}
