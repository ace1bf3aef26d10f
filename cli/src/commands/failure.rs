//! What is added to the error of a command: hints that fit who asks, the table that is probably meant; and what has to end before
//! the process does.

use std::time::Duration;

use futures::StreamExt;
use volley_client::{Client, Code, Error, Result};
use volley_common::options::fields::cut;
use volley_common::suggestion::suggest;

use super::ls;
use crate::cluster_choice::DEFAULT_CLUSTER;

/// How an error says that there is no table of a name, which follows in quotes.
const MISSING_TABLE: &str = "there is no table ";
/// Most tables that are listed to find a similar name, and how long that may take.
const MAX_LISTED: usize = 5_000;
const LIST_TIMEOUT: Duration = Duration::from_secs(1);

/// What to do if the cluster at this address does not answer. Only who has named no cluster is told how to start one.
pub fn unreachable_hint(cluster: &str) -> &'static str {
    match cluster == DEFAULT_CLUSTER {
        true => "; start a cluster with `volley dev`, or set --cluster or VOLLEY_CLUSTER to the address of yours",
        false => {
            "; check that it is the Flight port of a member and that the member runs, or name other members with --cluster or VOLLEY_CLUSTER"
        }
    }
}

/// The error of a command that used `client`. If it is about a table that does not exist, it names the table that is probably
/// meant. If the command was cancelled, its writes are aborted then, or `grace` is over.
pub async fn explained(error: Error, client: &Client, grace: Duration) -> Error {
    match error.code {
        Code::Cancelled => {
            // Otherwise they end with their leases.
            let _ = tokio::time::timeout(grace, client.settle()).await;
            error
        }
        Code::NotFound => with_similar_table(error, client).await,
        _ => error,
    }
}

async fn with_similar_table(error: Error, client: &Client) -> Error {
    let Some(missing) = missing_table(&error.message) else { return error };
    let mut known = Vec::new();
    // Also a part of the list may have it.
    let _ = tokio::time::timeout(LIST_TIMEOUT, list(client, &mut known)).await;
    match similar_table(&missing, &known) {
        Some(similar) => {
            let separator = if error.message.ends_with('"') { ":" } else { ";" };
            Error { message: format!("{}{separator} did you mean {:?}?", error.message, cut(similar)), ..error }
        }
        None => error,
    }
}

/// The table that an error is about. None if the member has named a similar one already, or it is about another cluster.
fn missing_table(message: &str) -> Option<String> {
    let quoted = message.strip_prefix(MISSING_TABLE).filter(|quoted| !quoted.contains("did you mean"))?;
    // A name is quoted as JSON quotes it, but for rare characters. More may follow.
    serde_json::Deserializer::from_str(quoted).into_iter().next()?.ok()
}

/// Lists tables into `known`, which has the first ones if an error or the end of the time interrupts it.
async fn list(client: &Client, known: &mut Vec<String>) -> Result<()> {
    let criteria = arrow_flight::Criteria::default();
    let mut flights = client.flight().list_flights(criteria).await?.into_inner();
    while known.len() < MAX_LISTED {
        let Some(info) = flights.next().await else { break };
        known.push(ls::name(&info?));
    }
    Ok(())
}

/// The table that is probably meant: in another case, almost spelled so, or the only one whose last component it is.
fn similar_table<'a>(missing: &str, known: &'a [String]) -> Option<&'a str> {
    let initial = |name: &str| name.chars().next().map(|c| c.to_lowercase().to_string());
    // Only the first names of many are compared letter by letter.
    let (near, far): (Vec<&str>, Vec<&str>) =
        known.iter().map(String::as_str).partition(|name| initial(name) == initial(missing));
    suggest(missing, near.into_iter().chain(far)).or_else(|| {
        let mut in_folders = known.iter().filter(|name| name.rsplit_once('/').is_some_and(|(_, last)| last == missing));
        in_folders.next().filter(|_| in_folders.next().is_none()).map(String::as_str)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_default_address_gets_the_advice_to_start_a_cluster() {
        assert!(unreachable_hint(DEFAULT_CLUSTER).contains("`volley dev`"));
        for cluster in ["grpc://127.0.0.1:9999", "grpc+tls://volley.example:8815"] {
            let hint = unreachable_hint(cluster);
            assert!(!hint.contains("volley dev") && hint.contains("VOLLEY_CLUSTER"), "{hint}");
        }
    }

    #[test]
    fn name_of_a_missing_table_is_found_unless_one_is_suggested() {
        let found = |message: &str| missing_table(message);
        assert_eq!(found(r#"there is no table "a/\"b\"""#).as_deref(), Some(r#"a/"b""#));
        assert_eq!(found(r#"the other cluster: there is no table "t""#), None);
        assert_eq!(found(r#"there is no table "t" to append to: put it"#).as_deref(), Some("t"));
        assert_eq!(found(r#"there is no table "t", and none was dropped"#).as_deref(), Some("t"));
        assert_eq!(found(r#"there is no table "t": did you mean "T"?"#), None);
        assert_eq!(found("there is no version 3"), None);
    }

    #[test]
    fn similar_table_may_be_in_another_folder() {
        let known: Vec<String> = ["sales/customers", "sales/orders", "old/orders", "Trips"].map(String::from).to_vec();
        let similar = |missing: &str| similar_table(missing, &known);
        assert_eq!(similar("sale/customers"), Some("sales/customers"));
        assert_eq!(similar("customers"), Some("sales/customers"));
        assert_eq!(similar("trips"), Some("Trips"));
        assert_eq!(similar("tirps"), Some("Trips"));
        assert_eq!(similar("drops"), None, "two letters of five");
        assert_eq!(similar("orders"), None, "there are two");
    }
}
