use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};

use super::effort::{FREE_CALL_BYTES, MAX_CALL_RATIO};
use super::*;
use crate::Code;

const MAX: usize = 1 << 20;

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    [&[flag][..], &(message.len() as u32).to_be_bytes(), message].concat()
}

fn gzip(message: &[u8]) -> Vec<u8> {
    gzip_at(Compression::fast(), message)
}

fn gzip_at(level: Compression, message: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    encoder.write_all(message).unwrap();
    framed(1, &encoder.finish().unwrap())
}

/// What the reader gets of a body that arrives in pieces of `step` bytes.
async fn read(encoding: Option<&'static str>, body: &[u8], step: usize) -> Result<Vec<u8>> {
    let pieces: Vec<Result<_, Status>> =
        body.chunks(step).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
    let mut request = Request::new(StreamBody::new(stream::iter(pieces)));
    if let Some(encoding) = encoding {
        request.headers_mut().insert(ENCODING, encoding.parse().unwrap());
    }
    let request = decompressed(request, MAX)?;
    assert!(request.headers().is_empty(), "what follows does not know of the compression");
    Ok(request.into_body().collect().await?.to_bytes().to_vec())
}

#[tokio::test]
async fn messages_are_decompressed_whatever_their_pieces() {
    let large: Vec<u8> = (0..MAX as u32 / 4).flat_map(u32::to_le_bytes).collect();
    let sent = [gzip(b"first"), framed(0, b"plain"), gzip(b""), gzip(&large), framed(0, b"")].concat();
    let expected =
        [framed(0, b"first"), framed(0, b"plain"), framed(0, b""), framed(0, &large), framed(0, b"")].concat();
    for step in [1, 7, 4096, sent.len()] {
        assert_eq!(read(Some("gzip"), &sent, step).await.unwrap(), expected, "{step}");
    }
    assert_eq!(read(None, &sent, 99).await.unwrap(), sent, "without the header nothing is decompressed");
    assert_eq!(read(Some("identity"), &sent, 99).await.unwrap(), sent);
    // Other tests count theirs too.
    while ALL_COMPRESSED.load(Ordering::Relaxed) > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn message_over_the_limit_ends_the_stream() {
    let bomb = gzip(&vec![0; 64 << 20]);
    assert!(bomb.len() < MAX);
    let error = read(Some("gzip"), &bomb, 4096).await.unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    let mut long = framed(1, b"");
    long[1..].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(read(Some("gzip"), &long, 9).await.unwrap_err().code, Code::ResourceExhausted);
}

#[test]
fn many_small_bombs_are_refused_by_their_ratio() {
    let bomb = gzip_at(Compression::best(), &vec![0; MAX]);
    assert!(bomb.len() * MAX_CALL_RATIO < MAX, "{} bytes", bomb.len());
    // The prefix does not count.
    let count = FREE_CALL_BYTES / (MAX - (bomb.len() - PREFIX) * MAX_CALL_RATIO);
    let mut gunzip = Gunzip::new(MAX);
    let mut drain = |sent: &[u8]| -> Result<()> {
        gunzip.receive(Bytes::copy_from_slice(sent));
        while !matches!(gunzip.next()?, GunzipStep::NeedsInput) {}
        Ok(())
    };
    for at in 0..count {
        drain(&bomb).unwrap_or_else(|error| panic!("bomb {at} of {count}: {error}"));
    }
    let error = drain(&bomb).unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted);
    assert!(error.message.contains("250 times"), "{error}");
}

#[tokio::test]
async fn broken_compression_is_invalid() {
    let good = gzip(&[7; 100_000]);
    let mut corrupt = good.clone();
    *corrupt.last_mut().unwrap() ^= 1;
    for bad in [framed(1, b"no gzip"), framed(1, b""), corrupt, good[..good.len() - 1].to_vec(), good[..3].to_vec()] {
        let error = read(Some("gzip"), &bad, 4096).await.unwrap_err();
        assert_eq!(error.code, Code::InvalidArgument, "{error}");
    }
    assert_eq!(read(Some("deflate"), &good, 9).await.unwrap_err().code, Code::Unimplemented);
}

#[tokio::test]
async fn message_that_stalls_while_it_arrives_is_an_error() {
    let message = gzip(&(0..100_000u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
    for (sent, stalls) in [(0, false), (3, true), (5, true), (message.len() / 2, true), (message.len(), false)] {
        // A message that should stall is waited for; one that should not cannot be waited for for ever.
        let patience = if stalls { Duration::from_secs(30) } else { Duration::from_millis(300) };
        let frames =
            stream::iter((sent > 0).then(|| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(&message[..sent])))));
        let mut request = Request::new(StreamBody::new(frames.chain(stream::pending())));
        request.headers_mut().insert(ENCODING, "gzip".parse().unwrap());
        let body = decompressed(request, MAX).unwrap().into_body().with_stall_timeout(Duration::from_millis(50));
        let read = tokio::time::timeout(patience, body.collect()).await;
        assert_eq!(read.is_ok(), stalls, "{sent} bytes: between messages the client may pause");
        if let Ok(read) = read {
            assert_eq!(read.unwrap_err().code(), Code::DeadlineExceeded, "{sent} bytes");
        }
    }
}

#[test]
fn decompressed_message_is_kept_in_proportion_to_what_was_sent() {
    let incompressible = (0..MAX as u32 / 4).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes());
    for (message, ratio_is_small) in [(vec![0u8; MAX], false), (incompressible.collect(), true)] {
        let sent = gzip(&message);
        assert_eq!(sent.len() > MAX / MAX_KEPT_RATIO, ratio_is_small, "{}", sent.len());
        let mut gunzip = Gunzip::new(MAX);
        gunzip.receive(sent.into());
        let data = loop {
            match gunzip.next().unwrap() {
                GunzipStep::Data(data) => break data,
                GunzipStep::Working => {}
                GunzipStep::NeedsInput => panic!("all was received"),
            }
        };
        assert_eq!(data.len() == PREFIX + MAX, ratio_is_small, "the first data: {} bytes", data.len());
    }
}
