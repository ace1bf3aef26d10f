//! `volley stats`.

use volley_client::Client;
use volley_common::Result;

use crate::output;

/// Shows the cluster's statistics.
pub async fn run(client: &Client, json: bool) -> Result<()> {
    let stats = client.stats().await?;
    if json { output::json(&stats) } else { output::line(output::render(&stats)) }
}
