//! Compiles the protobuf files with a compiler written in Rust, so that `protoc` need not be installed.

use std::path::PathBuf;

use prost::Message;

/// Messages with keys, passwords, tokens or their hashes. `wire.rs` has their `Debug`, which shows no field.
const MESSAGES_WITH_SECRETS: [&str; 14] = [
    ".volley.catalog.v1.Cluster",
    ".volley.catalog.v1.FormCluster",
    ".volley.catalog.v1.User",
    ".volley.catalog.v1.ServiceToken",
    ".volley.catalog.v1.SigningKey",
    ".volley.catalog.v1.NextTicketKey",
    ".volley.catalog.v1.FormerTicketKey",
    ".volley.catalog.v1.RotateTicketKey",
    ".volley.catalog.v1.AdministratorReset",
    ".volley.cluster.v1.Welcome",
    ".volley.cluster.v1.IdentitySnapshot",
    ".volley.cluster.v1.LoginRequest",
    ".volley.cluster.v1.LoginReply",
    ".volley.cluster.v1.LocalReadRequest",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["catalog.proto", "cluster.proto", "raft.proto", "statistics.proto"];
    println!("cargo:rerun-if-changed=proto");
    // Not compiled: arrow-flight has the types.
    let flight = protox::compile(["flight.proto"], ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("flight.fds");
    std::fs::write(out, flight.encode_to_vec())?;
    let descriptors = protox::compile(files, ["proto"])?;
    let configured = tonic_prost_build::configure().bytes(".").emit_rerun_if_changed(false);
    configured.skip_debug(MESSAGES_WITH_SECRETS).compile_fds(descriptors)?;
    Ok(())
}
