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

/// How many clients' links are remembered, and for how long.
const MAX_LINKS: usize = 1024;
const LINK_LIFETIME: Duration = Duration::from_secs(60);
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
    known: Arc<Mutex<KnownRates>>,
}

/// What was measured.
struct KnownRates {
    lz4: f64,
    zstd: f64,
    /// What the last stream to each address ended with, and when.
    links: HashMap<IpAddr, (Option<BodyCodec>, Instant)>,
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

    /// Bytes that a thread compresses in a second.
    pub fn codec_rate(&self, codec: BodyCodec) -> f64 {
        let known = self.known.lock();
        match codec {
            BodyCodec::Lz4 => known.lz4,
            BodyCodec::Zstd => known.zstd,
        }
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

    /// What the last stream to this client ended with, if that is not long ago.
    pub fn known_link(&self, client: IpAddr) -> Option<BodyCodec> {
        let known = self.known.lock();
        let (codec, since) = known.links.get(&client)?;
        codec.filter(|_| since.elapsed() < LINK_LIFETIME)
    }

    /// Remembers what a stream to this client ended with.
    pub fn remember_link(&self, client: IpAddr, codec: Option<BodyCodec>) {
        let mut known = self.known.lock();
        if known.links.len() >= MAX_LINKS && !known.links.contains_key(&client) {
            known.links.retain(|_, (_, since)| since.elapsed() < LINK_LIFETIME);
        }
        if known.links.len() < MAX_LINKS || known.links.contains_key(&client) {
            known.links.insert(client, (codec, Instant::now()));
        }
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
        assert!((99e6..101e6).contains(&compression.codec_rate(BodyCodec::Zstd)));
        assert_eq!(compression.codec_rate(BodyCodec::Lz4), LZ4_RATE);
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
