//! Progress bars, on standard error and only if that is a terminal.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

const BYTES: &str = "{msg:20} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
const ROWS: &str = "{msg:20} {wide_bar} {human_pos}/{human_len} rows {per_sec} {eta}";

/// A bar that counts bytes.
pub fn bytes(message: &str, total: u64) -> ProgressBar {
    bar(message, total, BYTES)
}

/// A bar that counts rows.
pub fn rows(message: &str, total: u64) -> ProgressBar {
    bar(message, total, ROWS)
}

fn bar(message: &str, total: u64, template: &str) -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(total), target).with_message(message.to_string());
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
