//! How [`super::flight_decoder`] stores the body of a message while its bytes arrive.

use bytes::Bytes;

use crate::Result;

/// Starts the bodies of one stream.
pub trait BodyAllocator {
    /// A body that is being received.
    type Builder: BodyBuilder;

    /// Starts a body of `length` bytes.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there is no memory for it.
    fn begin(&mut self, length: usize) -> Result<Self::Builder>;
}

/// A body that is being received.
pub trait BodyBuilder {
    /// The complete body; the default is a body of no bytes.
    type Body: Default;

    /// Takes from the front of `from` as many bytes as the body still needs.
    fn fill(&mut self, from: &mut Bytes);

    /// Whether the body is complete.
    fn is_full(&self) -> bool;

    /// The complete body.
    fn finish(self) -> Self::Body;
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

    fn begin(&mut self, length: usize) -> Result<SliceBody> {
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
}
