//! How [`super::flight_decoder`] stores the body of a message while its bytes arrive.

use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use crate::Result;

/// Starts the bodies of one stream.
pub trait BodyAllocator {
    /// A body that is being received.
    type Builder: BodyBuilder;

    /// Starts a body, or a large header, of `length` bytes. Its message has `rest` bytes after it, which may be further
    /// bodies.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there is no memory for it.
    fn begin(&mut self, length: usize, rest: usize) -> Result<Self::Builder>;

    /// The message of the bodies that were begun is complete.
    fn end_message(&mut self) {}
}

/// A body that is being received.
pub trait BodyBuilder {
    /// The complete body; the default is a body of no bytes.
    type Body: Default;

    /// Whether the body can take bytes now, and whether [`BodyBuilder::is_full`] is up to date. If not, the reader of the
    /// stream waits for [`BodyBuilder::poll_ready`].
    fn is_ready(&self) -> bool {
        true
    }

    /// Waits until [`BodyBuilder::is_ready`]: for memory, or for a disk.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there is no memory or no space for the body. UNAVAILABLE: the disk failed.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Takes from the front of `from` as many bytes as the body still needs and can take.
    fn fill(&mut self, from: &mut Bytes);

    /// Whether the body is complete.
    fn is_full(&self) -> bool;

    /// The complete body.
    fn finish(self) -> Self::Body;

    /// A complete body in one piece.
    fn into_bytes(body: Self::Body) -> Bytes;
}

/// Keeps bodies as the slices in which they are received, without a copy.
#[derive(Debug, Default)]
pub struct ReceivedSlices;

/// The slices of a body that is being received.
#[derive(Debug)]
pub struct SliceBody {
    slices: Vec<Bytes>,
    remaining: usize,
}

impl BodyAllocator for ReceivedSlices {
    type Builder = SliceBody;

    fn begin(&mut self, length: usize, _: usize) -> Result<SliceBody> {
        Ok(SliceBody { slices: Vec::new(), remaining: length })
    }
}

impl BodyBuilder for SliceBody {
    /// No slice is empty.
    type Body = Vec<Bytes>;

    fn fill(&mut self, from: &mut Bytes) {
        let slice = from.split_to(from.len().min(self.remaining));
        if !slice.is_empty() {
            self.remaining -= slice.len();
            self.slices.push(slice);
        }
    }

    fn is_full(&self) -> bool {
        self.remaining == 0
    }

    fn finish(self) -> Vec<Bytes> {
        self.slices
    }

    fn into_bytes(mut slices: Vec<Bytes>) -> Bytes {
        if slices.len() == 1 {
            return slices.remove(0);
        }
        let mut bytes = BytesMut::with_capacity(slices.iter().map(Bytes::len).sum());
        slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
        bytes.freeze()
    }
}
