//! The `volley-node` process.

use std::process::ExitCode;

fn main() -> ExitCode {
    volley_node::process::main()
}
