//! Fragments of pages by server-sent events, for pages that are open: each is rendered anew by the calls of its visitor, so it shows
//! what the visitor may see at that moment, and ends with its session.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use volley_common::{Code, Error, Result};

use super::page_error::PageError;
use super::visitor::PageVisitor;
use super::{activity, cluster};

/// How often a fragment is rendered.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long one stream lasts: the browser begins another.
const MAX_DURATION: Duration = Duration::from_secs(600);
/// The most streams of a process.
const MAX_STREAMS: usize = 64;
/// How long a visitor waits that is refused, milliseconds.
const RETRY_MS: u64 = 30_000;

static STREAMS: Semaphore = Semaphore::const_new(MAX_STREAMS);

/// A page that has a live part.
#[derive(Clone, Copy)]
enum LivePage {
    Cluster,
    Activity,
}

/// Follows the page Cluster.
pub(crate) async fn cluster(visitor: PageVisitor) -> Result<Response, PageError> {
    follow(visitor, LivePage::Cluster).await
}

/// Follows the page Activity.
pub(crate) async fn activity(visitor: PageVisitor) -> Result<Response, PageError> {
    follow(visitor, LivePage::Activity).await
}

impl LivePage {
    async fn render(self, visitor: PageVisitor) -> Result<String, PageError> {
        match self {
            LivePage::Cluster => cluster::fragment(visitor).await,
            LivePage::Activity => activity::fragment(visitor).await,
        }
    }
}

/// An open stream.
struct LiveStream {
    visitor: PageVisitor,
    page: LivePage,
    /// The fragment that the browser has.
    shown: String,
    ticks: Interval,
    ends: Instant,
    _permit: SemaphorePermit<'static>,
}

async fn follow(visitor: PageVisitor, page: LivePage) -> Result<Response, PageError> {
    let permit = STREAMS.try_acquire().map_err(|_| {
        Error::exhausted("too many pages follow this member: they show the cluster as it was when they were loaded")
            .retry_after(RETRY_MS)
    })?;
    // A refusal is a status, not an event.
    let shown = page.render(visitor.clone()).await?;
    let mut ticks = interval_at(Instant::now() + INTERVAL, INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let first = update(&shown);
    let stream = LiveStream { visitor, page, shown, ticks, ends: Instant::now() + MAX_DURATION, _permit: permit };
    let events = stream::unfold((Some(first), Some(stream)), |(first, stream)| async move {
        let stream = stream?;
        let (event, stream) = match first {
            Some(event) => (event, Some(stream)),
            None => stream.next().await?,
        };
        Some((Ok::<_, Infallible>(Bytes::from(event)), (None, stream)))
    });
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

impl LiveStream {
    /// The next event, and the stream unless it is the last.
    async fn next(mut self) -> Option<(String, Option<Self>)> {
        self.ticks.tick().await;
        if Instant::now() >= self.ends {
            return None;
        }
        match self.page.render(self.visitor.clone()).await {
            // A browser that is gone is noticed by what is sent.
            Ok(fragment) if fragment == self.shown => Some(("event: tick\ndata:\n\n".into(), Some(self))),
            Ok(fragment) => {
                let event = update(&fragment);
                self.shown = fragment;
                Some((event, Some(self)))
            }
            Err(error) => {
                let error = error.error();
                // A cluster in trouble is what one wants to follow: only a visitor who may not see it any more is sent away.
                let is_over = matches!(error.code, Code::Unauthenticated | Code::PermissionDenied);
                let name = if is_over { "end" } else { "trouble" };
                Some((event(name, &error.message), (!is_over).then_some(self)))
            }
        }
    }
}

fn update(fragment: &str) -> String {
    event("update", fragment)
}

/// An event of several lines.
fn event(name: &str, data: &str) -> String {
    let mut text = format!("event: {name}\n");
    for line in data.lines() {
        text.push_str("data: ");
        // A lone carriage return would end the line, too.
        text.push_str(&line.replace('\r', " "));
        text.push('\n');
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_has_its_lines() {
        assert_eq!(event("update", "<p>\na\rb\n</p>"), "event: update\ndata: <p>\ndata: a b\ndata: </p>\n\n");
        assert_eq!(event("end", "x\n\nevent: y"), "event: end\ndata: x\ndata: \ndata: event: y\n\n");
    }
}
