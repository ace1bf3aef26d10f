//! `volley doctor`: whether a client that stands here can fetch from where a FlightInfo would send it.

use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use futures::{future, stream};
use serde_json::{Value, json};
use volley_common::client::Client;
use volley_common::{Error, Result, clock};

use crate::output;

/// How long an address is dialled.
const PATIENCE: Duration = Duration::from_secs(5);
/// A clock that is further off ends tickets early or late.
const CLOCK_MS: i64 = 5_000;
/// A coordinator that was not heard by the leader for so long is not well.
const QUIET_MS: u64 = 10_000;
/// What it ends with if something is wrong.
const ILL: u8 = 3;

/// What was found about one address.
struct Finding {
    who: String,
    address: String,
    /// How far its clock is ahead of this machine's, if that is known.
    clock_ms: Option<i64>,
    /// What is wrong and what to do; nothing if it is well.
    wrong: Vec<String>,
}

impl Finding {
    fn of(who: impl Into<String>, address: &str, clock_ms: Option<i64>) -> Self {
        let off = clock_ms.filter(|off| off.abs() > CLOCK_MS);
        let clock = |off: i64| {
            let seconds = off.abs() as f64 / 1000.0;
            let side = if off > 0 { "ahead of" } else { "behind" };
            format!("its clock is {seconds:.1} s {side} this machine's: let both follow the same time server")
        };
        let wrong = off.map(clock).into_iter().collect();
        Finding { who: who.into(), address: address.into(), clock_ms, wrong }
    }

    fn line(&self) -> String {
        let verdict = if self.wrong.is_empty() { "well".into() } else { self.wrong.join("; ") };
        let clock = self.clock_ms.map_or_else(String::new, |off| format!("  clock {:+.1} s", off as f64 / 1000.0));
        format!("{}  {}{clock}  {verdict}", self.who, self.address)
    }
}

/// What the cluster says of the addresses for clients from here.
struct Told {
    listener: String,
    /// Whether clients are sent to the nodes; else all goes through the coordinator.
    direct: bool,
    /// Where clients of this listener reach the coordinator.
    coordinator: String,
    software: String,
    nodes: Vec<Value>,
}

impl Told {
    fn new(answer: &Value) -> Self {
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_string();
        Told {
            listener: text("listener"),
            direct: text("locations") == "direct",
            coordinator: text("coordinator"),
            software: text("software"),
            nodes: answer["nodes"].as_array().cloned().unwrap_or_default(),
        }
    }
}

/// Dials every address, asks how the members are, and says what is wrong and what to set. Ends with 0 if all is well, 3 if not.
///
/// # Errors
/// The cluster cannot be asked.
pub async fn run(client: &Client, cluster: &str, json: bool) -> Result<ExitCode> {
    let before = clock::now_ms();
    let answer = client.action("addresses", &json!({})).await?;
    let asked = asked(&answer, cluster, before, clock::now_ms());
    let told = Told::new(&answer);
    let nodes = future::join_all(told.nodes.iter().map(|node| self::node(&told, node)));
    let (through, nodes, status) = tokio::join!(through(&told), nodes, client.status());
    let mut findings = vec![asked];
    findings.extend(members(&status));
    findings.extend(through);
    findings.extend(nodes);
    if told.nodes.is_empty() {
        let mut none = Finding::of("nodes", "-", None);
        none.wrong.push("no node is alive: start volley-node".into());
        findings.push(none);
    }
    show(&findings, told.direct, json)
}

fn show(findings: &[Finding], direct: bool, json: bool) -> Result<ExitCode> {
    let ill = findings.iter().any(|finding| !finding.wrong.is_empty());
    if json {
        let one = |f: &Finding| {
            let wrong = (!f.wrong.is_empty()).then(|| f.wrong.join("; "));
            json!({ "who": f.who, "address": f.address, "clock_ms": f.clock_ms, "wrong": wrong })
        };
        output::json(&json!({ "well": !ill, "found": findings.iter().map(one).collect::<Vec<_>>() }))?;
    } else {
        findings.iter().try_for_each(|finding| output::line(finding.line()))?;
        output::line(match (ill, direct) {
            (true, _) => "something is wrong",
            (false, true) => "all is well: clients that stand here fetch from every node",
            (false, false) => "all is well: clients that stand here fetch through the coordinator",
        })?;
    }
    Ok(if ill { ExitCode::from(ILL) } else { ExitCode::SUCCESS })
}

/// The coordinator that was asked, perhaps by way of a node: its clock and its version.
fn asked(answer: &Value, cluster: &str, before: u64, after: u64) -> Finding {
    let clock_ms = answer["now_ms"].as_u64().map(|now| ahead(now, before, after));
    let mut finding = Finding::of("coordinator", cluster, clock_ms);
    let (theirs, own) = (version(answer["software"].as_str()), env!("CARGO_PKG_VERSION"));
    if theirs != own {
        finding
            .wrong
            .push(format!("its version is {theirs}, this command's {own}: use the command of the servers' version"));
    }
    finding
}

/// What the cluster says of itself: whether all can be read, the other coordinators, the nodes to which nobody is sent.
fn members(status: &Result<Value>) -> Vec<Finding> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let mut cluster = Finding::of("cluster", "-", None);
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            cluster.wrong.push(error.message.clone());
            return vec![cluster];
        }
    };
    cluster.address = text(&status["health"]);
    if let Some(why) = status["stale"].as_str() {
        cluster.wrong.push(format!("{why}: start the coordinators that do not run"));
    } else if cluster.address == "red" {
        cluster.wrong.push("parts cannot be read: `volley cluster status` names them, and who has them".into());
    }
    let list = |key: &str| status[key].as_array().into_iter().flatten();
    let quiet =
        list("coordinators").filter_map(|one| Some((one, one["quiet_ms"].as_u64().filter(|ms| *ms > QUIET_MS)?)));
    let quiet = quiet.map(|(one, ms)| {
        let mut finding = Finding::of(format!("coordinator {}", one["id"]), &text(&one["peer"]), None);
        let (heard, id) = (clock::span(ms), &one["id"]);
        finding.wrong.push(format!(
            "it was last heard {heard} ago: start it again, or take it out with `volley coordinators remove {id}`"
        ));
        finding
    });
    let silent = list("nodes").filter(|node| node["state"] != "alive").map(|node| {
        let mut finding = Finding::of(format!("node {}", text(&node["id"])), &text(&node["flight"]), None);
        let why = text(&node["text"]);
        finding.wrong.push(format!("{why}: start it again, or take it out with `volley remove`"));
        finding
    });
    let (quiet, silent): (Vec<_>, Vec<_>) = (quiet.collect(), silent.collect());
    std::iter::once(cluster).chain(quiet).chain(silent).collect()
}

/// The address by which clients from here are to reach the coordinator, if all goes through that.
async fn through(told: &Told) -> Option<Finding> {
    if told.direct {
        return None;
    }
    let name = prefix(&told.listener);
    let (dialled, address) = (dial(&told.coordinator).await, &told.coordinator);
    let mut finding = Finding::of("coordinator, for all data", address, dialled.as_ref().ok().copied().flatten());
    if let Err(error) = dialled {
        finding.wrong.push(format!(
            "{}; clients here are told {address}: give the coordinators an address that they can dial, --advertise {name}grpc+tcp://HOST:PORT",
            error.message
        ));
    }
    Some(finding)
}

/// A node: whether it has an address for clients from here, and answers there; its clock and its version.
async fn node(told: &Told, node: &Value) -> Finding {
    let who = format!("node {}", node["id"].as_str().unwrap_or("?"));
    let listener = &told.listener;
    let uri = node["uri"].as_str();
    let dialled = match uri {
        Some(uri) => dial(uri).await,
        None => Err(Error::unavailable(format!(
            "it has no listener {listener:?}, so clients get its parts through others: start it with --listen {listener}=HOST:PORT"
        ))),
    };
    let mut finding = Finding::of(who, uri.unwrap_or("-"), dialled.as_ref().ok().copied().flatten());
    // Where all goes through the coordinator, nobody here need reach the nodes.
    if let Err(error) = dialled.map_err(|e| e.message)
        && told.direct
    {
        finding.wrong.push(uri.map_or_else(|| error.clone(), |uri| format!("{error}; {}", remedy(listener, uri))));
    }
    let (its, theirs) = (version(node["software"].as_str()), version(Some(&told.software)));
    if its != theirs {
        finding.wrong.push(format!("its version is {its}, the coordinator's {theirs}: bring the upgrade to its end"));
    }
    finding
}

/// Connects, has the server answer a call by itself and one about the cluster. How far its clock is ahead, in steps of a second: it
/// stands in every answer.
async fn dial(uri: &str) -> Result<Option<i64>> {
    let answer = async {
        let client = Client::connect(uri).await?;
        let before = clock::now_ms();
        let own = client.flight().handshake(stream::empty()).await?;
        let after = clock::now_ms();
        client.action("healthcheck", &json!({})).await?;
        let date = own.metadata().get("date").and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
        let now = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok());
        // In the middle of the second that it names.
        Ok(now.map(|now| ahead(now.as_millis() as u64 + 500, before, after)))
    };
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::deadline(format!("{uri} does not answer within {PATIENCE:?}"))),
    }
}

/// How far a clock that showed `now` between two moments here is ahead.
fn ahead(now: u64, before: u64, after: u64) -> i64 {
    now as i64 - ((before + after) / 2) as i64
}

/// The version out of `volley-node 0.1.0`.
fn version(software: Option<&str>) -> &str {
    software.and_then(|software| software.split(' ').nth(1)).unwrap_or("unknown")
}

/// What stands before the `=` of a setting, with it.
fn prefix(listener: &str) -> String {
    if listener.is_empty() { String::new() } else { format!("{listener}=") }
}

fn remedy(listener: &str, uri: &str) -> String {
    let name = prefix(listener);
    format!(
        "clients here are told {uri}: give the node an address that they can dial, --advertise {name}grpc+tcp://HOST:PORT, or let the coordinators send all data through themselves, --locations {name}proxy"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(software: &str) -> Told {
        let answer = json!({ "locations": "proxy", "listener": "external", "software": software });
        Told::new(&answer)
    }

    #[test]
    fn clocks_and_versions_that_differ_are_wrong() {
        assert!(Finding::of("node", "a:1", Some(4_000)).wrong.is_empty());
        let [off] = &Finding::of("node", "a:1", Some(-7_200)).wrong[..] else { panic!("a clock that is off is well") };
        assert!(off.contains("7.2 s behind"), "{off}");
        let own = concat!("volley-coordinator ", env!("CARGO_PKG_VERSION"));
        assert!(asked(&json!({ "software": own, "now_ms": 5 }), "a:1", 4, 6).wrong.is_empty());
        let old = asked(&json!({ "software": "volley-coordinator 0.0.9", "now_ms": 5 }), "a:1", 4, 6);
        assert!(old.wrong[0].contains("0.0.9"), "{:?}", old.wrong);
    }

    #[test]
    fn members_that_are_not_heard_are_named() {
        let well = json!({ "health": "yellow", "stale": null, "coordinators": [{ "id": 1, "peer": "h:1", "quiet_ms": null },
            { "id": 2, "peer": "h:2", "quiet_ms": 300 }], "nodes": [{ "id": "n1", "state": "alive", "text": "ok" }] });
        assert!(members(&Ok(well.clone())).iter().all(|found| found.wrong.is_empty()));
        let mut ill = well;
        ill["health"] = "red".into();
        ill["coordinators"][1]["quiet_ms"] = 300_000.into();
        ill["nodes"][0] =
            json!({ "id": "n1", "state": "silent", "text": "silent for 5 min", "flight": "grpc+tcp://n1:8816" });
        let found: Vec<String> = members(&Ok(ill)).iter().map(Finding::line).collect();
        assert!(found[0].contains("red") && found[0].contains("cannot be read"), "{found:?}");
        assert!(found[1].contains("coordinator 2") && found[1].contains("5 min ago"), "{found:?}");
        assert!(found[2].contains("grpc+tcp://n1:8816") && found[2].contains("silent for 5 min"), "{found:?}");
        let none = members(&Err(Error::unavailable("no leader")));
        assert_eq!(none[0].wrong, ["no leader"]);
    }

    #[tokio::test]
    async fn a_node_of_another_version_is_named_though_nobody_need_reach_it() {
        let json = |software: &str| json!({ "id": "n1", "uri": null, "software": software });
        assert!(node(&told("volley-coordinator 1.2.3"), &json("volley-node 1.2.3")).await.wrong.is_empty());
        let older = node(&told("volley-coordinator 1.2.3"), &json("volley-node 1.1.0")).await;
        assert!(older.wrong[0].contains("1.1.0") && older.wrong[0].contains("upgrade"), "{:?}", older.wrong);
    }
}
