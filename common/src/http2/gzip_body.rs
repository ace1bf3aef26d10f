//! Request bodies whose gRPC messages may be compressed by gzip.
//!
//! [`decompressed`] turns them into the bytes of uncompressed messages, so that nothing after it knows of the
//! compression. A message's length precedes it, and is known only after decompression. So a compressed message is kept as
//! it arrived and decompressed to count its bytes. What it decompresses to is kept if memory remains in proportion to what
//! the client sent; otherwise it is decompressed once more, piece by piece as the reader takes it. Messages that are not
//! compressed pass without a copy.
//!
//! A compressed message must advance while it arrives, see [`StallTimer`]: its reader cannot see that it has begun.

mod effort;

use std::io::Read;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flate2::bufread::GzDecoder;
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

use self::effort::GunzipEffort;
use crate::grpc::PREFIX;
use crate::ipc::stall_timer::StallTimer;
use crate::{Error, Result};

/// The header that names the compression of a call's messages.
const ENCODING: &str = "grpc-encoding";
/// The longest compressed message, bytes.
const MAX_COMPRESSED: usize = 64 << 20;
/// All compressed messages of the process together, bytes.
const MAX_ALL_COMPRESSED: usize = 256 << 20;
/// Decompressed bytes that are handled together. A message of at most so many is always decompressed only once.
const PIECE: usize = 64 << 10;
/// Larger messages are decompressed only once if they are at most this many times as large as they arrived ...
const MAX_KEPT_RATIO: usize = 4;
/// ... and have at most this many bytes.
const MAX_KEPT: usize = 4 << 20;
/// A compressed message must advance within this time, unless its reader sets another.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that one poll decompresses before other tasks run.
const POLL_BYTES: usize = 256 << 10;

/// Bytes of compressed messages, and of what they decompressed to, that the process keeps now.
static ALL_COMPRESSED: AtomicUsize = AtomicUsize::new(0);

/// The request with a body of uncompressed messages, each of at most `max_message` bytes.
///
/// # Errors
/// UNIMPLEMENTED: compressed by anything but gzip. Errors of the body: RESOURCE_EXHAUSTED for a message over the limit,
/// INVALID_ARGUMENT for one that is not gzip, DEADLINE_EXCEEDED for one that does not arrive.
pub fn decompressed<B>(mut request: Request<B>, max_message: usize) -> Result<Request<DecompressedBody<B>>> {
    let is_gzip = take_encoding(request.headers_mut())?;
    let gunzip = || Box::new(Gunzip::new(max_message));
    Ok(request.map(|body| DecompressedBody { body, gunzip: is_gzip.then(gunzip) }))
}

/// Whether the messages may be compressed by gzip; removes the header that says so.
fn take_encoding(headers: &mut HeaderMap) -> Result<bool> {
    match headers.remove(ENCODING).as_ref().map(|encoding| encoding.as_bytes()) {
        None | Some(b"identity") => Ok(false),
        Some(b"gzip") => Ok(true),
        Some(other) => Err(Error::unimplemented(format!(
            "messages compressed by {:?} are not supported: use gzip, or switch off the compression of the channel",
            String::from_utf8_lossy(other)
        ))),
    }
}

/// A body of uncompressed messages.
#[derive(Debug)]
pub struct DecompressedBody<B> {
    body: B,
    /// `None`: no message is compressed.
    gunzip: Option<Box<Gunzip>>,
}

impl<B> DecompressedBody<B> {
    /// A compressed message must advance within this time.
    pub fn with_stall_timeout(mut self, timeout: Duration) -> Self {
        if let Some(gunzip) = &mut self.gunzip {
            gunzip.stall = StallTimer::new(timeout);
        }
        self
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for DecompressedBody<B>
where
    Status: From<B::Error>,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let Some(gunzip) = &mut this.gunzip else {
            return Pin::new(&mut this.body).poll_frame(cx).map_err(Into::into);
        };
        loop {
            match gunzip.next() {
                Ok(GunzipStep::Data(data)) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Ok(GunzipStep::Working) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Ok(GunzipStep::NeedsInput) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
            let frame = match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(frame) => frame,
                Poll::Pending if gunzip.is_receiving() => {
                    return Poll::Ready(Some(Err(ready!(gunzip.stall.poll_stalled(cx)).into())));
                }
                Poll::Pending => return Poll::Pending,
            };
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => gunzip.receive(data),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(gunzip.end().err().map(|error| Err(error.into()))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.gunzip.as_ref().is_none_or(|gunzip| gunzip.is_idle()) && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.gunzip.is_some() { SizeHint::default() } else { self.body.size_hint() }
    }
}

/// Decompresses the messages of one body.
#[derive(Debug)]
struct Gunzip {
    max_message: usize,
    /// Received, and not looked at yet.
    received: Bytes,
    state: GunzipState,
    stall: StallTimer,
    effort: GunzipEffort,
}

#[derive(Debug)]
enum GunzipState {
    /// Between messages, or within a prefix.
    Prefix(BytesMut),
    /// Within an uncompressed message: the bytes that are still to come.
    Plain(usize),
    /// Receiving a compressed message.
    Compressed { message: CompressedMessage, missing: usize },
    /// Counting its decompressed bytes. `start` has the first ones.
    Counting { decoder: GzDecoder<CompressedMessage>, start: BytesMut, count: usize },
    /// Sending its decompressed bytes.
    Sending { decoder: GzDecoder<CompressedMessage>, left: usize },
}

/// What a decompression has next.
enum GunzipStep {
    Data(Bytes),
    /// There is more to do without further input.
    Working,
    NeedsInput,
}

impl Gunzip {
    fn new(max_message: usize) -> Self {
        let stall = StallTimer::new(STALL_TIMEOUT);
        let (state, effort) = (GunzipState::between_messages(), GunzipEffort::default());
        Gunzip { max_message, received: Bytes::new(), state, stall, effort }
    }

    fn receive(&mut self, data: Bytes) {
        self.stall.advance(data.len());
        self.received = data;
    }

    /// Whether a compressed message has begun and is not complete. The reader sees that of one that is not compressed.
    fn is_receiving(&self) -> bool {
        match &self.state {
            GunzipState::Prefix(prefix) => !prefix.is_empty(),
            GunzipState::Compressed { .. } => true,
            _ => false,
        }
    }

    fn is_idle(&self) -> bool {
        self.received.is_empty() && matches!(&self.state, GunzipState::Prefix(prefix) if prefix.is_empty())
    }

    /// Whether the body may end here. Within an uncompressed message it may: the reader sees that it is incomplete.
    fn end(&self) -> Result<()> {
        match &self.state {
            GunzipState::Prefix(prefix) if prefix.is_empty() => Ok(()),
            GunzipState::Plain(_) => Ok(()),
            _ => Err(Error::invalid("the stream ends within a message")),
        }
    }

    /// The next step.
    fn next(&mut self) -> Result<GunzipStep> {
        loop {
            match &mut self.state {
                GunzipState::Prefix(prefix) => {
                    let taken = self.received.split_to(self.received.len().min(PREFIX - prefix.len()));
                    prefix.extend_from_slice(&taken);
                    let Some(&[flag, a, b, c, d]) = prefix.first_chunk::<PREFIX>() else {
                        return Ok(GunzipStep::NeedsInput);
                    };
                    let length = u32::from_be_bytes([a, b, c, d]) as usize;
                    if flag == 0 {
                        self.stall.stop();
                        let prefix = std::mem::take(prefix).freeze();
                        self.state = GunzipState::Plain(length);
                        return Ok(GunzipStep::Data(prefix));
                    }
                    self.state =
                        GunzipState::Compressed { message: CompressedMessage::declared(length)?, missing: length };
                }
                GunzipState::Plain(0) => self.state = GunzipState::between_messages(),
                GunzipState::Plain(_) | GunzipState::Compressed { missing: 1.., .. } if self.received.is_empty() => {
                    return Ok(GunzipStep::NeedsInput);
                }
                GunzipState::Plain(left) => {
                    let data = self.received.split_to(self.received.len().min(*left));
                    *left -= data.len();
                    return Ok(GunzipStep::Data(data));
                }
                GunzipState::Compressed { message, missing } if *missing > 0 => {
                    let data = self.received.split_to(self.received.len().min(*missing));
                    message.push(&data)?;
                    *missing -= data.len();
                }
                GunzipState::Compressed { message, .. } => {
                    self.stall.stop();
                    self.effort.add_sent(message.bytes.len());
                    let decoder = GzDecoder::new(std::mem::take(message));
                    self.state = GunzipState::Counting { decoder, start: BytesMut::new(), count: 0 };
                }
                GunzipState::Counting { decoder, start, count } => {
                    let before = *count;
                    let is_complete = count_pieces(decoder, start, count, self.max_message)?;
                    self.effort.add_decompressed(*count - before)?;
                    if !is_complete {
                        return Ok(GunzipStep::Working);
                    }
                    let prefix = prefix_of(*count);
                    if *count == start.len() {
                        let message = [&prefix[..], start].concat();
                        self.state = GunzipState::between_messages();
                        return Ok(GunzipStep::Data(message.into()));
                    }
                    // Once more from the start; a position is all that the decompression changed in the message.
                    let mut message = std::mem::take(decoder.get_mut());
                    message.position = 0;
                    self.state = GunzipState::Sending { decoder: GzDecoder::new(message), left: *count };
                    return Ok(GunzipStep::Data(Bytes::copy_from_slice(&prefix)));
                }
                GunzipState::Sending { left: 0, .. } => self.state = GunzipState::between_messages(),
                GunzipState::Sending { decoder, left } => {
                    let mut piece = BytesMut::zeroed(PIECE.min(*left));
                    decoder.read_exact(&mut piece).map_err(not_gzip)?;
                    *left -= piece.len();
                    return Ok(GunzipStep::Data(piece.freeze()));
                }
            }
        }
    }
}

impl GunzipState {
    fn between_messages() -> Self {
        GunzipState::Prefix(BytesMut::new())
    }
}

/// Decompresses up to [`POLL_BYTES`]; returns whether the message is complete. Keeps the message in `start` while
/// it is small, and counts that like what was received.
fn count_pieces(
    decoder: &mut GzDecoder<CompressedMessage>,
    start: &mut BytesMut,
    count: &mut usize,
    max_message: usize,
) -> Result<bool> {
    let mut piece = vec![0; PIECE];
    let max_start = (decoder.get_ref().bytes.len() * MAX_KEPT_RATIO).clamp(PIECE, MAX_KEPT);
    for _ in 0..POLL_BYTES / PIECE {
        let read = decoder.read(&mut piece).map_err(not_gzip)?;
        if read == 0 {
            return Ok(true);
        }
        // Only a whole message is of use.
        let keeps_all = start.len() == *count && *count + read <= max_start;
        *count += read;
        if keeps_all {
            decoder.get_mut().count(read)?;
            start.extend_from_slice(&piece[..read]);
        } else {
            *start = BytesMut::new();
        }
        if *count > max_message {
            return Err(Error::exhausted(format!(
                "a message of more than {max_message} bytes, once decompressed, is over the limit: send smaller messages"
            )));
        }
    }
    Ok(false)
}

fn prefix_of(length: usize) -> [u8; PREFIX] {
    let mut prefix = [0; PREFIX];
    // The limit of messages is below 4 GiB.
    prefix[1..].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    prefix
}

fn not_gzip(error: std::io::Error) -> Error {
    Error::invalid(format!("a message that should be compressed by gzip is not: {error}"))
}

/// A message as it was received, counted in [`ALL_COMPRESSED`] while it exists.
#[derive(Debug, Default)]
struct CompressedMessage {
    bytes: BytesMut,
    position: usize,
    counted: usize,
}

impl CompressedMessage {
    /// Checks the length that a message declares. Only what arrives is counted: a declaration alone takes no memory.
    fn declared(length: usize) -> Result<Self> {
        if length > MAX_COMPRESSED {
            return Err(Error::exhausted(format!(
                "a message of {length} bytes, compressed by gzip, is over the limit of {MAX_COMPRESSED}: send smaller messages, or switch off the compression of the channel"
            )));
        }
        Ok(CompressedMessage::default())
    }

    fn push(&mut self, data: &[u8]) -> Result<()> {
        self.count(data.len())?;
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// Counts bytes in [`ALL_COMPRESSED`].
    fn count(&mut self, bytes: usize) -> Result<()> {
        let others = ALL_COMPRESSED.fetch_add(bytes, Ordering::Relaxed);
        self.counted += bytes;
        if others + bytes > MAX_ALL_COMPRESSED {
            return Err(Error::exhausted(format!(
                "messages compressed by gzip take all of {MAX_ALL_COMPRESSED} bytes now: try again, or switch off the compression of the channel"
            )));
        }
        Ok(())
    }
}

impl Drop for CompressedMessage {
    fn drop(&mut self) {
        ALL_COMPRESSED.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

impl Read for CompressedMessage {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let read = std::io::BufRead::fill_buf(self)?.read(out)?;
        self.position += read;
        Ok(read)
    }
}

impl std::io::BufRead for CompressedMessage {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        Ok(&self.bytes[self.position..])
    }

    fn consume(&mut self, count: usize) {
        self.position += count;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
