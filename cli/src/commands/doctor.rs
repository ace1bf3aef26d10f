//! `volley doctor`: whether clients on this machine can reach the addresses that a FlightInfo gives them.

mod clock_offset;
pub mod exposure;
mod remedies;

use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use futures::{future, stream};
use serde_json::{Value, json};
use volley_client::Client;
use volley_common::escape::escape_lines;
use volley_common::grpc::NOW_HEADER;
use volley_common::unreachable_member::{HANGING_NODE_REMEDY, coordinator_remedy, node_remedy};
use volley_common::{Code, Error, Result, clock};

use self::clock_offset::{ClockOffset, skew_problem};
use self::exposure::exposure_warnings;
use crate::colours::Tone;
use crate::output;

/// Timeout of a connection and its calls.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Exit code if there is a problem.
const EXIT_PROBLEM: u8 = 3;

/// The result for one member or address.
struct Finding {
    subject: String,
    address: String,
    /// Its clock, if known.
    clock: Option<ClockOffset>,
    /// Problems with their remedies; empty if it is ok.
    problems: Vec<String>,
    /// What is as configured, and still should be known.
    warning: Option<String>,
}

impl Finding {
    /// A subject whose only problem may be its clock.
    fn new(subject: impl Into<String>, address: &str, clock: Option<ClockOffset>) -> Self {
        let problems = clock.and_then(ClockOffset::problem).into_iter().collect();
        Finding { subject: subject.into(), address: address.into(), clock, problems, warning: None }
    }

    /// A subject with a problem, whose clock is not known.
    fn problem(subject: impl Into<String>, address: &str, problem: impl Into<String>) -> Self {
        let problems = vec![problem.into()];
        Finding { problems, ..Finding::new(subject, address, None) }
    }

    /// The line for people, escaped.
    fn line(&self) -> String {
        let verdict = match &self.warning {
            _ if !self.problems.is_empty() => Tone::Bad.out(&escape_lines(&self.problems.join("; "))),
            Some(warning) => format!("{} {}", Tone::Warning.out("warning:"), escape_lines(warning)),
            None => Tone::Good.out("ok"),
        };
        let clock = self.clock.map_or_else(String::new, |clock| format!("  {clock}"));
        format!("{}  {}{clock}  {verdict}", escape_lines(&self.subject), escape_lines(&self.address))
    }
}

/// The cluster's answer to the action `addresses`: where it sends clients of this listener.
struct AddressReport {
    listener: String,
    /// Whether clients fetch from the nodes; otherwise they fetch everything through the coordinator.
    direct: bool,
    /// The address of the coordinator for clients of this listener.
    coordinator: String,
    software: String,
    nodes: Vec<Value>,
}

impl AddressReport {
    fn new(answer: &Value) -> Self {
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_string();
        AddressReport {
            listener: text("listener"),
            direct: text("locations") == "direct",
            coordinator: text("coordinator"),
            software: text("software"),
            nodes: answer["nodes"].as_array().cloned().unwrap_or_default(),
        }
    }
}

/// Connects to every address, checks the state of the members, and shows problems with their remedies. Exit code 0: none; 3:
/// at least one.
///
/// # Errors
/// The cluster does not answer.
pub async fn run(client: &Client, cluster: &str, json: bool) -> Result<ExitCode> {
    let before = clock::now_ms();
    let answer = client.action("addresses", &json!({})).await?;
    let contacted = contacted_coordinator(&answer, cluster, before, clock::now_ms());
    let report = AddressReport::new(&answer);
    let status = client.status().await;
    let nodes = future::join_all(report.nodes.iter().map(|node| {
        let (report, is_hanging) = (&report, is_hanging(&status, node));
        async move { check_node(report, node, dial_node(client, report, node).await, is_hanging) }
    }));
    let (proxy, nodes) = tokio::join!(check_proxy(client, &report), nodes);
    let mut findings = vec![contacted];
    findings.extend(check_members(&status));
    findings.extend(proxy);
    findings.extend(nodes);
    if report.nodes.is_empty() {
        findings.push(Finding::problem("nodes", "-", "no node is alive: start volley-node"));
    }
    show(&findings, report.direct, json)
}

fn show(findings: &[Finding], direct: bool, json: bool) -> Result<ExitCode> {
    let has_problem = findings.iter().any(|finding| !finding.problems.is_empty());
    if json {
        let one = |f: &Finding| {
            let wrong = (!f.problems.is_empty()).then(|| f.problems.join("; "));
            let (ahead, error) = (f.clock.map(|clock| clock.ahead_ms), f.clock.map(|clock| clock.error_ms));
            json!({ "who": f.subject, "address": f.address, "clock_ms": ahead, "clock_error_ms": error, "wrong": wrong,
                "warning": f.warning })
        };
        output::json(&json!({ "well": !has_problem, "found": findings.iter().map(one).collect::<Vec<_>>() }))?;
    } else {
        findings.iter().try_for_each(|finding| output::exact_line(finding.line()))?;
        let ok = Tone::Good.out("everything is ok");
        output::exact_line(match (has_problem, direct) {
            (true, _) => Tone::Bad.out("problems were found"),
            (false, true) => format!("{ok}: clients on this machine fetch from every node"),
            (false, false) => format!("{ok}: clients on this machine fetch through the coordinator"),
        })?;
    }
    Ok(if has_problem { ExitCode::from(EXIT_PROBLEM) } else { ExitCode::SUCCESS })
}

/// The coordinator that answered, perhaps through a node: its clock and its version.
fn contacted_coordinator(answer: &Value, cluster: &str, before: u64, after: u64) -> Finding {
    let clock = answer["now_ms"].as_u64().map(|now| ClockOffset::measured(now, 1, before, after));
    let mut finding = Finding::new("coordinator", cluster, clock);
    let (theirs, own) = (version(answer["software"].as_str()), env!("CARGO_PKG_VERSION"));
    if theirs != own {
        finding
            .problems
            .push(format!("its version is {theirs}, this command's {own}: use the command of the servers' version"));
    }
    finding
}

/// The cluster's status: whether everything can be read, and the coordinators and nodes that do not answer.
fn check_members(status: &Result<Value>) -> Vec<Finding> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let status = match status {
        Ok(status) => status,
        Err(error) => return vec![Finding::problem("cluster", "-", &error.message)],
    };
    let health = text(&status["health"]);
    let cluster = if let Some(reason) = status["stale"].as_str() {
        Finding::problem("cluster", &health, format!("{reason}: start the coordinators that do not run"))
    } else if health == "red" {
        let problem = "parts cannot be read: `volley cluster status` lists them with their holders";
        Finding::problem("cluster", &health, problem)
    } else if let Some(below) = status["copies"]["below_replicas"].as_i64().filter(|below| *below > 0) {
        let parts = output::plural(below, "part");
        let problem = format!(
            "{parts} with fewer copies than the table's replicas: `volley explain TABLE` says which, and why; a table with more replicas than there are nodes needs more nodes"
        );
        Finding::problem("cluster", &health, problem)
    } else if health == "yellow" {
        Finding::problem("cluster", &health, "every part has its copies, but not every member is well: see below")
    } else {
        Finding::new("cluster", &health, None)
    };
    let list = |key: &str| status[key].as_array().into_iter().flatten();
    let majority_answers = status["stale"].is_null();
    let silent = list("coordinators").filter(|one| one["answering"] == false).map(|one| {
        let id = &one["id"];
        let remedy = coordinator_remedy(id, majority_answers);
        Finding::problem(format!("coordinator {id}"), &text(&one["peer"]), format!("{}: {remedy}", text(&one["text"])))
    });
    let diverged = list("coordinators").filter(|one| one["state"] == "diverged");
    let diverged = diverged
        .map(|one| Finding::problem(format!("coordinator {}", one["id"]), &text(&one["peer"]), text(&one["text"])));
    let leader = status["leader"].to_string();
    let skewed = list("coordinators").filter_map(|one| {
        let problem = skew_problem(one["clock_skew_ms"].as_i64()?, &leader)?;
        Some(Finding::problem(format!("coordinator {}", one["id"]), &text(&one["peer"]), problem))
    });
    let unreachable =
        list("nodes").filter(|node| node["state"] != "alive" || node["condition"] == "silent").map(|node| {
            let id = text(&node["id"]);
            let remedy = node_remedy(&id, node["state"] == "alive", majority_answers);
            let problem = format!("{}: {remedy}", text(&node["text"]));
            Finding::problem(format!("node {id}"), &text(&node["flight"]), problem)
        });
    let orphaned = list("nodes").filter_map(orphaned);
    let exposure = exposure_warnings(status).into_iter();
    let exposure = exposure.map(|warning| Finding { warning: Some(warning), ..Finding::new("exposure", "-", None) });
    let tls = list("tls_failures").filter_map(Value::as_str).map(|failure| Finding::problem("TLS files", "-", failure));
    let members = silent.chain(diverged).chain(skewed).chain(unreachable).chain(orphaned);
    std::iter::once(cluster).chain(members).chain(tls).chain(exposure).collect()
}

/// Whether the cluster's status has this node as one that does not answer.
fn is_hanging(status: &Result<Value>, node: &Value) -> bool {
    let mut nodes = status.iter().flat_map(|status| status["nodes"].as_array().into_iter().flatten());
    nodes.any(|one| one["id"] == node["id"] && one["condition"] == "silent")
}

/// A node with parts that the catalog does not know since a recovery.
fn orphaned(node: &Value) -> Option<Finding> {
    let text = |key: &str| node[key].as_str().unwrap_or_default();
    let files = node["orphaned"].as_i64().filter(|files| *files > 0)?;
    let (files, size) = (output::plural(files, "part"), output::size(node["orphaned_bytes"].as_i64().unwrap_or(0)));
    let problem = format!(
        "{files} ({size}) that the catalog does not know in orphaned/ of its data folder, deleted after its orphan_retention_days: see \"Orphaned parts\" in docs/operations.md"
    );
    Some(Finding::problem(format!("node {}", text("id")), text("flight"), problem))
}

/// Whether the coordinator's address for clients answers, if they fetch everything through the coordinator.
async fn check_proxy(client: &Client, report: &AddressReport) -> Option<Finding> {
    if report.direct {
        return None;
    }
    let (dialed, address) = (dial(client, &report.coordinator).await, &report.coordinator);
    let subject = "coordinator, for all data";
    Some(match dialed {
        Ok(clock) => Finding::new(subject, address, clock),
        Err(error) => {
            let remedy = remedies::of_coordinators(&report.listener, address);
            Finding::problem(subject, address, format!("{error}; {remedy}"))
        }
    })
}

/// Dials a node at its address for clients on this machine.
///
/// # Errors
/// It has none, or does not answer there.
async fn dial_node(client: &Client, report: &AddressReport, node: &Value) -> Result<Option<ClockOffset>> {
    match node["uri"].as_str() {
        Some(uri) => dial(client, uri).await,
        None => Err(Error::unavailable(remedies::no_address(&report.listener, &report.coordinator))),
    }
}

/// Whether a node has an address for clients on this machine and answers there, as `dialed` says; its clock and its version.
/// `is_hanging`: it does not answer the coordinators either.
fn check_node(report: &AddressReport, node: &Value, dialed: Result<Option<ClockOffset>>, is_hanging: bool) -> Finding {
    let subject = format!("node {}", node["id"].as_str().unwrap_or("?"));
    let listener = &report.listener;
    let uri = node["uri"].as_str();
    let mut finding = Finding::new(subject, uri.unwrap_or("-"), dialed.as_ref().ok().copied().flatten());
    // If clients fetch everything through the coordinator, they do not connect to the nodes.
    if let Err(error) = dialed.map_err(|e| e.message)
        && report.direct
    {
        finding.problems.push(match uri {
            Some(_) if is_hanging => format!("{error}: {HANGING_NODE_REMEDY}"),
            Some(uri) => format!("{error}; {}", remedies::of_node(listener, uri)),
            None => error,
        });
    }
    let (own, coordinators) = (version(node["software"].as_str()), version(Some(&report.software)));
    if own != coordinators {
        finding.problems.push(format!("its version is {own}, the coordinator's {coordinators}: complete the upgrade"));
    }
    finding
}

/// The clock of a member: from the header [`NOW_HEADER`], or, of an older member, from `date`, which counts seconds.
async fn clock_of(client: &Client) -> Result<Option<ClockOffset>> {
    // The connection is made by the first call, so the second one measures the clock.
    client.flight().handshake(stream::empty()).await?;
    let before = clock::now_ms();
    let response = client.flight().handshake(stream::empty()).await?;
    let after = clock::now_ms();
    let header = |name: &str| response.metadata().get(name).and_then(|value| value.to_str().ok());
    let date = header("date").and_then(|date| httpdate::parse_http_date(date).ok());
    let date = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok()).map(|date| (date.as_millis() as u64, 1_000));
    let now = header(NOW_HEADER).and_then(|now| Some((now.parse().ok()?, 1)));
    Ok(now.or(date).map(|(now, resolution)| ClockOffset::measured(now, resolution, before, after)))
}

/// Connects, makes a call that the member answers itself and one about the cluster. Returns its clock.
///
/// # Errors
/// The member's, or DEADLINE_EXCEEDED.
async fn dial(client: &Client, uri: &str) -> Result<Option<ClockOffset>> {
    let answer = async {
        let client = client.connect_to(uri).await?;
        let clock = match clock_of(&client).await {
            // A client that its certificate identifies cannot log in.
            Err(error) if matches!(error.code, Code::Unauthenticated | Code::FailedPrecondition) => None,
            clock => clock?,
        };
        client.action("healthcheck", &json!({})).await?;
        Ok(clock)
    };
    match tokio::time::timeout(DIAL_TIMEOUT, answer).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::deadline(format!("{uri} does not answer within {DIAL_TIMEOUT:?}"))),
    }
}

/// The version in `volley-node 0.1.0`.
fn version(software: Option<&str>) -> &str {
    software.and_then(|software| software.split(' ').nth(1)).unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(software: &str) -> AddressReport {
        let answer = json!({ "locations": "proxy", "listener": "external", "software": software });
        AddressReport::new(&answer)
    }

    #[test]
    fn clock_skew_and_other_version_are_problems() {
        let off = |now| ClockOffset::measured(now, 1, 10_000, 10_200);
        assert!(Finding::new("node", "a:1", Some(off(15_150))).problems.is_empty(), "within the error of 0.1 s");
        let [problem] = &Finding::new("node", "a:1", Some(off(2_900))).problems[..] else {
            panic!("7.2 s is no problem")
        };
        assert!(problem.contains("7.2 s behind"), "{problem}");
        assert_eq!(off(10_050).to_string(), "clock -0.050 s \u{b1} 0.101 s");
        let own = concat!("volley-coordinator ", env!("CARGO_PKG_VERSION"));
        assert!(contacted_coordinator(&json!({ "software": own, "now_ms": 5 }), "a:1", 4, 6).problems.is_empty());
        let old = contacted_coordinator(&json!({ "software": "volley-coordinator 0.0.9", "now_ms": 5 }), "a:1", 4, 6);
        assert!(old.problems[0].contains("0.0.9"), "{:?}", old.problems);
    }

    #[test]
    fn members_that_do_not_answer_are_reported() {
        let healthy = json!({ "health": "green", "stale": null, "coordinators": [{ "id": 1, "peer": "h:1", "answering": true },
            { "id": 2, "peer": "h:2", "answering": true }], "nodes": [{ "id": "n1", "state": "alive", "text": "ok" }] });
        assert!(check_members(&Ok(healthy.clone())).iter().all(|found| found.problems.is_empty()));
        let mut skewed = healthy.clone();
        skewed["leader"] = 2.into();
        for (skew, reported) in [(4_900, false), (-30_000, true)] {
            skewed["coordinators"][0]["clock_skew_ms"] = skew.into();
            let found: Vec<String> = check_members(&Ok(skewed.clone())).iter().map(Finding::line).collect();
            let says = found.iter().any(|line| line.contains("30.0 s behind that of coordinator 2, which leads"));
            assert_eq!((says, found.len()), (reported, 1 + usize::from(reported)), "{found:?}");
        }
        let mut unhealthy = healthy;
        unhealthy["nodes"][0]["orphaned"] = 2.into();
        unhealthy["nodes"][0]["orphaned_bytes"] = 3000.into();
        let found: Vec<String> = check_members(&Ok(unhealthy.clone())).iter().map(Finding::line).collect();
        assert!(found[1].contains("node n1") && found[1].contains("2 parts (3.00 kB)"), "{found:?}");
        unhealthy["health"] = "yellow".into();
        let found: Vec<String> = check_members(&Ok(unhealthy.clone())).iter().map(Finding::line).collect();
        assert!(found[0].contains("yellow") && found[0].contains("not every member is well"), "{found:?}");
        unhealthy["health"] = "red".into();
        unhealthy["coordinators"][1]["answering"] = false.into();
        unhealthy["coordinators"][1]["text"] = "it does not answer within 1 s".into();
        unhealthy["nodes"][0] =
            json!({ "id": "n1", "state": "silent", "text": "unreachable for 5 min", "flight": "grpc+tcp://n1:8816" });
        let lines =
            |status: &Value| check_members(&Ok(status.clone())).iter().map(Finding::line).collect::<Vec<String>>();
        let found = lines(&unhealthy);
        assert!(found[0].contains("red") && found[0].contains("cannot be read"), "{found:?}");
        assert!(found[1].contains("coordinator 2") && found[1].contains("within 1 s"), "{found:?}");
        assert!(found[1].contains("restart it") && found[1].contains("add another coordinator first"), "{found:?}");
        assert!(found[1].contains("coordinators remove 2"), "{found:?}");
        assert!(found[2].contains("restart it") && found[2].contains("`volley remove n1`"), "{found:?}");
        assert!(found[2].contains("grpc+tcp://n1:8816") && found[2].contains("unreachable for 5 min"), "{found:?}");
        // Without a majority nothing is removed.
        unhealthy["stale"] = "no leader".into();
        let found = lines(&unhealthy).join("\n");
        assert!(!found.contains("remove") && found.contains("Permanent loss of a majority"), "{found}");
        let none = check_members(&Err(Error::unavailable("no leader")));
        assert_eq!(none[0].problems, ["no leader"]);
    }

    #[test]
    fn node_of_another_version_is_reported_behind_a_proxy() {
        let check = |coordinator: &str, node: &str| {
            let node = json!({ "id": "n1", "uri": null, "software": node });
            let dialed = Err(Error::unavailable("it has no listener"));
            check_node(&report(&format!("volley-coordinator {coordinator}")), &node, dialed, false).problems
        };
        assert!(check("1.2.3", "volley-node 1.2.3").is_empty());
        let older = check("1.2.3", "volley-node 1.1.0");
        assert!(older[0].contains("1.1.0") && older[0].contains("upgrade"), "{older:?}");
    }
}
