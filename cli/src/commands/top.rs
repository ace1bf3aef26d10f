//! `volley top`: the cluster on one screen, with rates, until a key ends it.

use std::io::{self, IsTerminal};
use std::pin::pin;
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use volley_client::Client;
use volley_common::tls::ClientTls;
use volley_common::{Error, Result};

use super::dev;
use crate::args::top::TopArgs;
use crate::colours;
use screen::{TopKey, TopScreen};
use snapshot::TopSnapshot;
use source::TopSource;

mod rows;
mod screen;
mod snapshot;
mod source;

/// How often the thread that waits for keys looks whether they are still wanted.
const KEY_POLL: Duration = Duration::from_millis(100);
/// Keys and snapshots that wait to be shown.
const WAITING: usize = 16;

/// Shows the cluster until `q` or Ctrl-C.
///
/// # Errors
/// INVALID_ARGUMENT: JSON is requested, or there is no terminal. Those of the first look at the cluster; later ones are shown.
pub async fn run(
    top: &TopArgs,
    connect: impl AsyncFnOnce() -> Result<Client>,
    tls: &ClientTls,
    json: bool,
) -> Result<()> {
    check_terminal(json, io::stdin().is_terminal() && io::stdout().is_terminal())?;
    let client = connect().await?;
    let address = client.address().to_string();
    let source = TopSource::new(client, tls, top)?;
    let mut screen = TopScreen::new(address, source.read().await?, colours::has_coloured_output());
    let (sender, mut snapshots) = mpsc::channel(1);
    // Dropping the set ends its task.
    let mut tasks = JoinSet::new();
    tasks.spawn(read_forever(source, Duration::from_secs(top.interval.into()), sender));
    let mut terminal = TopTerminal::enter()?;
    let mut keys = keys();
    let mut interrupted = pin!(dev::interrupted());
    loop {
        terminal.0.draw(|frame| screen.draw(frame)).map_err(|e| terminal_error(&e))?;
        tokio::select! {
            stopped = &mut interrupted => return Err(stopped.err().unwrap_or_else(|| Error::cancelled("interrupted"))),
            key = keys.recv() => match key {
                Some(Ok(Event::Key(key))) if key.kind == KeyEventKind::Press => {
                    if screen.press(key) == TopKey::Quit {
                        return Ok(());
                    }
                }
                // Such as a new size: the screen is drawn again.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(terminal_error(&error)),
                None => return Err(Error::internal("the thread that reads keys has ended")),
            },
            read = snapshots.recv() => match read {
                Some(read) => screen.show(read),
                None => return Err(Error::internal("the task that looks at the cluster has ended")),
            },
        }
    }
}

/// It draws on a terminal, and has nothing for programs.
fn check_terminal(json: bool, is_terminal: bool) -> Result<()> {
    let instead = "`volley status --json` and `volley stats --json` print the same figures once";
    match (json, is_terminal) {
        (true, _) => Err(Error::invalid(format!("volley top has no JSON: {instead}"))),
        (false, false) => Err(Error::invalid(format!(
            "volley top draws on a terminal, and the standard input or output is none: {instead}"
        ))),
        (false, true) => Ok(()),
    }
}

/// Looks at the cluster every `interval`, or as often as it answers, until nobody wants to know.
async fn read_forever(source: TopSource, interval: Duration, sender: mpsc::Sender<Result<TopSnapshot>>) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // It is over at once, and the first snapshot is shown already.
    ticks.tick().await;
    loop {
        ticks.tick().await;
        if sender.send(source.read().await).await.is_err() {
            return;
        }
    }
}

/// What happens at the terminal, read by a thread, which ends soon after nobody wants to know.
fn keys() -> mpsc::Receiver<io::Result<Event>> {
    let (sender, receiver) = mpsc::channel(WAITING);
    std::thread::spawn(move || {
        while !sender.is_closed() {
            let read = match event::poll(KEY_POLL) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let is_last = read.is_err();
            if sender.blocking_send(read).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

/// The terminal while the screen is shown; dropping it gives the terminal back as it was.
struct TopTerminal(DefaultTerminal);

impl TopTerminal {
    fn enter() -> Result<Self> {
        ratatui::try_init().map(TopTerminal).map_err(|error| {
            ratatui::restore();
            terminal_error(&error)
        })
    }
}

impl Drop for TopTerminal {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn terminal_error(error: &io::Error) -> Error {
    Error::unavailable(format!("the terminal cannot be used: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_terminal_gets_a_screen() {
        assert!(check_terminal(false, true).is_ok());
        for (json, is_terminal, reason) in [(true, true, "has no JSON"), (false, false, "draws on a terminal")] {
            let error = check_terminal(json, is_terminal).unwrap_err().message;
            assert!(error.contains(reason) && error.contains("volley status --json"), "{error}");
        }
    }
}
