//! The `volley-coordinator` process.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    volley_coordinator::process::main()
}
