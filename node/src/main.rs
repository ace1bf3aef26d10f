//! The `volley-node` process.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    volley_node::process::main()
}
