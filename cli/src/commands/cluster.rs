//! `volley cluster ...`.

use volley_common::Result;
use volley_common::client::Client;

use crate::output;

/// Shows the members and their state.
pub async fn status(client: &Client, json: bool) -> Result<()> {
    let status = client.status().await?;
    if json { output::json(&status) } else { output::line(output::render(&status)) }
}
