//! Calls to the coordinators' peer service, tried on one after another.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use backon::{BackoffBuilder, ExponentialBuilder};
use std::sync::Arc;
use tonic::Status;
use tonic::transport::Channel;
use volley_common::proxy::Relay;
use volley_common::wire::cluster::coordinator_client::CoordinatorClient;
use volley_common::wire::cluster::{
    AbortWriteRequest, BeginWriteRequest, CommitWriteRequest, PlanReadReply, PlanReadRequest, RenewWriteRequest,
    StagePartsRequest, WritePlan,
};
use volley_common::wire::{MAX_PEER_MESSAGE, catalog};
use volley_common::{Code, Error, Result};

/// How long a commit is tried: longer than an election, for a commit may safely be repeated.
const COMMIT_DEADLINE: Duration = Duration::from_secs(30);

/// The coordinators' peer service. Any coordinator answers any call; one that cannot be reached, or
/// that knows no leader, is passed over for the next until the deadline.
pub struct Coordinators {
    relay: Relay,
    configured: Vec<String>,
    addrs: ArcSwap<Vec<String>>,
    /// Index of the coordinator that is asked first: the leader, or one that answered when that did not.
    preferred: AtomicUsize,
    deadline: Duration,
}

type Client = CoordinatorClient<Channel>;

impl Coordinators {
    /// `addrs`: their peer addresses as configured, HOST:PORT.
    pub fn new(relay: Relay, addrs: Vec<String>, deadline: Duration) -> Self {
        Coordinators {
            relay,
            configured: addrs.clone(),
            addrs: ArcSwap::from_pointee(addrs),
            preferred: AtomicUsize::new(0),
            deadline,
        }
    }

    /// Takes over the peer addresses that the leader gave; the configured ones stay, last.
    pub fn refresh(&self, peers: &[String]) {
        let mut addrs: Vec<String> = peers.iter().filter(|a| !a.is_empty()).cloned().collect();
        for addr in &self.configured {
            if !addrs.contains(addr) {
                addrs.push(addr.clone());
            }
        }
        if **self.addrs.load() != addrs {
            let first = self.addrs().into_iter().next().unwrap_or_default();
            self.addrs.store(Arc::new(addrs));
            self.prefer(&first);
        }
    }

    /// Asks this coordinator first from now on, if it is known: the leader has to hand on nothing.
    pub fn prefer(&self, addr: &str) {
        let at = self.addrs.load().iter().position(|known| known == addr);
        self.preferred.store(at.unwrap_or(0), Ordering::Relaxed);
    }

    /// Peer addresses, in the order in which they are tried next.
    pub fn addrs(&self) -> Vec<String> {
        let mut addrs = self.addrs.load().to_vec();
        let first = self.preferred.load(Ordering::Relaxed) % addrs.len().max(1);
        addrs.rotate_left(first);
        addrs
    }

    /// A client of one coordinator, with the message limits that members keep to.
    ///
    /// # Errors
    /// UNAVAILABLE if `addr` is no address.
    pub fn client(&self, addr: &str) -> Result<Client> {
        Ok(CoordinatorClient::new(self.relay.channel(addr)?)
            .max_decoding_message_size(MAX_PEER_MESSAGE)
            .max_encoding_message_size(MAX_PEER_MESSAGE))
    }

    /// Begins a write and says where its parts should go.
    pub async fn begin_write(&self, request: BeginWriteRequest) -> Result<WritePlan> {
        self.call(self.deadline, request, |mut client, request| async move { client.begin_write(request).await }).await
    }

    /// Adds one stream's parts to a write that a call of its own will commit.
    pub async fn stage(&self, request: StagePartsRequest) -> Result<()> {
        self.call(COMMIT_DEADLINE, request, |mut client, request| async move { client.stage_parts(request).await })
            .await?;
        Ok(())
    }

    /// Prolongs a write's lease.
    pub async fn renew(&self, write: &str) -> Result<()> {
        let request = RenewWriteRequest { write: write.into() };
        self.call(self.deadline, request, |mut client, request| async move { client.renew_write(request).await })
            .await?;
        Ok(())
    }

    /// Makes a write visible. Repeating it answers the same, so it is tried for 30 s.
    ///
    /// # Errors
    /// UNAVAILABLE that says that the outcome is unknown, if no coordinator answered in that time.
    pub async fn commit(&self, request: CommitWriteRequest) -> Result<catalog::WriteOutcome> {
        let write = request.write.clone();
        self.call(COMMIT_DEADLINE, request, |mut client, request| async move { client.commit_write(request).await })
            .await
            .map_err(|error| match error.code {
                Code::Unavailable | Code::DeadlineExceeded => error.at(format_args!(
                    "it is unknown whether write {write} took effect; put again with this write id to find out"
                )),
                _ => error,
            })
    }

    /// Ends a write without effect.
    pub async fn abort(&self, request: AbortWriteRequest) -> Result<()> {
        self.call(self.deadline, request, |mut client, request| async move { client.abort_write(request).await })
            .await?;
        Ok(())
    }

    /// Turns a table's name into a ticket for all of it.
    pub async fn plan_read(&self, request: PlanReadRequest) -> Result<PlanReadReply> {
        self.call(self.deadline, request, |mut client, request| async move { client.plan_read(request).await }).await
    }

    /// Calls one coordinator after another until one answers with anything but UNAVAILABLE.
    async fn call<Req, Rep, Call, Fut>(&self, deadline: Duration, request: Req, call: Call) -> Result<Rep>
    where
        Req: Clone,
        Call: Fn(Client, Req) -> Fut,
        Fut: Future<Output = Result<tonic::Response<Rep>, Status>>,
    {
        let until = Instant::now() + deadline;
        let mut pauses = pauses();
        let mut last = Error::unavailable("no coordinator is configured");
        loop {
            for (at, addr) in self.addrs().iter().enumerate() {
                let left = until.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(last.at(format_args!("no coordinator answered within {deadline:?}")));
                }
                match self.call_one(addr, left, &request, &call).await {
                    Ok(reply) => {
                        if at > 0 {
                            self.prefer(addr);
                        }
                        return Ok(reply);
                    }
                    Err(error) if error.code == Code::Unavailable => {
                        last = error.at(format_args!("coordinator {addr}"))
                    }
                    Err(error) => return Err(error),
                }
            }
            let pause = pauses.next().unwrap_or(Duration::from_millis(500));
            let left = until.saturating_duration_since(Instant::now());
            tokio::time::sleep(pause.min(left)).await;
        }
    }

    async fn call_one<Req, Rep, Call, Fut>(&self, addr: &str, left: Duration, request: &Req, call: &Call) -> Result<Rep>
    where
        Req: Clone,
        Call: Fn(Client, Req) -> Fut,
        Fut: Future<Output = Result<tonic::Response<Rep>, Status>>,
    {
        let client = self.client(addr)?;
        match tokio::time::timeout(left, call(client, request.clone())).await {
            Ok(reply) => Ok(reply?.into_inner()),
            Err(_) => Err(Error::unavailable("no answer in time")),
        }
    }
}

/// Pauses between rounds: 20 ms growing to 500 ms, with jitter.
fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(20))
        .with_max_delay(Duration::from_millis(500))
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_preferred_is_asked_first_also_when_the_list_changes() {
        let named = |names: &[&str]| names.iter().map(|name| format!("{name}:1")).collect::<Vec<_>>();
        let coordinators = Coordinators::new(Relay::new(), named(&["a", "b", "c"]), Duration::from_secs(1));
        coordinators.prefer("c:1");
        assert_eq!(coordinators.addrs(), named(&["c", "a", "b"]));
        coordinators.refresh(&named(&["b", "c", "d"]));
        assert_eq!(coordinators.addrs(), named(&["c", "d", "a", "b"]));
        coordinators.prefer("nobody:1");
        assert_eq!(coordinators.addrs(), named(&["b", "c", "d", "a"]));
    }
}
