//! Whether the messages of a stream are compressed, and how: decided by what was measured on the stream. Pure.
//!
//! A codec is tried when the stream waits for its connection, and kept if more rows arrive with it. A reader that is slower than its
//! link makes the stream wait, too; then a codec changes nothing, and is given up. What is given up is tried again later, each time
//! after twice as many bytes.

use std::time::Duration;

use volley_common::ipc::accepted_codecs::AcceptedCodecs;
use volley_common::ipc::compress::BodyCodec;

/// What a stream can be sent with, by how much work it is.
const LEVELS: [Option<BodyCodec>; 3] = [None, Some(BodyCodec::Lz4), Some(BodyCodec::Zstd)];
/// Bytes that the buffers between this process and the link take at once. Those before are not measured ...
const BUFFERED_BYTES: u64 = 4 << 20;
/// ... unless the stream has waited for so long: the buffers are full then.
const BUFFERED_WAIT: Duration = Duration::from_millis(100);
/// A measurement has so many bytes as they are sent ...
const WINDOW_BYTES: u64 = 4 << 20;
/// ... or takes so long, and has some.
const WINDOW_TIME: Duration = Duration::from_millis(300);
const MIN_WINDOW_BYTES: u64 = 256 << 10;
/// A stream that waits for this share of the time is bound by its link, or by its reader.
const LINK_BOUND: f64 = 0.5;
/// One that waits for less is bound by its codec.
const CODEC_BOUND: f64 = 0.1;
/// More work must bring so many times the rows.
const GAIN: f64 = 1.1;
/// Less work may bring so many times the rows.
const LOSS: f64 = 0.95;
/// What did not pay is tried again after so many bytes of rows, and then after twice as many, up to the most.
const MIN_BACKOFF: u64 = 64 << 20;
const MAX_BACKOFF: u64 = 4 << 30;

/// Messages that were sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentMessages {
    /// Bytes before compression.
    pub plain: u64,
    /// Bytes as they are sent.
    pub wire: u64,
    /// The time for reading and compressing them.
    pub busy: Duration,
    /// The time until the connection asked for more.
    pub wait: Duration,
}

impl SentMessages {
    fn add(&mut self, more: &SentMessages) {
        self.plain += more.plain;
        self.wire += more.wire;
        self.busy += more.busy;
        self.wait += more.wait;
    }

    fn seconds(&self) -> f64 {
        // Never 0, by which would be divided.
        (self.busy + self.wait).as_secs_f64().max(1e-6)
    }

    fn is_window(&self) -> bool {
        let is_long = self.busy + self.wait >= WINDOW_TIME && self.wire >= MIN_WINDOW_BYTES;
        self.wire >= WINDOW_BYTES || is_long
    }

    /// Bytes of rows in a second.
    fn rate(&self) -> f64 {
        self.plain as f64 / self.seconds()
    }

    fn waiting_share(&self) -> f64 {
        self.wait.as_secs_f64() / self.seconds()
    }
}

/// What is known besides, bytes of rows in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkRates {
    /// That all streams to the client send together.
    pub client: f64,
    /// That a thread compresses by LZ4.
    pub lz4: f64,
    /// That a thread compresses by ZSTD.
    pub zstd: f64,
    /// Threads that compress at the same time.
    pub threads: usize,
}

impl LinkRates {
    /// Whether a codec is faster than a stream of this rate, and all threads are faster than all streams of the client.
    fn is_faster(&self, codec: BodyCodec, rate: f64) -> bool {
        let of_thread = match codec {
            BodyCodec::Lz4 => self.lz4,
            BodyCodec::Zstd => self.zstd,
        };
        rate * GAIN < of_thread && self.client * GAIN < of_thread * self.threads as f64
    }
}

/// The state of one stream.
#[derive(Debug)]
pub struct LinkPolicy {
    accepted: AcceptedCodecs,
    /// Index into [`LEVELS`].
    level: usize,
    /// The rate of each level when it was measured last.
    rates: [f64; LEVELS.len()],
    /// The level that is compared with.
    trial_from: Option<usize>,
    /// What was sent since the buffers may have been empty; `None`: they are full.
    filling: Option<SentMessages>,
    window: SentMessages,
    /// Bytes of rows until the next trial.
    hold: u64,
    backoff: u64,
    is_measured: bool,
}

impl LinkPolicy {
    /// Begins with `known`, if it is accepted: what the last stream to the same client ended with.
    pub fn new(accepted: AcceptedCodecs, known: Option<BodyCodec>) -> Self {
        let known = known.filter(|codec| accepted.accepts(*codec));
        LinkPolicy {
            accepted,
            level: LEVELS.iter().position(|level| *level == known).unwrap_or(0),
            rates: [0.0; LEVELS.len()],
            trial_from: None,
            filling: Some(SentMessages::default()),
            window: SentMessages::default(),
            hold: 0,
            backoff: MIN_BACKOFF,
            is_measured: false,
        }
    }

    /// What the next messages are compressed by, if at all.
    pub fn codec(&self) -> Option<BodyCodec> {
        LEVELS[self.level]
    }

    /// Whether [`LinkPolicy::codec`] is more than a guess.
    pub fn is_measured(&self) -> bool {
        self.is_measured && self.trial_from.is_none()
    }

    /// Counts messages that were sent.
    pub fn sent(&mut self, sent: SentMessages, rates: &LinkRates) {
        self.hold = self.hold.saturating_sub(sent.plain);
        if let Some(filling) = &mut self.filling {
            filling.add(&sent);
            if filling.wire >= BUFFERED_BYTES || filling.wait >= BUFFERED_WAIT {
                self.filling = None;
            }
            return;
        }
        self.window.add(&sent);
        if self.window.is_window() {
            let window = std::mem::take(&mut self.window);
            self.decide(&window, rates);
        }
    }

    fn decide(&mut self, window: &SentMessages, rates: &LinkRates) {
        let rate = window.rate();
        self.is_measured = true;
        if let Some(from) = self.trial_from.take() {
            self.end_trial(from, rate);
            return;
        }
        self.rates[self.level] = rate;
        if self.hold > 0 {
            return;
        }
        let is_faster = |level: usize| LEVELS[level].is_some_and(|codec| rates.is_faster(codec, rate));
        let next = match window.waiting_share() {
            share if share >= LINK_BOUND => self.next_level_up().filter(|level| is_faster(*level)),
            share if share < CODEC_BOUND => self.next_level_down(),
            _ => None,
        };
        if let Some(next) = next {
            self.trial_from = Some(self.level);
            self.switch_to(next);
        }
    }

    fn end_trial(&mut self, from: usize, rate: f64) {
        let factor = if self.level > from { GAIN } else { LOSS };
        if rate < self.rates[from] * factor {
            self.switch_to(from);
            self.hold = self.backoff;
            self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
            return;
        }
        self.rates[self.level] = rate;
        // More work may bring still more; less work has been found to suffice.
        self.hold = if self.level > from { 0 } else { self.backoff };
        self.backoff = MIN_BACKOFF;
    }

    fn switch_to(&mut self, level: usize) {
        if level < self.level {
            // A codec that was too slow has let the buffers run empty.
            self.filling = Some(SentMessages::default());
        }
        self.level = level;
    }

    fn next_level_up(&self) -> Option<usize> {
        (self.level + 1..LEVELS.len()).find(|level| self.is_accepted(*level))
    }

    fn next_level_down(&self) -> Option<usize> {
        (0..self.level).rev().find(|level| self.is_accepted(*level))
    }

    fn is_accepted(&self, level: usize) -> bool {
        LEVELS[level].is_none_or(|codec| self.accepted.accepts(codec))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: AcceptedCodecs = AcceptedCodecs { lz4: true, zstd: true };
    const MB: f64 = 1e6;
    const MESSAGE: u64 = 1 << 20;

    /// A connection of so many bytes a second, and a reader of so many bytes of rows a second.
    #[derive(Clone, Copy)]
    struct Link {
        bytes: f64,
        reader: f64,
    }

    /// Of each codec: the bytes of rows that a thread compresses in a second, and how many times fewer they become.
    fn codec_of(codec: Option<BodyCodec>) -> (f64, f64) {
        match codec {
            None => (f64::INFINITY, 1.0),
            Some(BodyCodec::Lz4) => (500.0 * MB, 2.0),
            Some(BodyCodec::Zstd) => (250.0 * MB, 3.0),
        }
    }

    /// With so many bytes of rows that all streams to the client send in a second.
    fn rates(client: f64) -> LinkRates {
        let of = |codec| codec_of(Some(codec)).0;
        LinkRates { client, lz4: of(BodyCodec::Lz4), zstd: of(BodyCodec::Zstd), threads: 1 }
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// Sends so many messages. Returns the seconds that they took, and how many of them were sent with each level.
    fn run(policy: &mut LinkPolicy, link: Link, messages: usize) -> (f64, [usize; 3]) {
        let (mut took, mut counts) = (0.0, [0; 3]);
        for _ in 0..messages {
            let (rate, ratio) = codec_of(policy.codec());
            let plain = MESSAGE as f64;
            // Reading takes as long as a copy; the buffers are sent from meanwhile.
            let busy = plain / (2000.0 * MB) + plain / rate;
            let sending = (plain / ratio / link.bytes).max(plain / link.reader);
            let wait = (sending - busy).max(0.0);
            took += busy + wait;
            counts[LEVELS.iter().position(|level| *level == policy.codec()).unwrap_or(0)] += 1;
            let wire = (plain / ratio) as u64;
            let sent = SentMessages { plain: MESSAGE, wire, busy: seconds(busy), wait: seconds(wait) };
            policy.sent(sent, &rates(plain / (busy + wait)));
        }
        (took, counts)
    }

    fn link(bytes: f64) -> Link {
        Link { bytes, reader: f64::INFINITY }
    }

    #[test]
    fn fast_link_is_never_compressed_for() {
        for rate in [500.0, 1000.0, 5000.0] {
            let mut policy = LinkPolicy::new(ALL, None);
            let (_, counts) = run(&mut policy, link(rate * MB), 10_000);
            assert_eq!(counts, [10_000, 0, 0], "{rate}");
            assert!(policy.is_measured());
        }
    }

    #[test]
    fn streams_that_share_a_fast_link_are_not_compressed_for() {
        let mut policy = LinkPolicy::new(ALL, None);
        let sent = SentMessages { plain: MESSAGE, wire: MESSAGE, busy: seconds(0.001), wait: seconds(0.01) };
        for client in [2000.0, 480.0] {
            for _ in 0..1000 {
                policy.sent(sent, &rates(client * MB));
                assert_eq!(policy.codec(), None);
            }
        }
        // With more threads they are.
        (0..4).for_each(|_| policy.sent(sent, &LinkRates { threads: 2, ..rates(480.0 * MB) }));
        assert_eq!(policy.codec(), Some(BodyCodec::Lz4));
    }

    #[test]
    fn slow_link_gets_the_codec_that_brings_the_most_rows() {
        for (rate, codec, times) in
            [(12.5, BodyCodec::Zstd, 2.9), (70.0, BodyCodec::Zstd, 2.8), (125.0, BodyCodec::Lz4, 1.9)]
        {
            let mut policy = LinkPolicy::new(ALL, None);
            let messages = 2000;
            let (took, counts) = run(&mut policy, link(rate * MB), messages);
            assert_eq!(policy.codec(), Some(codec), "{rate}: {counts:?}");
            let plain = messages as f64 * MESSAGE as f64 / (rate * MB);
            assert!(took < plain / times, "{rate}: {took} of {plain} seconds, {counts:?}");
        }
    }

    #[test]
    fn very_slow_link_is_compressed_for_after_a_second() {
        let mut policy = LinkPolicy::new(ALL, None);
        // A message takes a second.
        run(&mut policy, link(MB), 2);
        assert_eq!(policy.codec(), Some(BodyCodec::Lz4));
    }

    #[test]
    fn reader_that_is_slower_than_its_link_is_not_compressed_for() {
        let mut policy = LinkPolicy::new(ALL, None);
        let slow = Link { bytes: 2000.0 * MB, reader: 100.0 * MB };
        let (_, counts) = run(&mut policy, slow, 10_000);
        assert!(counts[1] + counts[2] < 200, "{counts:?}");
        assert_eq!(policy.codec(), None);
    }

    #[test]
    fn link_that_changes_is_followed() {
        let mut policy = LinkPolicy::new(ALL, None);
        run(&mut policy, link(12.5 * MB), 500);
        assert_eq!(policy.codec(), Some(BodyCodec::Zstd));
        run(&mut policy, link(5000.0 * MB), 1000);
        assert_eq!(policy.codec(), None);
        run(&mut policy, link(12.5 * MB), 500);
        assert_eq!(policy.codec(), Some(BodyCodec::Zstd));
    }

    #[test]
    fn only_accepted_codecs_are_used() {
        for (accepted, expected) in [
            (AcceptedCodecs { lz4: true, zstd: false }, Some(BodyCodec::Lz4)),
            (AcceptedCodecs { lz4: false, zstd: true }, Some(BodyCodec::Zstd)),
            (AcceptedCodecs::default(), None),
        ] {
            let mut policy = LinkPolicy::new(accepted, None);
            run(&mut policy, link(12.5 * MB), 500);
            assert_eq!(policy.codec(), expected);
        }
    }

    #[test]
    fn stream_begins_with_what_is_known_of_its_client() {
        let known = LinkPolicy::new(ALL, Some(BodyCodec::Zstd));
        assert_eq!((known.codec(), known.is_measured()), (Some(BodyCodec::Zstd), false));
        assert_eq!(LinkPolicy::new(AcceptedCodecs::default(), Some(BodyCodec::Zstd)).codec(), None);
    }
}
