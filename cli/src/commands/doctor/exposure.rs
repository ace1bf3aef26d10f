//! What the cluster leaves open: callers without identity, plaintext, public pages, tickets for everybody, users without rights.

use serde_json::Value;
use volley_common::server::ExposureKind;

use crate::output;

/// The warnings about what a cluster leaves open, by its status, each with its remedy. A warning is not a problem, because the
/// cluster is as configured. Certificates that expire are problems, and are reported as such.
pub fn exposure_warnings(status: &Value) -> Vec<String> {
    let is_open = status["open"] == true;
    let Some(reported) = status["exposures"].as_array() else {
        // A coordinator of an earlier version, which knows only its own setting.
        return earlier_warning(status["insecure"] == true, is_open).map(String::from).into_iter().collect();
    };
    let exposures = Exposures { reported, is_open };
    let of_members = ExposureKind::ALL.into_iter().filter_map(|kind| exposures.warning(kind));
    of_members.chain(users_without_grants(&status["users_without_grants"])).collect()
}

/// What the members of a cluster report.
struct Exposures<'a> {
    /// `{"kind", "members"}` each.
    reported: &'a [Value],
    /// Whether the cluster has no users.
    is_open: bool,
}

impl Exposures<'_> {
    /// The members that report a kind; `None`: there are none.
    fn members(&self, kind: ExposureKind) -> Option<String> {
        let found =
            self.reported.iter().find(|one| one["kind"].as_str().and_then(ExposureKind::named) == Some(kind))?;
        let members: Vec<&str> = found["members"].as_array()?.iter().filter_map(Value::as_str).collect();
        (!members.is_empty()).then(|| members.join(", "))
    }

    fn warning(&self, kind: ExposureKind) -> Option<String> {
        let members = self.members(kind)?;
        let has = |other: ExposureKind| self.members(other).is_some();
        let readable = if self.is_open { "data" } else { "passwords, tokens and data" };
        let insecure = if has(ExposureKind::Insecure) { " (--insecure)" } else { "" };
        Some(match kind {
            ExposureKind::RemoteClients if self.is_open && has(ExposureKind::Insecure) => format!(
                "the cluster has no users, listeners of {members} accept other machines, and --insecure is set: everybody who reaches them may do everything: create an administrator with --bootstrap-admin-file at a coordinator, give the listeners TLS, and remove --insecure"
            ),
            ExposureKind::RemoteClients if self.is_open => format!(
                "the cluster has no users, and listeners of {members} accept other machines: everybody with a client certificate may do everything, and so may every program on the members' machines: create an administrator with --bootstrap-admin-file at a coordinator"
            ),
            ExposureKind::Insecure if !self.has_plaintext() => {
                format!("--insecure is set at {members}, and no port needs it: remove it")
            }
            ExposureKind::PlaintextClients => format!(
                "listeners of {members} accept other machines without TLS{insecure}, so {readable} can be read on the way: give them --tls-cert and --tls-key"
            ),
            ExposureKind::PlaintextHttp => format!(
                "the HTTP ports of {members} accept other machines without TLS{insecure}, so {readable} can be read on the way: give them --tls-cert and --tls-key, or listen on 127.0.0.1"
            ),
            ExposureKind::PlaintextMembers => format!(
                "the peer ports of {members} accept other machines without a member's certificate{insecure}, so every machine can pass for a member, and {readable} can be read on the way: give all members --peer-ca, --peer-cert and --peer-key, in the end with --peer-tls require"
            ),
            ExposureKind::PublicMetrics if !self.is_open => {
                format!("everybody reads /metrics of {members}: remove public_metrics, and give the monitoring a token")
            }
            ExposureKind::PublicReflection if !self.is_open => {
                format!("everybody may use gRPC reflection of {members}: remove public_reflection")
            }
            ExposureKind::ShareableTickets if !self.is_open => format!(
                "every user may redeem every ticket at {members}: remove shareable_tickets, and set the option of the same name for the tables that need it"
            ),
            // An open cluster has nothing to protect from callers, or another warning says it.
            ExposureKind::RemoteClients
            | ExposureKind::Insecure
            | ExposureKind::PublicMetrics
            | ExposureKind::PublicReflection
            | ExposureKind::ShareableTickets => return None,
        })
    }

    fn has_plaintext(&self) -> bool {
        let kinds = [ExposureKind::PlaintextClients, ExposureKind::PlaintextHttp, ExposureKind::PlaintextMembers];
        kinds.into_iter().any(|kind| self.members(kind).is_some())
    }
}

/// By the setting of the coordinator that answered.
fn earlier_warning(is_insecure: bool, is_open: bool) -> Option<&'static str> {
    match (is_insecure, is_open) {
        (true, true) => Some(
            "the cluster has no users and --insecure is set: everybody who reaches it may do everything: create an administrator with --bootstrap-admin-file at a coordinator, give the listeners TLS, and remove --insecure",
        ),
        (true, false) => Some(
            "--insecure is set: listeners without TLS accept other machines, so passwords, tokens and data can be read on the way: give them TLS, and remove --insecure",
        ),
        (false, _) => None,
    }
}

/// The users who may do nothing: `{"count", "names"}`, the names for administrators only.
fn users_without_grants(report: &Value) -> Option<String> {
    let count = report["count"].as_i64().filter(|count| *count > 0)?;
    let names: Vec<&str> = report["names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let named = match names.len() as i64 {
        0 => String::new(),
        all if all == count => format!(" ({})", names.join(", ")),
        some => format!(" ({} and {} more)", names.join(", "), count - some),
    };
    let users = output::plural(count, "user");
    Some(format!(
        "nothing is granted to {users}{named}, who can log in all the same: grant a role by `volley grant`, or remove them by `volley user rm`"
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(is_open: bool, kinds: &[&str]) -> Value {
        let exposures = kinds.iter().map(|kind| json!({ "kind": kind, "members": ["coordinator 1", "node n1"] }));
        json!({ "open": is_open, "exposures": exposures.collect::<Vec<_>>() })
    }

    fn only(status: &Value) -> String {
        let warnings = exposure_warnings(status);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        warnings.concat()
    }

    #[test]
    fn each_exposure_is_a_warning_with_members_and_remedy() {
        for (kind, remedy) in [
            ("plaintext_clients", "passwords, tokens and data can be read on the way: give them --tls-cert"),
            ("plaintext_http", "listen on 127.0.0.1"),
            ("plaintext_members", "--peer-tls require"),
            ("public_metrics", "remove public_metrics"),
            ("public_reflection", "remove public_reflection"),
            ("shareable_tickets", "remove shareable_tickets"),
            ("insecure", "no port needs it: remove it"),
        ] {
            let warning = only(&status(false, &[kind]));
            assert!(warning.contains(remedy) && warning.contains("coordinator 1, node n1"), "{warning}");
        }
        for kind in ["plaintext_clients", "plaintext_http", "plaintext_members"] {
            let warning = only(&status(false, &[kind, "insecure"]));
            assert!(warning.contains(" (--insecure), so "), "{warning}");
        }
        assert!(exposure_warnings(&status(false, &["remote_clients", "of a newer version"])).is_empty());
        assert!(exposure_warnings(&json!({ "open": false, "exposures": [] })).is_empty());
    }

    #[test]
    fn cluster_without_users_is_reported_where_others_reach_it() {
        let warning = only(&status(true, &["remote_clients", "public_metrics", "shareable_tickets"]));
        assert!(warning.contains("client certificate") && warning.contains("--bootstrap-admin-file"), "{warning}");
        let warnings = exposure_warnings(&status(true, &["insecure", "remote_clients", "plaintext_clients"]));
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(warnings[0].contains("everybody who reaches them may do everything"), "{warnings:?}");
        assert!(warnings[1].contains("without TLS (--insecure), so data can be read"), "{warnings:?}");
    }

    #[test]
    fn users_without_grants_are_named_for_administrators() {
        let of = |report: Value| only(&json!({ "open": false, "exposures": [], "users_without_grants": report }));
        assert!(of(json!({ "count": 2, "names": ["ana", "bob"] })).contains("2 users (ana, bob)"));
        assert!(of(json!({ "count": 3, "names": ["ana"] })).contains("3 users (ana and 2 more)"));
        assert!(of(json!({ "count": 1, "names": null })).contains("to 1 user, who"));
        let none = json!({ "exposures": [], "users_without_grants": { "count": 0, "names": [] } });
        assert!(exposure_warnings(&none).is_empty());
    }

    #[test]
    fn coordinator_of_an_earlier_version_reports_its_setting() {
        let warning = |insecure, open| exposure_warnings(&json!({ "insecure": insecure, "open": open })).concat();
        assert!(warning(true, true).contains("--bootstrap-admin-file"));
        assert!(warning(true, false).contains("TLS") && !warning(true, false).contains("no users"));
        assert_eq!((warning(false, true), warning(false, false)), (String::new(), String::new()));
        assert!(exposure_warnings(&json!({})).is_empty());
    }
}
