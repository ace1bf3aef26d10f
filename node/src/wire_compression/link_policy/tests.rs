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

/// Sends a message, after which the connection pauses. Returns the seconds that it took, and its level.
fn send(policy: &mut LinkPolicy, link: Link, pause: f64) -> (f64, usize) {
    let (rate, ratio) = codec_of(policy.codec());
    let level = LEVELS.iter().position(|level| *level == policy.codec()).unwrap_or(0);
    let plain = MESSAGE as f64;
    // Reading takes as long as a copy; the buffers are sent from meanwhile.
    let busy = plain / (2000.0 * MB) + plain / rate;
    let sending = (plain / ratio / link.bytes).max(plain / link.reader) + pause;
    let wait = (sending - busy).max(0.0);
    let wire = (plain / ratio) as u64;
    let sent = SentMessages { plain: MESSAGE, wire, busy: seconds(busy), wait: seconds(wait) };
    policy.sent(sent, &rates(plain / (busy + wait)));
    (busy + wait, level)
}

/// Sends so many messages. Returns the seconds that they took, and how many of them were sent with each level.
fn run(policy: &mut LinkPolicy, link: Link, messages: usize) -> (f64, [usize; 3]) {
    let (mut took, mut counts) = (0.0, [0; 3]);
    for _ in 0..messages {
        let (seconds, level) = send(policy, link, 0.0);
        took += seconds;
        counts[level] += 1;
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
fn slow_reader_that_pauses_is_not_compressed_for_in_the_end() {
    for seed in 0..6u64 {
        let (mut policy, mut random, mut compressed) = (LinkPolicy::new(ALL, None), seed, 0);
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let pause = if (random >> 33).is_multiple_of(50) { 0.05 } else { 0.0 };
            let slow = Link { bytes: 2000.0 * MB, reader: 100.0 * MB };
            compressed += usize::from(send(&mut policy, slow, pause).1 > 0);
        }
        assert!(compressed < 1000, "{seed}: {compressed}");
    }
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
