//! `volley doctor` and `volley health`: what an operator is told, and by which exit code.

use std::process::Output;

use volley_tests::process::run;
use volley_tests::{Cluster, Shape};

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

/// Nobody listens at port 9: who is sent there is told so, and what to set.
#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_dials_what_clients_from_here_are_told() {
    let coordinator_flags = [
        listener("external", 9815, 9815),
        listener("tunnel", 8817, 8817),
        listener("broken", 8818, 9),
        ["--locations", "tunnel=proxy", "--locations", "broken=proxy"].map(String::from),
    ];
    let shape = Shape {
        coordinators: 1,
        nodes: 2,
        coordinator_flags: coordinator_flags.concat(),
        node_flags: listener("external", 9816, 9).into(),
        ..Shape::default()
    };
    let cluster = Cluster::of(shape).await;
    let doctor = |port: &str| {
        let address = cluster.coordinators[0].address.replace(":8815", port);
        ended(&run("volley", &["--cluster", &address, "doctor"]))
    };
    says(doctor(":8815"), 0, &["fetch from every node", "coordinator", "node ", "clock "]);
    says(doctor(":9815"), 3, &["--advertise external=", "--locations external=proxy", ":9: ", "something is wrong"]);
    says(doctor(":8817"), 0, &["fetch through the coordinator", "for all data"]);
    says(doctor(":8818"), 3, &["for all data", "--advertise broken=", ":9"]);
    says(doctor(":8819"), 1, &["cannot reach"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_that_of_the_server_that_is_named() {
    let mut cluster = Cluster::of(Shape { coordinators: 1, nodes: 1, ..Shape::default() }).await;
    for member in cluster.members() {
        let (host, port) = member.address.rsplit_once(':').unwrap();
        let http = format!("{host}:{}", port.parse::<u16>().unwrap() + 20);
        let health = || ended(&run("volley", &["health", "--http", &http]));
        says(health(), 0, &["is ready"]);
        member.kill9();
        says(health(), 1, &["no answer", "--http"]);
    }
}
