//! The `volley-coordinator` process.

use std::process::ExitCode;

fn main() -> ExitCode {
    volley_coordinator::process::main()
}
