//! `volley doctor` and `volley health`: output and exit codes.

use std::process::Output;
use std::time::Duration;

use volley_tests::process::run;
use volley_tests::{ClusterOptions, TestCluster, wait_for};

const SOON: Duration = Duration::from_secs(30);

fn listener(name: &str, port: u16, advertised: u16) -> [String; 4] {
    let (listen, advertise) = (format!("{name}={{host}}:{port}"), format!("{name}=grpc+tcp://{{host}}:{advertised}"));
    ["--listen".into(), listen, "--advertise".into(), advertise]
}

fn ended(output: &Output) -> (Option<i32>, String) {
    let text = [&output.stdout[..], &output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

#[track_caller]
fn says((code, text): (Option<i32>, String), expected: i32, words: &[&str]) {
    assert_eq!(code, Some(expected), "{text}");
    words.iter().for_each(|word| assert!(text.contains(word), "no {word:?} in:\n{text}"));
}

/// Nothing listens at port 9: the doctor names the address and the option to change.
#[tokio::test(flavor = "multi_thread")]
async fn doctor_dials_the_addresses_that_clients_get() {
    let coordinator_flags = [
        listener("external", 9815, 9815),
        listener("tunnel", 8817, 8817),
        listener("broken", 8818, 9),
        ["--locations", "tunnel=proxy", "--locations", "broken=proxy"].map(String::from),
    ];
    let options = ClusterOptions {
        coordinators: 1,
        nodes: 2,
        coordinator_flags: coordinator_flags.concat(),
        node_flags: listener("external", 9816, 9).into(),
        ..ClusterOptions::default()
    };
    let cluster = TestCluster::start_with(options).await;
    let doctor = |port: &str| {
        let address = cluster.coordinators[0].address.replace(":8815", port);
        ended(&run("volley", &["--cluster", &address, "doctor"]))
    };
    says(doctor(":8815"), 0, &["fetch from every node", "coordinator", "node ", "clock "]);
    says(doctor(":9815"), 3, &["--advertise external=", "--locations external=proxy", ":9: ", "problems were found"]);
    says(doctor(":8817"), 0, &["fetch through the coordinator", "for all data"]);
    says(doctor(":8818"), 3, &["for all data", "--advertise broken=", ":9"]);
    says(doctor(":8819"), 1, &["cannot reach"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_leader_is_named_by_status_and_doctor() {
    let mut cluster = TestCluster::start_with(ClusterOptions { nodes: 1, ..ClusterOptions::default() }).await;
    let volley = |address: &str, command: &[&str]| {
        let arguments = [&["--cluster", address], command].concat();
        ended(&run("volley", &arguments))
    };
    let killed = cluster.leader().await;
    cluster.coordinators[killed].kill();
    let leader =
        wait_for(SOON, "another leader", async || cluster.known_leader().await.filter(|one| *one != killed)).await;
    let (address, name) = (cluster.coordinators[leader].address.clone(), format!("coordinator {}", killed + 1));
    says(volley(&address, &["cluster", "status"]), 0, &["yellow: ", &name, "unreachable"]);
    says(volley(&address, &["doctor"]), 3, &[&name, "start it", &format!("coordinators remove {}", killed + 1)]);
    // Nothing may be removed without a majority: what the others acknowledged would be lost.
    let other = (0..3).find(|other| ![killed, leader].contains(other)).unwrap();
    cluster.coordinators[other].kill();
    wait_for(SOON, "no leader", async || cluster.status().await.filter(|status| status["leader"].is_null())).await;
    let (code, text) = volley(&address, &["doctor"]);
    assert!(code == Some(3) && !text.contains("remove"), "{text}");
    assert!(text.contains("Permanent loss of a majority") && text.contains(&name), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_command_checks_the_named_server() {
    let mut cluster =
        TestCluster::start_with(ClusterOptions { coordinators: 1, nodes: 1, ..ClusterOptions::default() }).await;
    for member in cluster.members() {
        let (host, port) = member.address.rsplit_once(':').unwrap();
        let http = format!("{host}:{}", port.parse::<u16>().unwrap() + 20);
        let health = || ended(&run("volley", &["health", "--http", &http]));
        says(health(), 0, &["is ready"]);
        member.kill();
        says(health(), 1, &["no answer", "--http"]);
    }
}
