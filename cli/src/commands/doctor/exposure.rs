//! Whether the cluster serves callers without identity or TLS.

use serde_json::Value;

/// The warning about callers without identity or TLS, by the setting of the coordinator that answered; `None`: there is nothing to
/// warn of. A warning is not a problem, because the cluster is as configured. An open cluster that is not insecure serves callers
/// on its own machines and those with a certificate.
pub fn exposure_warning(status: &Value) -> Option<&'static str> {
    match (status["insecure"] == true, status["open"] == true) {
        (true, true) => Some(
            "the cluster has no users and --insecure is set: everybody who reaches it may do everything: create an administrator with --bootstrap-admin-file at a coordinator, give the listeners TLS, and remove --insecure",
        ),
        (true, false) => Some(
            "--insecure is set: listeners without TLS accept other machines, so passwords, tokens and data can be read on the way: give them TLS, and remove --insecure",
        ),
        (false, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn insecure_cluster_is_warned_about_with_its_remedy() {
        let warning = |insecure, open| exposure_warning(&json!({ "insecure": insecure, "open": open }));
        assert!(warning(true, true).is_some_and(|text| text.contains("--bootstrap-admin-file")));
        assert!(warning(true, false).is_some_and(|text| text.contains("TLS") && !text.contains("no users")));
        assert_eq!((warning(false, true), warning(false, false)), (None, None));
        assert_eq!(exposure_warning(&json!({})), None, "a coordinator of an earlier version");
    }
}
