//! `volley whoami`.

use serde_json::{Value, json};
use volley_client::Client;
use volley_common::Result;

use super::grants;
use crate::output::{self, cell};

/// Shows who the caller is for the cluster, and its rights.
pub async fn run(client: &Client, json: bool) -> Result<()> {
    let answer = client.action("whoami", &json!({})).await?;
    if json { output::json(&answer) } else { output::line(text(&answer)) }
}

fn text(answer: &Value) -> String {
    let name = cell("principal", &answer["principal"]);
    let who = match name.as_str() {
        "" => "nobody is logged in".to_string(),
        name => {
            let of = |key: &str| Some(cell(key, &answer[key])).filter(|value| !value.is_empty());
            let proof = of("credential").or_else(|| of("method"));
            let proof = proof.map_or_else(String::new, |proof| format!(", by {proof}"));
            let groups = of("groups").map_or_else(String::new, |groups| format!(", in the groups {groups}"));
            format!("{name}{proof}{groups}")
        }
    };
    match answer["open"] == true {
        true => format!("{who}; the cluster has no users, so everybody may do everything"),
        false => format!("{who}\n{}", grants::table(&answer["grants"])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn principal_is_shown_with_its_proof_and_rights() {
        let grant = json!({ "to": "group:g", "role": "writer", "prefix": "sales" });
        let answer = json!({
            "principal": "ana", "method": "password", "groups": ["g", "h"], "credential": "password", "open": false, "grants": [grant],
        });
        let shown = text(&answer);
        assert!(shown.starts_with("ana, by password, in the groups g, h\n"), "{shown}");
        assert!(shown.contains("writer") && shown.contains("sales"), "{shown}");
        let open = text(&json!({ "principal": null, "open": true, "grants": [] }));
        assert!(open.contains("nobody") && open.contains("everybody may do everything"), "{open}");
    }
}
