//! `volley stats`.

use volley_common::Result;
use volley_common::client::Client;

use crate::output;

/// Shows the cluster's statistics.
pub async fn run(client: &Client, json: bool) -> Result<()> {
    let stats = client.stats().await?;
    if json { output::json(&stats) } else { output::line(output::render(&stats)) }
}
