//! `volley doctor`: whether a client that stands here can fetch from where a FlightInfo would send it.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use volley_common::client::Client;
use volley_common::{Error, Result, clock};

use crate::output;

/// How long an address is dialled.
const PATIENCE: Duration = Duration::from_secs(5);
/// A clock that is further off ends tickets early or late.
const CLOCK_MS: i64 = 5_000;
/// What it ends with if something is wrong.
const ILL: u8 = 3;

/// What was found about one address.
struct Finding {
    who: String,
    address: String,
    /// What is wrong and what to do; nothing if it is well.
    wrong: Option<String>,
}

/// Dials every address, and says what is wrong and what to set. Ends with 0 if all is well, 3 if not.
///
/// # Errors
/// The cluster cannot be asked.
pub async fn run(client: &Client, cluster: &str, json: bool) -> Result<ExitCode> {
    let before = clock::now_ms();
    let told = client.action("addresses", &json!({})).await?;
    let after = clock::now_ms();
    let mut findings = vec![coordinator(&told, cluster, before, after)];
    for node in told["nodes"].as_array().into_iter().flatten() {
        findings.push(self::node(&told, node).await);
    }
    if findings.len() == 1 {
        findings.push(Finding {
            who: "nodes".into(),
            address: "-".into(),
            wrong: Some("no node is alive: start volley-node".into()),
        });
    }
    let ill = findings.iter().any(|finding| finding.wrong.is_some());
    if json {
        let all = findings.iter().map(|f| json!({ "who": f.who, "address": f.address, "wrong": f.wrong }));
        output::json(&json!({ "well": !ill, "found": all.collect::<Vec<_>>() }))?;
    } else {
        for Finding { who, address, wrong } in &findings {
            output::line(format!("{who}  {address}  {}", wrong.as_deref().unwrap_or("well")))?;
        }
        let way = told["locations"].as_str().unwrap_or_default();
        output::line(match (ill, way) {
            (true, _) => "something is wrong".to_string(),
            (false, "direct") => "all is well: clients that stand here fetch from every node".into(),
            (false, _) => "all is well: clients that stand here fetch through the coordinator".into(),
        })?;
    }
    Ok(if ill { ExitCode::from(ILL) } else { ExitCode::SUCCESS })
}

/// The coordinator that was asked: its clock and its version.
fn coordinator(told: &Value, cluster: &str, before: u64, after: u64) -> Finding {
    let off = told["now_ms"].as_i64().map(|now| now - ((before + after) / 2) as i64);
    let own = concat!("volley-coordinator ", env!("CARGO_PKG_VERSION"));
    let software = told["software"].as_str().unwrap_or("of an unknown version");
    let wrong = match off {
        Some(off) if off.abs() > CLOCK_MS => Some(format!(
            "its clock and this machine's are {:.1} s apart: let both follow the same time server",
            off.abs() as f64 / 1000.0
        )),
        _ if software != own => {
            Some(format!("it is {software}, this command {}: use those of one version", env!("CARGO_PKG_VERSION")))
        }
        _ => None,
    };
    Finding { who: "coordinator".into(), address: cluster.into(), wrong }
}

/// A node: whether it has an address for clients from here, and answers there.
async fn node(told: &Value, node: &Value) -> Finding {
    let (listener, way) = (told["listener"].as_str().unwrap_or_default(), told["locations"].as_str());
    let who = format!("node {}", node["id"].as_str().unwrap_or("?"));
    let Some(uri) = node["uri"].as_str() else {
        let wrong = (way == Some("direct")).then(|| {
            format!("it has no listener {listener:?}, so clients get its parts through others: start it with --listen {listener}=HOST:PORT")
        });
        return Finding { who, address: "-".into(), wrong };
    };
    let wrong = match dial(uri).await {
        Ok(()) => None,
        Err(_) if way != Some("direct") => None,
        Err(error) => Some(format!("{}; {}", error.message, remedy(listener, uri))),
    };
    Finding { who, address: uri.into(), wrong }
}

/// Connects, and has it answer a call.
async fn dial(uri: &str) -> Result<()> {
    let answer = async { Client::connect(uri).await?.action("healthcheck", &json!({})).await.map(drop) };
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::deadline(format!("{uri} does not answer within {PATIENCE:?}"))),
    }
}

fn remedy(listener: &str, uri: &str) -> String {
    let name = if listener.is_empty() { String::new() } else { format!("{listener}=") };
    format!(
        "clients here are told {uri}: give the node an address that they can dial, --advertise {name}grpc+tcp://HOST:PORT, or let the coordinators send all data through themselves, --locations {name}proxy"
    )
}
