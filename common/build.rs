//! Compiles the protobuf files with a compiler written in Rust, so that `protoc` need not be installed.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["catalog.proto", "cluster.proto", "raft.proto"];
    println!("cargo:rerun-if-changed=proto");
    // Not compiled: arrow-flight has the types.
    let flight = protox::compile(["flight.proto"], ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?).join("flight.fds");
    std::fs::write(out, flight.encode_to_vec())?;
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().bytes(".").emit_rerun_if_changed(false).compile_fds(descriptors)?;
    Ok(())
}
