//! Tests what `volley` does with passwords and tokens before it connects.

use crate::support::{one_error, volley};

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
    let text = error(&[], &[("VOLLEY_PASSWORD", SECRET), ("VOLLEY_TOKEN", "t")]);
    assert!(text.contains("VOLLEY_TOKEN and VOLLEY_PASSWORD are both set"), "{text}");
}

#[test]
fn secrets_in_the_wrong_arguments_are_not_repeated() {
    let text = error(&["--cluster", &format!("grpc+tls://ana:{SECRET}@192.0.2.1:8815")], &[]);
    assert!(text.contains("no user and password"), "{text}");
    let text = error(&["--user", &format!("ana:{SECRET}")], &[]);
    assert!(text.contains("no colon"), "{text}");
    let text = error(&["--token-file", &format!("volley_0123456789abcdef_{SECRET}")], &[]);
    assert!(text.contains("not a file"), "{text}");
    assert!(error(&["--password"], &[]).contains("command line"));
    let output = volley(&["ls", "--password", SECRET]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && text.contains("command line") && !text.contains(SECRET), "{text}");
}
