//! What a FlightInfo says of the local sockets of its nodes: the key `local` of its `app_metadata`, JSON by the URI of the node.
//! Clients that do not know the key read by the locations, as always.

use serde_json::{Map, Value, json};

use crate::wire::catalog::LocalSocket;

/// The key in the `app_metadata`.
pub const LOCAL_KEY: &str = "local";
/// The longest path of a Unix-domain socket, bytes: what the kernel's address holds, without its final zero.
pub const MAX_PATH: usize = 107;
/// The longest machine id.
const MAX_MACHINE: usize = 64;

/// The value of [`LOCAL_KEY`] for nodes with these URIs; `None` if there is none.
pub fn to_json<'a>(sockets: impl Iterator<Item = (&'a str, &'a LocalSocket)>) -> Option<Value> {
    let entry = |(uri, socket): (&str, &LocalSocket)| {
        let LocalSocket { machine, path, uid, id } = socket;
        // JSON has no integers of 64 bits.
        (uri.to_string(), json!({ "machine": machine, "socket": path, "uid": uid, "id": format!("{id:016x}") }))
    };
    let entries: Map<String, Value> = sockets.map(entry).collect();
    (!entries.is_empty()).then_some(Value::Object(entries))
}

/// The sockets that the `app_metadata` of a FlightInfo names, each with the URI of its node. What cannot be read is left out.
pub fn from_metadata(app_metadata: &[u8]) -> Vec<(String, LocalSocket)> {
    let Ok(Value::Object(metadata)) = serde_json::from_slice(app_metadata) else { return Vec::new() };
    let Some(Value::Object(sockets)) = metadata.get(LOCAL_KEY) else { return Vec::new() };
    sockets.iter().filter_map(|(uri, socket)| Some((uri.clone(), socket_of(socket)?))).collect()
}

fn socket_of(value: &Value) -> Option<LocalSocket> {
    let socket = LocalSocket {
        machine: value["machine"].as_str()?.to_string(),
        path: value["socket"].as_str()?.to_string(),
        uid: value["uid"].as_u64()?.try_into().ok()?,
        id: u64::from_str_radix(value["id"].as_str()?, 16).ok()?,
    };
    is_sound(&socket).then_some(socket)
}

/// Whether a socket can be one: its path is absolute, and neither path nor machine is too long.
pub fn is_sound(socket: &LocalSocket) -> bool {
    socket.path.starts_with('/')
        && socket.path.len() <= MAX_PATH
        && !socket.path.contains(char::is_control)
        && !socket.machine.is_empty()
        && socket.machine.len() <= MAX_MACHINE
        && !socket.machine.contains(char::is_control)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn socket() -> LocalSocket {
        LocalSocket { machine: "m1".into(), path: "/run/volley/node.sock".into(), uid: 10_001, id: u64::MAX - 1 }
    }

    #[test]
    fn hints_come_back_as_they_were_written() {
        let local = to_json([("grpc+tcp://n:1", &socket())].into_iter()).unwrap();
        let metadata = json!({ "table": "t", "version": 3, LOCAL_KEY: local }).to_string();
        assert_eq!(from_metadata(metadata.as_bytes()), [("grpc+tcp://n:1".to_string(), socket())]);
        assert_eq!(to_json(std::iter::empty()), None);
    }

    #[test]
    fn metadata_without_sound_hints_has_none() {
        for metadata in [
            "",
            "[]",
            r#"{"table":"t"}"#,
            r#"{"local":[]}"#,
            r#"{"local":{"u":{}}}"#,
            r#"{"local":{"u":{"machine":"m","socket":"relative","uid":1,"id":"1"}}}"#,
            r#"{"local":{"u":{"machine":"","socket":"/s","uid":1,"id":"1"}}}"#,
            r#"{"local":{"u":{"machine":"m","socket":"/s","uid":-1,"id":"1"}}}"#,
            r#"{"local":{"u":{"machine":"m","socket":"/s","uid":1,"id":"x"}}}"#,
        ] {
            assert!(from_metadata(metadata.as_bytes()).is_empty(), "{metadata}");
        }
        let long = LocalSocket { path: format!("/{}", "x".repeat(MAX_PATH)), ..socket() };
        assert!(is_sound(&socket()) && !is_sound(&long));
    }
}
