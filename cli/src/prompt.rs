//! Questions to a person at a terminal: passwords and confirmations.

use std::io::{BufRead, IsTerminal};

use tokio::sync::oneshot;
use volley_common::escape::escape_invisible;
use volley_common::identity::Secret;
use volley_common::server::StopSignals;
use volley_common::{Error, Result};

/// More bytes are no password; the servers allow 1024.
const MAX_PASSWORD: u64 = 4096;

/// Asks for a password at the terminal, without showing it.
///
/// # Errors
/// INVALID_ARGUMENT: there is no terminal; `otherwise` says how to give it then. CANCELLED: Ctrl-C.
pub async fn password(question: &str, otherwise: &str) -> Result<Secret> {
    if !has_terminal() {
        return Err(Error::invalid(format!("there is no terminal to ask for the password: {otherwise}")));
    }
    // The prompt changes the terminal's mode. Ctrl-C must not end the process before it is restored.
    let _signals = StopSignals::new()?;
    let question = question.to_string();
    let typed = tokio::task::spawn_blocking(move || rpassword::prompt_password(question)).await;
    match typed.map_err(|_| Error::internal("the thread that asks for the password panicked"))? {
        Ok(typed) if typed.is_empty() => Err(Error::invalid("the password is empty")),
        Ok(typed) => Ok(Secret::new(typed)),
        Err(e) if e.kind() == std::io::ErrorKind::Interrupted => Err(Error::cancelled("interrupted")),
        Err(e) => Err(Error::invalid(format!("cannot ask for the password ({e}): {otherwise}"))),
    }
}

/// Whether the command runs at a terminal. The question is asked by the terminal itself (`/dev/tty`), so one stream that is a
/// terminal is enough: `2>log` does not hinder it. A program whose streams are all redirected is not asked.
fn has_terminal() -> bool {
    std::io::stdin().is_terminal() || std::io::stdout().is_terminal() || std::io::stderr().is_terminal()
}

/// A new password: from the standard input, or from the terminal, where it is typed twice.
///
/// # Errors
/// Those of [`password`] and [`first_line`]. INVALID_ARGUMENT: the two differ.
pub async fn new_password(user: &str, from_stdin: bool, otherwise: &str) -> Result<Secret> {
    if from_stdin {
        return on_thread(|| first_line(std::io::stdin().lock())).await;
    }
    let first = password(&format!("New password of {user}: "), otherwise).await?;
    match password("The same again: ", otherwise).await? == first {
        true => Ok(first),
        false => Err(Error::invalid("the two passwords differ: nothing was changed")),
    }
}

/// The first line, without its end.
///
/// # Errors
/// INVALID_ARGUMENT: there is none, it is too long, or not UTF-8. UNAVAILABLE: it cannot be read.
fn first_line(input: impl BufRead) -> Result<Secret> {
    let mut line = String::new();
    match input.take(MAX_PASSWORD).read_line(&mut line) {
        Ok(length) if length as u64 == MAX_PASSWORD => {
            return Err(Error::invalid("the first line of the standard input is too long for a password"));
        }
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            return Err(Error::invalid("the first line of the standard input is not UTF-8"));
        }
        Err(e) => return Err(Error::unavailable(format!("cannot read the standard input: {e}"))),
    }
    match line.trim_end_matches(['\n', '\r']) {
        "" => Err(Error::invalid("the standard input begins with an empty line: give the password there")),
        password => Ok(Secret::new(password)),
    }
}

/// Whether a person can answer questions. Scripts are not asked.
pub fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks a question whose answer is yes or no; anything but yes is no.
///
/// # Errors
/// UNAVAILABLE: the answer cannot be read.
pub async fn confirmed(question: &str) -> Result<bool> {
    eprint!("{} [y/N] ", escape_invisible(question));
    let answer = on_thread(|| {
        let mut line = String::new();
        let read = std::io::stdin().lock().read_line(&mut line).map(|_| line);
        read.map_err(|e| Error::unavailable(format!("cannot read the answer: {e}")))
    });
    Ok(is_yes(&answer.await?))
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

/// Reads the standard input. The thread is not joined, so that an interrupt ends the command.
async fn on_thread<T: Send + 'static>(read: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (send, result) = oneshot::channel();
    std::thread::spawn(move || send.send(read()));
    result.await.unwrap_or_else(|_| Err(Error::internal("the thread that reads the standard input panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_yes_is_a_yes() {
        assert!(is_yes("y\n") && is_yes("Yes\n"));
        assert!(!is_yes("\n") && !is_yes("") && !is_yes("no\n"));
    }

    #[test]
    fn password_is_the_first_line_without_its_end() {
        let of = |input: &[u8]| first_line(input).map_err(|e| e.message);
        for input in ["  two words \nmore\n", "  two words \r\n", "  two words "] {
            assert_eq!(of(input.as_bytes()), Ok(Secret::new("  two words ")), "{input:?}");
        }
        assert!(of(b"").is_err_and(|e| e.contains("empty line")));
        assert!(of(b"\nsecret").is_err_and(|e| e.contains("empty line")));
        assert!(of(b"a\xff\n").is_err_and(|e| e.contains("UTF-8")));
        assert!(of(&[b'a'; 5000]).is_err_and(|e| e.contains("too long") && !e.contains("aa")));
    }

    #[tokio::test]
    async fn missing_terminal_is_an_error_that_names_the_ways() {
        if has_terminal() {
            return;
        }
        let error = password("Password: ", "set VOLLEY_PASSWORD").await.map_err(|e| e.message);
        assert!(error.is_err_and(|e| e.contains("no terminal") && e.contains("VOLLEY_PASSWORD")));
    }
}
