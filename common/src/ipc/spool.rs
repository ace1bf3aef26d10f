//! Where a decoder stores what is too large for memory, and how an array moves there.
#![allow(unsafe_code, reason = "a valid array moves without being validated again")]

use arrow::array::{ArrayData, ArrayRef, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use bytes::Bytes;

use crate::{Error, Result};

/// Buffers begin at multiples of this.
const ALIGNMENT: usize = 64;

/// Creates [`SpoolTarget`]s, usually files.
pub trait SpoolStorage: Send + Sync {
    /// A target for about this many bytes.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there is no space. UNAVAILABLE: the disk failed.
    fn create(&self, bytes: u64) -> Result<Box<dyn SpoolTarget>>;

    /// Reserves memory for this many bytes, which the reader of the stream keeps; `None`: they are stored in a target.
    fn reserve(&self, bytes: usize) -> Option<SpoolReservation>;
}

/// Memory that is reserved until this is dropped.
pub type SpoolReservation = Box<dyn Send + Sync>;

/// Growing bytes that are mapped once they are complete.
pub trait SpoolTarget {
    /// Appends.
    ///
    /// # Errors
    /// As [`SpoolStorage::create`].
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// All bytes, at an address that is a multiple of 64.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: they cannot be mapped.
    fn map(self: Box<Self>) -> Result<Bytes>;
}

/// The same array, with all its buffers in the target.
pub(super) fn relocate(array: &ArrayRef, mut target: Box<dyn SpoolTarget>) -> Result<ArrayRef> {
    let data = array.to_data();
    let mut starts = Vec::new();
    append(&data, target.as_mut(), &mut starts, &mut 0)?;
    let map = Buffer::from(target.map()?);
    let moved = rebuild(&data, &map, &mut starts.into_iter());
    moved.map(make_array).map_err(|e| Error::internal(format!("a dictionary cannot be moved: {e}")))
}

/// Appends all buffers of an array, its nulls first; pushes where each begins.
fn append(data: &ArrayData, target: &mut dyn SpoolTarget, starts: &mut Vec<usize>, end: &mut usize) -> Result<()> {
    for buffer in data.nulls().map(NullBuffer::buffer).into_iter().chain(data.buffers()) {
        starts.push(*end);
        target.append(buffer)?;
        let padding = buffer.len().next_multiple_of(ALIGNMENT) - buffer.len();
        target.append(&[0; ALIGNMENT][..padding])?;
        *end += buffer.len() + padding;
    }
    data.child_data().iter().try_for_each(|child| append(child, target, starts, end))
}

fn rebuild(
    data: &ArrayData,
    map: &Buffer,
    starts: &mut impl Iterator<Item = usize>,
) -> Result<ArrayData, arrow::error::ArrowError> {
    let mut moved = |buffer: &Buffer| match buffer.is_empty() {
        true => {
            starts.next();
            Buffer::default()
        }
        false => map.slice_with_length(starts.next().unwrap_or(0), buffer.len()),
    };
    let nulls = data.nulls().map(|nulls| {
        let bits = BooleanBuffer::new(moved(nulls.buffer()), nulls.offset(), nulls.len());
        NullBuffer::new(bits)
    });
    let buffers = data.buffers().iter().map(&mut moved).collect();
    let children = data.child_data().iter().map(|child| rebuild(child, map, starts)).collect::<Result<Vec<_>, _>>()?;
    let builder = data.clone().into_builder().nulls(nulls).buffers(buffers).child_data(children);
    // SAFETY: `data` is a valid array, and only its buffers are replaced: by the same bytes, because `append` wrote them in
    // this order, and nobody else can write to a target. Types, lengths and offsets stay; each buffer begins at a multiple of
    // 64 bytes, and `make_array` checks that this suffices.
    Ok(unsafe { builder.build_unchecked() })
}

/// A target in memory, for small arrays.
pub(super) struct MemoryTarget {
    bytes: Vec<u8>,
    reservation: SpoolReservation,
}

impl MemoryTarget {
    /// A target whose memory is reserved as long as it is used.
    pub fn new(reservation: SpoolReservation) -> Self {
        MemoryTarget { bytes: Vec::new(), reservation }
    }
}

impl SpoolTarget for MemoryTarget {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn map(self: Box<Self>) -> Result<Bytes> {
        let bytes = Buffer::from_slice_ref(&self.bytes);
        Ok(Bytes::from_owner(AlignedBytes { bytes, _reservation: self.reservation }))
    }
}

/// Bytes in arrow's own memory, for its alignment.
struct AlignedBytes {
    bytes: Buffer,
    _reservation: SpoolReservation,
}

impl AsRef<[u8]> for AlignedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow::array::Array;

    use super::*;
    use crate::ipc::test_data;

    #[test]
    fn relocated_array_of_any_type_is_equal() {
        let batch = test_data::batch(&mut test_data::rng(7), 100);
        for batch in [batch.clone(), batch.slice(13, 50), batch.slice(0, 0)] {
            for column in batch.columns() {
                let moved = relocate(column, Box::new(MemoryTarget::new(Box::new(())))).unwrap();
                assert_eq!(&moved, column);
                moved.to_data().validate_full().unwrap();
            }
        }
    }
}
