//! Tests what `volley` does with passwords and tokens before it connects.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use support::{one_error, volley};

/// An address of a network that is reserved for documentation: nobody answers there.
const ELSEWHERE: &str = "grpc://192.0.2.1:8815";
const SECRET: &str = "correct-horse-battery";

/// The error of `volley ls` with these arguments and variables.
fn error(args: &[&str], variables: &[(&str, &str)]) -> String {
    let args = [&["ls"][..], args].concat();
    let mut command = volley(&args);
    command.envs(variables.iter().copied());
    let text = one_error(command.output().unwrap(), &args);
    assert!(!text.contains(SECRET), "{text}");
    text
}

#[test]
fn secrets_do_not_go_to_other_machines_without_tls() {
    let password = [("VOLLEY_USER", "ana"), ("VOLLEY_PASSWORD", SECRET)];
    for variables in [&password[..], &[("VOLLEY_TOKEN", SECRET)], &[("VOLLEY_TOKEN_FILE", "/no/such/file")]] {
        let text = error(&["--cluster", ELSEWHERE], variables);
        assert!(text.contains("grpc+tls://192.0.2.1:8815") && text.contains("--plaintext-login"), "{text}");
    }
    // Also before a password is asked for.
    let text = error(&["--cluster", ELSEWHERE, "--user", "ana"], &[]);
    assert!(text.contains("--plaintext-login"), "{text}");
}

#[test]
fn password_without_a_terminal_names_the_ways() {
    let text = error(&["--user", "ana"], &[]);
    for way in ["no terminal", "VOLLEY_PASSWORD", "--token-file", "VOLLEY_TOKEN"] {
        assert!(text.contains(way), "{way} is not in {text}");
    }
}

#[test]
fn contradicting_logins_are_refused() {
    let text = error(&["--user", "ana", "--token-file", "f"], &[("VOLLEY_PASSWORD", SECRET)]);
    assert!(text.contains("--user and --token-file"), "{text}");
    let text = error(&[], &[("VOLLEY_USER", "ana"), ("VOLLEY_TOKEN", SECRET)]);
    assert!(text.contains("VOLLEY_USER and VOLLEY_TOKEN are both set"), "{text}");
    let whole_header = format!("Bearer {SECRET}");
    let text = error(&[], &[("VOLLEY_TOKEN", whole_header.as_str())]);
    assert!(text.contains("the token alone"), "{text}");
    let text = error(&[], &[("VOLLEY_PASSWORD", SECRET)]);
    assert!(text.contains("--user NAME"), "{text}");
}
