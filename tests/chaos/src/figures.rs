//! How long things take.
#![allow(clippy::print_stdout, reason = "this program talks to a person")]

use std::process::ExitCode;

/// Measures what is named.
pub async fn measure(names: &[String]) -> ExitCode {
    println!("{names:?}");
    ExitCode::SUCCESS
}
