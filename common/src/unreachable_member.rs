//! What to do about a member that does not answer, in the words of `volley doctor` and of the web page.
//!
//! Nobody can tell from outside whether its process ended or hangs. Removing a member can lose data, so it is advised
//! only while a majority of the coordinators answers.

use std::fmt::Display;

/// What to do about a member of which nothing else is known.
const START: &str = "start it, or restart it if it runs and hangs";

/// What to do about a node that holds its session with the coordinators, but does not answer.
pub const HANGING_NODE_REMEDY: &str = "its process or its machine hangs, or the network between is broken: restart it";

/// What to do about a coordinator that does not answer.
pub fn coordinator_remedy(id: impl Display, majority_answers: bool) -> String {
    if majority_answers {
        format!(
            "{START}; if its machine is lost for good, add another coordinator first, then `volley coordinators remove {id}`: see docs/how-to/lost-members.md"
        )
    } else {
        format!(
            "{START}; if a majority is lost for good, follow \"Permanent loss of a majority\" in docs/operations.md"
        )
    }
}

/// What to do about a node that does not answer. `is_alive`: the coordinators have not marked it as unreachable.
pub fn node_remedy(id: impl Display, is_alive: bool, majority_answers: bool) -> String {
    if is_alive {
        HANGING_NODE_REMEDY.to_string()
    } else if majority_answers {
        format!("{START}; if its machine is lost for good, `volley remove {id}` removes it, unless data would be lost")
    } else {
        START.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_removed_only_while_a_majority_answers() {
        for (remedy, is_removal) in [
            (coordinator_remedy(2, true), true),
            (coordinator_remedy(2, false), false),
            (node_remedy("n1", false, true), true),
            (node_remedy("n1", false, false), false),
            (node_remedy("n1", true, true), false),
        ] {
            assert_eq!(remedy.contains("remove "), is_removal, "{remedy}");
            assert!(remedy.contains("restart it"), "{remedy}");
        }
    }
}
