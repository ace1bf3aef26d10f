//! The time limit that a client has set for its statements: in the cookie of its session, or in the ticket that was planned by it.
//!
//! It holds for planning a statement, and for running it with all rows of its parameters. The engine has the limit of the node
//! besides, which is at least as long.

use std::future::Future;
use std::time::Duration;

use http::HeaderMap;
use tokio::time::{sleep, timeout};
use volley_common::session_cookie::SessionCookie;
use volley_common::{Error, Result};

/// A time limit below that of the node; `None`: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatementLimit(Option<Duration>);

impl StatementLimit {
    /// That of the session of a call with these headers, at a node with this limit for all statements.
    pub fn of_headers(headers: &HeaderMap, of_node: Duration) -> Self {
        let session = SessionCookie::of_headers(headers).and_then(|cookie| cookie.statement_timeout);
        StatementLimit(session.map(|timeout| timeout.duration()).filter(|limit| *limit < of_node))
    }

    /// That of a ticket, milliseconds; 0: it has none.
    pub fn of_ticket(ms: u64) -> Self {
        StatementLimit((ms != 0).then(|| Duration::from_millis(ms)))
    }

    /// For a ticket, milliseconds; 0: there is none.
    pub fn ticket_ms(self) -> u64 {
        self.0.map_or(0, |limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX))
    }

    /// The result of `work`.
    ///
    /// # Errors
    /// DEADLINE_EXCEEDED: it did not end in time, and is dropped. Those of `work`.
    pub async fn limit<T>(self, work: impl Future<Output = Result<T>>) -> Result<T> {
        match self.0 {
            None => work.await,
            Some(limit) => timeout(limit, work).await.unwrap_or_else(|_| Err(exceeded(limit))),
        }
    }

    /// Ends when the time is over, with the error that says so; never if there is no limit.
    pub async fn exceeded(self) -> Error {
        match self.0 {
            None => std::future::pending().await,
            Some(limit) => {
                sleep(limit).await;
                exceeded(limit)
            }
        }
    }
}

fn exceeded(limit: Duration) -> Error {
    Error::deadline(format!(
        "the statement took longer than {} s, which is the limit of its session (the option statement_timeout): select fewer rows, or set a longer one",
        limit.as_secs_f64()
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::header::COOKIE;
    use volley_common::Code;
    use volley_common::session_cookie::{StatementTimeout, TimeoutForm};

    use super::*;

    fn of_session(ms: u64, of_node: Duration) -> u64 {
        let statement_timeout = Some(StatementTimeout { ms, form: TimeoutForm::Text });
        let cookie = SessionCookie { id: "17".into(), statement_timeout };
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, cookie.to_header().parse().unwrap());
        StatementLimit::of_headers(&headers, of_node).ticket_ms()
    }

    #[test]
    fn session_lowers_the_limit_of_the_node_and_never_raises_it() {
        let hour = Duration::from_secs(3600);
        assert_eq!((of_session(1500, hour), of_session(3_600_000, hour), of_session(7_200_000, hour)), (1500, 0, 0));
        assert_eq!(StatementLimit::of_headers(&HeaderMap::new(), hour), StatementLimit::default());
        assert_eq!(StatementLimit::of_ticket(0), StatementLimit::default());
        assert_eq!(StatementLimit::of_ticket(1500).ticket_ms(), 1500);
    }

    #[tokio::test]
    async fn work_ends_with_the_limit() {
        let never = std::future::pending::<Result<()>>();
        let error = StatementLimit::of_ticket(1).limit(never).await.unwrap_err();
        assert!(error.code == Code::DeadlineExceeded && error.message.contains("0.001 s"), "{error}");
        assert_eq!(StatementLimit::of_ticket(1).exceeded().await, error);
        assert_eq!(StatementLimit::default().limit(async { Ok(7) }).await, Ok(7));
    }
}
