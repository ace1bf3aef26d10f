//! Configuration files and environments: what is accepted is the same when it is written and read again.
//!
//! Before the first empty line are variables, NAME=VALUE; after it is the TOML file. The first byte chooses whose it is.

use serde::Serialize;
use serde::de::DeserializeOwned;
use volley_common::Result;
use volley_common::server::config::load_from;
use volley_coordinator::CoordinatorConfig;
use volley_node::NodeConfig;

use crate::input::{check_error, split_head};
use crate::process::ScratchDir;

/// Variables of an environment.
const MAX_VARIABLES: usize = 64;

thread_local! {
    static SCRATCH: ScratchDir = ScratchDir::new();
}

/// No flag is given.
#[derive(Serialize)]
struct NoFlags {}

/// Feeds one input.
///
/// # Panics
/// A property does not hold.
pub fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind & 1 {
        0 => check_load(rest, NodeConfig::check),
        _ => check_load(rest, CoordinatorConfig::check),
    }
}

fn check_load<T>(bytes: &[u8], check: fn(&T) -> Result<()>)
where
    T: Default + Serialize + DeserializeOwned + PartialEq,
{
    let (head, file) = split_head(bytes);
    let path = SCRATCH.with(|scratch| scratch.write("volley.toml", file));
    let lines = head.split(|byte| *byte == b'\n').take(MAX_VARIABLES);
    let variables = lines.filter_map(|line| {
        let (name, value) = std::str::from_utf8(line).ok()?.split_once('=')?;
        Some((name.to_string(), value.to_string()))
    });
    let config: T = match load_from(Some(&path), variables, &NoFlags {}) {
        Ok(config) => config,
        Err(error) => return check_error(&error, bytes.len()),
    };
    if let Err(error) = check(&config) {
        return check_error(&error, bytes.len());
    }
    let again = serde_json::to_value(&config).and_then(serde_json::from_value::<T>);
    assert!(again.is_ok_and(|again| again == config), "a configuration that is not the same when it is read again");
}

/// Inputs to begin with.
pub fn seeds() -> Vec<Vec<u8>> {
    let node = r#"
listen = ["127.0.0.1:8816", "external=0.0.0.0:8817"]
advertise = "external=grpc+tls://h:1"
peer_listen = "[::1]:8826"
coordinators = ["a:1", "b:2"]
zone = "a"
capacity = 1000000
max_message = 1048576
high_water = 90.5
insecure = true
tls_cert = ["a.crt"]
tls_key = ["a.key"]
scrub_days = 7.0
"#;
    let coordinator = r#"
id = 1
peers = ["1=a:1", "2=b:2", "3=c:3"]
node_timeout_ms = 10000
silence_ms = 9000
locations = ["proxy"]
oidc_issuer = "https://id.example"
oidc_audience = "volley"
oidc_jwks = "/etc/volley/jwks.json"
audit_log = "stderr"
"#;
    let variables =
        "VOLLEY_ZONE=7\nVOLLEY_INSECURE=yes\nVOLLEY_COORDINATORS=a:1,b:2\nVOLLEY_COPY_RATE=100\n\nzone = \"b\"\n";
    [format!("0\n\n{node}"), format!("1\n\n{coordinator}"), format!("0{variables}"), "0".into(), "1".into()]
        .map(String::into_bytes)
        .into()
}
