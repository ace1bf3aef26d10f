//! Whether the messages of a stream are compressed, and how: decided by what was measured on the stream. Pure.
//!
//! A codec is tried when the stream waits for its connection, and kept if more rows arrive with it. A reader that is slower than its
//! link makes the stream wait, too; then a codec changes nothing, and is given up. What is given up is tried again later, each time
//! after twice as many bytes. Rates vary, so a codec may seem to pay: one that is kept is compared with less work again, as often.

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
    /// Bytes of rows until the codec is compared with less work.
    check: u64,
    check_backoff: u64,
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
            check: MIN_BACKOFF,
            check_backoff: MIN_BACKOFF,
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
        self.check = self.check.saturating_sub(sent.plain);
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
        let (rate, share) = (window.rate(), window.waiting_share());
        self.is_measured = true;
        if let Some(from) = self.trial_from.take() {
            match self.level > from {
                true => self.end_trial_up(from, rate),
                false => self.end_trial_down(from, rate, share),
            }
            return;
        }
        self.rates[self.level] = rate;
        let is_faster = |level: usize| LEVELS[level].is_some_and(|codec| rates.is_faster(codec, rate));
        let next = match share {
            _ if self.check == 0 && self.level > 0 => self.next_level_down(),
            _ if self.hold > 0 => None,
            share if share >= LINK_BOUND => self.next_level_up().filter(|level| is_faster(*level)),
            share if share < CODEC_BOUND => self.next_level_down(),
            _ => None,
        };
        if let Some(next) = next {
            self.trial_from = Some(self.level);
            self.switch_to(next);
        }
    }

    fn end_trial_up(&mut self, from: usize, rate: f64) {
        if rate < self.rates[from] * GAIN {
            return self.give_up(from);
        }
        self.rates[self.level] = rate;
        // More work may bring still more.
        self.hold = 0;
        (self.check, self.check_backoff) = (MIN_BACKOFF, MIN_BACKOFF);
    }

    fn end_trial_down(&mut self, from: usize, rate: f64, share: f64) {
        if rate < self.rates[from] * LOSS {
            self.check_backoff = doubled(self.check_backoff);
            self.check = self.check_backoff;
            return self.give_up(from);
        }
        self.rates[self.level] = rate;
        self.hold = self.backoff;
        // If the stream still waits, the codec had brought nothing; else the link has become faster.
        self.backoff = if share >= LINK_BOUND { doubled(self.backoff) } else { MIN_BACKOFF };
        (self.check, self.check_backoff) = (MIN_BACKOFF, MIN_BACKOFF);
    }

    fn give_up(&mut self, from: usize) {
        self.switch_to(from);
        self.hold = self.backoff;
        self.backoff = doubled(self.backoff);
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

fn doubled(backoff: u64) -> u64 {
    (backoff * 2).min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests;
