//! Why a cluster is not green, and what to do: what `volley doctor` says of its members, in words for a page.

use serde_json::Value;
use volley_common::server::ExposureKind;
use volley_common::unreachable_member::{coordinator_remedy, node_remedy};

use super::figures::{count, items, number, plural, size_of, text};

/// A reason.
#[derive(Debug, PartialEq)]
pub(crate) struct HealthReason {
    /// `warn` or `bad`.
    pub tone: &'static str,
    /// What it is about.
    pub subject: String,
    pub text: String,
    /// What to do; may be empty.
    pub remedy: String,
}

impl HealthReason {
    fn bad(subject: impl Into<String>, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        HealthReason { tone: "bad", subject: subject.into(), text: text.into(), remedy: remedy.into() }
    }

    fn warn(subject: impl Into<String>, text: impl Into<String>, remedy: impl Into<String>) -> Self {
        HealthReason { tone: "warn", ..HealthReason::bad(subject, text, remedy) }
    }
}

/// The cluster's state in one sentence.
pub(crate) fn sentence(status: &Value) -> &'static str {
    match status["health"].as_str() {
        Some("green") => "Every part has all its copies on nodes that answer, and every member answers.",
        Some("yellow") => "Everything can be read, but copies are missing or a member does not answer.",
        Some("red") if status["stale"].is_string() => {
            "No majority of the coordinators answers: nothing can be written, and what follows may be old."
        }
        Some("red") => "Some rows cannot be read.",
        _ => "The state of the cluster is unknown.",
    }
}

/// Why a cluster is not as it should be, the worst first.
pub(crate) fn reasons(status: &Value) -> Vec<HealthReason> {
    let mut reasons = Vec::new();
    let has_majority = status["stale"].is_null();
    if !has_majority {
        reasons.push(HealthReason::bad(
            "Coordinators",
            text(&status["stale"]),
            "start the coordinators that do not run",
        ));
    }
    reasons.extend(items(&status["unreadable"]).map(unreadable));
    reasons.extend(items(&status["coordinators"]).filter_map(|one| coordinator(one, has_majority)));
    reasons.extend(items(&status["nodes"]).filter_map(|one| node(one, has_majority)));
    let below = number(&status["copies"]["below_replicas"]).unwrap_or_default();
    if below > 0 {
        reasons.push(HealthReason::warn(
            "Copies",
            format!("{} with fewer copies than the table's replicas", plural(below, "part")),
            "nothing, if repair is under way; the page of a table says why its copies are missing; a table with more replicas than there are nodes needs more nodes",
        ));
    }
    for failure in items(&status["tls_failures"]) {
        reasons.push(HealthReason::warn(
            "TLS files",
            text(failure),
            "replace the files: the former ones are in use until then",
        ));
    }
    for node in items(&status["nodes"]) {
        reasons.extend(kept_files(node));
    }
    reasons.sort_by_key(|reason| reason.tone != "bad");
    reasons
}

/// What `--insecure` leaves open, if a member has it. It is no reason for the cluster's health, because it is as configured.
pub(crate) fn insecure(status: &Value) -> Option<HealthReason> {
    let is_insecure = |one: &&Value| one["kind"].as_str().and_then(ExposureKind::named) == Some(ExposureKind::Insecure);
    let exposure = items(&status["exposures"]).find(is_insecure)?;
    let members = items(&exposure["members"]).map(text).collect::<Vec<_>>().join(", ");
    let (open, remedy) = match status["open"] == true {
        true => (
            "; the cluster has no users, so everybody who reaches a port may do everything",
            "give the ports TLS, create an administrator with --bootstrap-admin-file at a coordinator, and remove --insecure",
        ),
        false => ("", "give the ports TLS, and remove --insecure"),
    };
    let said = format!(
        "is set at {members}: ports without TLS may serve other machines, and what passes can be read on the way{open}"
    );
    let remedy = format!("{remedy}; `volley doctor` names the ports that need it");
    Some(HealthReason::warn("--insecure", said, remedy))
}

fn unreadable(part: &Value) -> HealthReason {
    let holders = items(&part["holders"]).map(text).collect::<Vec<_>>().join(", ");
    let (said, remedy) = match holders.is_empty() {
        true => (
            "no node has a copy any more".to_string(),
            "restore it: see \"Loss of a node\" in docs/operations.md".to_string(),
        ),
        false => {
            (format!("only nodes that do not answer have copies: {holders}"), "start one of these nodes".to_string())
        }
    };
    let subject =
        format!("Table {}, shard {}", text(&part["table"]), count(number(&part["shard"]).unwrap_or_default()));
    HealthReason::bad(subject, said, remedy)
}

fn coordinator(one: &Value, has_majority: bool) -> Option<HealthReason> {
    let (id, said) = (&one["id"], text(&one["text"]));
    let subject = format!("Coordinator {id} at {}", text(&one["peer"]));
    match one["state"].as_str() {
        Some("unreachable") => Some(HealthReason::warn(subject, said, coordinator_remedy(id, has_majority))),
        Some("diverged") => Some(HealthReason::bad(subject, said, "")),
        _ => None,
    }
}

fn node(one: &Value, has_majority: bool) -> Option<HealthReason> {
    let subject = format!("Node {} at {}", text(&one["id"]), text(&one["flight"]));
    let said = text(&one["text"]);
    match one["condition"].as_str() {
        Some("silent") => {
            let remedy = node_remedy(text(&one["id"]), one["state"] == "alive", has_majority);
            Some(HealthReason::warn(subject, said, remedy))
        }
        Some("refusing") => Some(HealthReason::warn(
            subject,
            said,
            "make room on its disk, or add a node; after a failed write, replace the disk and restart it",
        )),
        Some("degraded") => Some(HealthReason::warn(
            subject,
            said,
            "replace its disk: `volley drain` copies its parts to other nodes first",
        )),
        _ => None,
    }
}

/// Files that a node keeps beside its parts.
fn kept_files(node: &Value) -> Option<HealthReason> {
    let subject = format!("Node {} at {}", text(&node["id"]), text(&node["flight"]));
    let files = |key: &str| number(&node[key]).filter(|files| *files > 0);
    if let Some(orphaned) = files("orphaned") {
        let said = format!(
            "{} ({}) that the catalog does not know",
            plural(orphaned, "part"),
            size_of(&node["orphaned_bytes"])
        );
        return Some(HealthReason::warn(
            subject,
            said,
            "see \"Orphaned parts\" in docs/operations.md: they are deleted after orphan_retention_days",
        ));
    }
    let damaged = files("damaged")?;
    let said = format!("{} in quarantine, because their contents are damaged", plural(damaged, "part"));
    Some(HealthReason::warn(
        subject,
        said,
        "other copies replace them; look at its disk, and at damaged/ in its data folder",
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn healthy_cluster_has_no_reasons() {
        let status = json!({ "health": "green", "stale": null, "copies": { "below_replicas": 0 },
            "coordinators": [{ "id": 1, "state": "ok" }], "nodes": [{ "id": "n1", "state": "alive", "condition": "ok" }] });
        assert!(reasons(&status).is_empty());
        assert!(sentence(&status).starts_with("Every part has all its copies"));
    }

    #[test]
    fn worst_reason_is_first_and_has_a_remedy() {
        let mut status = json!({ "health": "red", "stale": null, "copies": { "below_replicas": 1 },
            "unreadable": [{ "table": "sales/a", "shard": 3, "holders": ["n1"] }],
            "coordinators": [{ "id": 2, "state": "unreachable", "peer": "h:2", "text": "it does not answer" }],
            "nodes": [{ "id": "n1", "state": "silent", "condition": "silent", "flight": "grpc+tcp://n1:8816",
                "text": "unreachable for 5 min" }] });
        let found = reasons(&status);
        assert_eq!((found[0].tone, found[0].subject.as_str()), ("bad", "Table sales/a, shard 3"));
        assert_eq!(found.len(), 4);
        assert!(found[1].remedy.contains("coordinators remove 2"), "{found:?}");
        assert!(found[2].text.contains("5 min") && found[2].remedy.contains("`volley remove n1`"), "{found:?}");
        assert_eq!(found[3].text, "1 part with fewer copies than the table's replicas");
        // Without a majority nothing is removed.
        status["stale"] = "no leader".into();
        let found = reasons(&status);
        assert!(found.iter().all(|reason| !reason.remedy.contains("remove ")), "{found:?}");
        assert!(sentence(&status).contains("No majority"));
    }

    #[test]
    fn insecure_members_are_named_with_a_remedy() {
        let mut status = json!({ "health": "green", "open": true, "exposures": [
            { "kind": "public_metrics", "members": ["node n2"] },
            { "kind": "insecure", "members": ["coordinator 1", "node n1"] } ] });
        let found = insecure(&status).unwrap();
        assert_eq!((found.tone, found.subject.as_str()), ("warn", "--insecure"));
        assert!(found.text.contains("at coordinator 1, node n1: ") && found.text.contains("no users"), "{found:?}");
        assert!(found.remedy.contains("--bootstrap-admin-file"), "{found:?}");
        assert!(reasons(&status).is_empty(), "the cluster is as configured");
        status["open"] = false.into();
        assert!(!insecure(&status).unwrap().text.contains("no users"));
        status["exposures"] = json!([{ "kind": "of a newer version", "members": ["node n1"] }]);
        assert_eq!(insecure(&status), None);
    }

    #[test]
    fn node_that_hangs_is_restarted() {
        let node = json!({ "id": "n1", "state": "alive", "condition": "silent", "text": "does not answer probes" });
        let status = json!({ "health": "yellow", "nodes": [node] });
        assert!(reasons(&status)[0].remedy.contains("restart it"));
    }
}
