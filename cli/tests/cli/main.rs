//! The `volley` program as a user types it, and the pages of the documentation that follow from the code.
#![allow(clippy::unwrap_used, missing_docs, reason = "a failed unwrap is a failed test")]

mod certs;
mod configuration;
mod contexts;
mod decode_process;
mod dev_tls;
mod file_options;
mod files;
mod json_page;
mod login;
mod metrics;
mod program;
mod reference;
mod shells;
mod support;
mod tables;
