//! Compiles the wire forms with a compiler written in Rust, so that no `protoc` need be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["catalog.proto", "cluster.proto", "raft.proto"];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    tonic_prost_build::configure().bytes(".").emit_rerun_if_changed(false).compile_fds(descriptors)?;
    Ok(())
}
