//! Planning on threads of its own.
//!
//! Planning a large statement computes for seconds, and nothing can interrupt it. On a thread of those that run operators it would delay
//! other queries, and the time limit of its own.

use futures::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use volley_common::telemetry::trace::carry;
use volley_common::{Error, Result};

use super::query_stream::{Deadline, catch_panic};

/// The result of planning on a thread of its own, with the `place` of the query or plan. If nobody waits for it any more, planning ends
/// at its next pause; the place is taken until then, as is the thread.
///
/// # Errors
/// DEADLINE_EXCEEDED: it takes too long. INTERNAL: it panics. Those of planning.
pub(super) async fn plan_apart<T, P>(
    deadline: Option<Deadline>,
    place: P,
    planning: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<(T, P)>
where
    T: Send + 'static,
    P: Send + 'static,
{
    let (mut reply, planned) = oneshot::channel();
    let runtime = Handle::current();
    let planning = carry(planning);
    spawn_blocking(move || {
        let planning = catch_panic(planning).map(Result::flatten);
        let ended = runtime.block_on(async {
            tokio::select! {
                biased;
                () = reply.closed() => None,
                ended = planning => Some(ended),
            }
        });
        if let Some(ended) = ended {
            // Nobody has to wait for it.
            let _ = reply.send(ended.map(|planned| (planned, place)));
        }
    });
    let planned = Deadline::limit(deadline, planned).await?;
    planned.unwrap_or_else(|_| Err(Error::unavailable("the node stops and ended the query: ask another node")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    use volley_common::Code;

    use super::*;

    /// Tells when it is dropped.
    struct Place(Option<oneshot::Sender<()>>);

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = self.0.take().unwrap().send(());
        }
    }

    fn place() -> (Place, oneshot::Receiver<()>) {
        let (dropped, is_dropped) = oneshot::channel();
        (Place(Some(dropped)), is_dropped)
    }

    #[tokio::test]
    async fn plan_comes_back_with_its_place() {
        let (place, mut is_dropped) = place();
        let (planned, place) = plan_apart(None, place, async { Ok(7) }).await.unwrap();
        assert_eq!(planned, 7);
        assert!(is_dropped.try_recv().is_err());
        drop(place);
        is_dropped.await.unwrap();
    }

    /// Also on the only thread of a runtime, and while planning computes without a pause.
    #[tokio::test]
    async fn wait_for_a_long_plan_ends_in_time_and_its_place_with_it() {
        let (place, mut is_dropped) = place();
        let (end, ended) = sync_channel::<()>(1);
        let planning = async move {
            ended.recv().unwrap();
            Ok(7)
        };
        let deadline = Deadline::after(Duration::from_millis(50));
        let error = plan_apart(deadline, place, planning).await.err().unwrap();
        assert_eq!(error.code, Code::DeadlineExceeded, "{error}");
        assert!(is_dropped.try_recv().is_err(), "it still computes");
        end.send(()).unwrap();
        is_dropped.await.unwrap();
    }

    #[tokio::test]
    async fn plan_that_waits_ends_when_nobody_waits_for_it() {
        let (place, is_dropped) = place();
        let planning = plan_apart(None, place, std::future::pending::<Result<()>>());
        assert!(planning.now_or_never().is_none());
        is_dropped.await.unwrap();
    }

    fn panicking() -> Result<()> {
        panic!("a test")
    }

    #[tokio::test]
    async fn failures_and_panics_free_the_place() {
        let (place_of_failure, is_dropped) = place();
        let failed = plan_apart(None, place_of_failure, async { Err::<(), _>(Error::invalid("no")) }).await;
        assert_eq!(failed.err().unwrap(), Error::invalid("no"));
        is_dropped.await.unwrap();
        let (place_of_panic, is_dropped) = place();
        let failed = plan_apart(None, place_of_panic, async { panicking() }).await;
        assert_eq!(failed.err().unwrap().code, Code::Internal);
        is_dropped.await.unwrap();
    }
}
