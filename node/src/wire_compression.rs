//! What all gets share that compress what they send: places, threads, how fast codecs are, and what is known of clients' links.
//!
//! Only a reader that says so gets compressed messages, and only over a link that is slower than the codec ([`link_policy`]). Nothing
//! is refused for want of a place: the get sends plain messages then.

pub mod link_policy;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use volley_common::fair_budget::{BudgetLimits, BudgetShare, FairBudget};
use volley_common::fairness::CallerKey;
use volley_common::ipc::compress::BodyCodec;

use link_policy::LinkRates;

/// How many clients' links are known at a time, and for how long.
const MAX_LINKS: usize = 1024;
const LINK_LIFETIME: Duration = Duration::from_secs(60);
/// The rate of a client's streams is taken after this time, and counts from this one on.
const RATE_TIME: Duration = Duration::from_millis(250);
const MIN_RATE_TIME: Duration = Duration::from_millis(10);
/// Bytes that a thread compresses in a second before it was measured.
const LZ4_RATE: f64 = 500e6;
const ZSTD_RATE: f64 = 250e6;
/// The weight of a new measurement.
const NEW_SHARE: f64 = 0.1;

/// Shared by all gets of a node; clones share it.
#[derive(Clone)]
pub struct WireCompression {
    places: FairBudget,
    max_gets: usize,
    threads: Arc<Semaphore>,
    max_threads: usize,
    known: Arc<Mutex<KnownRates>>,
}

/// What was measured.
struct KnownRates {
    lz4: f64,
    zstd: f64,
    /// By the address of the client.
    links: HashMap<IpAddr, ClientLink>,
}

/// What is known of the streams to one address.
struct ClientLink {
    /// What the last one ended with, and when.
    ended: Option<(Option<BodyCodec>, Instant)>,
    /// The bytes of rows of all since the last time that the rate was taken.
    since: Instant,
    bytes: u64,
    /// Bytes of rows in a second, before.
    rate: f64,
}

impl ClientLink {
    fn new(now: Instant) -> Self {
        ClientLink { ended: None, since: now, bytes: 0, rate: 0.0 }
    }

    /// Counts bytes; returns how many there are in a second: before, or now if that is more.
    fn count(&mut self, bytes: u64, now: Instant) -> f64 {
        self.bytes += bytes;
        let elapsed = now - self.since;
        let current = self.bytes as f64 / elapsed.max(MIN_RATE_TIME).as_secs_f64();
        let rate = self.rate.max(current);
        if elapsed >= RATE_TIME {
            (self.since, self.bytes, self.rate) = (now, 0, current);
        }
        rate
    }

    fn is_known(&self, now: Instant) -> bool {
        let ended = self.ended.is_some_and(|(_, ended)| now - ended < LINK_LIFETIME);
        ended || now - self.since < LINK_LIFETIME
    }
}

impl WireCompression {
    /// For this many gets at once, by half of the processors.
    pub fn new(max_gets: usize) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, |processors| (processors.get() / 2).max(1));
        let known = KnownRates { lz4: LZ4_RATE, zstd: ZSTD_RATE, links: HashMap::new() };
        WireCompression {
            places: FairBudget::default(),
            max_gets,
            threads: Arc::new(Semaphore::new(threads)),
            max_threads: threads,
            known: Arc::new(Mutex::new(known)),
        }
    }

    /// Whether there are places at all.
    pub fn is_enabled(&self) -> bool {
        self.max_gets > 0
    }

    /// The place of one more get, which holds up to about 4 MiB of compressed messages while its client does not read. `None`: all
    /// places are taken, or the caller has half of them.
    pub fn take_place(&self, caller: &CallerKey) -> Option<BudgetShare> {
        let limits = BudgetLimits::halved(self.max_gets as u64);
        self.places.take(caller.budget_owner().as_ref(), 1, limits).ok()
    }

    /// Waits for a thread, in turn. It is held while messages are compressed, never while a client is waited for.
    pub async fn acquire_thread(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        self.threads.clone().acquire_owned().await.ok()
    }

    /// Counts bytes that a thread has compressed.
    pub fn measured(&self, codec: BodyCodec, bytes: usize, took: Duration) {
        let seconds = took.as_secs_f64();
        if bytes == 0 || seconds <= 0.0 {
            return;
        }
        let mut known = self.known.lock();
        let rate = match codec {
            BodyCodec::Lz4 => &mut known.lz4,
            BodyCodec::Zstd => &mut known.zstd,
        };
        *rate += (bytes as f64 / seconds - *rate) * NEW_SHARE;
    }

    /// Counts bytes of rows that were sent to a client, if it has an address. Returns the rates to decide by.
    pub fn count_sent(&self, client: Option<IpAddr>, bytes: u64) -> LinkRates {
        let mut known = self.known.lock();
        let (lz4, zstd, threads) = (known.lz4, known.zstd, self.max_threads);
        let client = match client {
            Some(client) => known.link(client).map_or(0.0, |link| link.count(bytes, Instant::now())),
            None => 0.0,
        };
        LinkRates { client, lz4, zstd, threads }
    }

    /// What the last stream to this client ended with, if that is not long ago.
    pub fn known_link(&self, client: IpAddr) -> Option<BodyCodec> {
        let (codec, ended) = self.known.lock().links.get(&client)?.ended?;
        codec.filter(|_| ended.elapsed() < LINK_LIFETIME)
    }

    /// Remembers what a stream to this client ended with.
    pub fn remember_link(&self, client: IpAddr, codec: Option<BodyCodec>) {
        if let Some(link) = self.known.lock().link(client) {
            link.ended = Some((codec, Instant::now()));
        }
    }
}

impl KnownRates {
    /// The link of a client; `None` if too many others are in use.
    fn link(&mut self, client: IpAddr) -> Option<&mut ClientLink> {
        let now = Instant::now();
        if self.links.len() >= MAX_LINKS && !self.links.contains_key(&client) {
            self.links.retain(|_, link| link.is_known(now));
            if self.links.len() >= MAX_LINKS {
                return None;
            }
        }
        Some(self.links.entry(client).or_insert_with(|| ClientLink::new(now)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_has_half_of_the_places_and_none_is_refused() {
        let compression = WireCompression::new(3);
        let (one, other) = (CallerKey::Principal("a".into()), CallerKey::Principal("b".into()));
        let own: Vec<_> = std::iter::from_fn(|| compression.take_place(&one)).collect();
        let others: Vec<_> = std::iter::from_fn(|| compression.take_place(&other)).collect();
        assert_eq!((own.len(), others.len()), (2, 1));
        drop(own);
        assert!(compression.take_place(&other).is_some());
        let off = WireCompression::new(0);
        assert!(!off.is_enabled() && off.take_place(&one).is_none());
    }

    #[test]
    fn rates_follow_what_is_measured() {
        let compression = WireCompression::new(1);
        for _ in 0..100 {
            compression.measured(BodyCodec::Zstd, 100_000_000, Duration::from_secs(1));
            compression.measured(BodyCodec::Zstd, 0, Duration::from_secs(1));
            compression.measured(BodyCodec::Zstd, 1, Duration::ZERO);
        }
        let rates = compression.count_sent(None, 1 << 20);
        assert!((99e6..101e6).contains(&rates.zstd), "{rates:?}");
        assert_eq!((rates.lz4, rates.client), (LZ4_RATE, 0.0));
    }

    #[test]
    fn rate_of_a_client_is_that_of_all_its_streams() {
        let begin = Instant::now();
        let mut link = ClientLink::new(begin);
        let at = |ms| begin + Duration::from_millis(ms);
        assert_eq!(link.count(1_000_000, at(1)), 1e8, "of the least time");
        for ms in 2..=250 {
            link.count(1_000_000, at(ms));
        }
        assert!((link.count(0, at(251)) - 1e9).abs() < 1e8, "a megabyte each millisecond");
        assert!((link.count(1_000_000, at(750)) - 1e9).abs() < 1e8, "what it was before");
        assert!(link.count(0, at(751)) < 1e7, "it is less now");
        assert!(link.is_known(at(60_000)) && !link.is_known(at(61_000)));
    }

    #[test]
    fn links_are_remembered_by_address_and_their_number_is_bounded() {
        let compression = WireCompression::new(1);
        let address = |at: u32| IpAddr::from(at.to_be_bytes());
        assert_eq!(compression.known_link(address(1)), None);
        compression.remember_link(address(1), Some(BodyCodec::Lz4));
        compression.remember_link(address(1), Some(BodyCodec::Zstd));
        compression.remember_link(address(2), None);
        assert_eq!(compression.known_link(address(1)), Some(BodyCodec::Zstd));
        assert_eq!(compression.known_link(address(2)), None);
        for at in 0..2 * MAX_LINKS as u32 {
            compression.remember_link(address(at), Some(BodyCodec::Lz4));
        }
        assert_eq!(compression.known.lock().links.len(), MAX_LINKS);
        assert_eq!(compression.known_link(address(1)), Some(BodyCodec::Lz4));
    }
}
