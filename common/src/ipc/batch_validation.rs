//! Validates record batch messages before arrow decodes them: its decoder panics on many malformed ones.

use arrow::datatypes::Field;
use arrow_ipc::{self as ipc, CompressionType, MetadataVersion};

use super::layout::{LayoutElement, visit_layout};
use super::lz4;
use crate::{Error, Result};

/// Rows that a message may have however few bytes it has (nulls, runs, no columns).
const MIN_ROW_LIMIT: u64 = 1 << 24;

/// Validates one record batch (a dictionary's values are one too) against its fields and body.
///
/// Returns the decompressed bytes of its buffers, at most `max_bytes`.
pub(super) fn validate_batch(
    batch: &ipc::RecordBatch<'_>,
    version: MetadataVersion,
    fields: &[&Field],
    body: &[u8],
    max_bytes: usize,
) -> Result<usize> {
    let place = |at| buffer_place("the record batch", batch, version, fields.iter().copied(), at);
    let mut validator = BatchValidator::new(batch, body, max_bytes, place)?;
    let v4 = version < MetadataVersion::V5;
    for field in fields {
        validator.column(field, v4).map_err(|e| e.at(format_args!("the record batch's column {:?}", field.name())))?;
    }
    validator.finish()
}

/// Where the buffer at this position of `what` is, for an error: the column that has it, if its schema says so. The batch need
/// not be valid.
pub(super) fn buffer_place<'a>(
    what: &str,
    batch: &ipc::RecordBatch<'_>,
    version: MetadataVersion,
    fields: impl Iterator<Item = &'a Field>,
    at: usize,
) -> String {
    let mut variadic = batch.variadicBufferCounts().into_iter().flatten();
    let mut end = 0usize;
    for field in fields {
        // No element fails.
        let _ = visit_layout(field.data_type(), version < MetadataVersion::V5, &mut |element| {
            let buffers = match element {
                LayoutElement::Node => 0,
                LayoutElement::Variadic => variadic.next().and_then(|count| usize::try_from(count).ok()).unwrap_or(0),
                LayoutElement::Validity
                | LayoutElement::TypeIds
                | LayoutElement::UnionOffsets
                | LayoutElement::Data => 1,
            };
            end = end.saturating_add(buffers);
            Ok(())
        });
        if at < end {
            return format!("{what}'s column {:?}, buffer {at}", field.name());
        }
    }
    format!("{what}'s buffer {at}")
}

/// Walks over a message's nodes and buffers in the order of its schema.
struct BatchValidator<'a> {
    nodes: flatbuffers::Vector<'a, ipc::FieldNode>,
    buffers: flatbuffers::Vector<'a, ipc::Buffer>,
    variadic: Vec<i64>,
    /// Index of the next node, buffer and variadic count.
    next: (usize, usize, usize),
    /// Decompressed bytes of every buffer.
    sizes: Vec<u64>,
    rows: u64,
    max_rows: u64,
}

impl<'a> BatchValidator<'a> {
    /// `place` says where a buffer is.
    fn new(
        batch: &ipc::RecordBatch<'a>,
        body: &[u8],
        max_bytes: usize,
        place: impl Fn(usize) -> String,
    ) -> Result<Self> {
        let missing = |what| Error::invalid(format!("the record batch has no list of {what}"));
        let buffers = batch.buffers().ok_or_else(|| missing("buffers"))?;
        let sizes = decompressed_sizes(batch, buffers, body, max_bytes, place)?;
        let max_rows = MIN_ROW_LIMIT + 8 * sizes.iter().sum::<u64>();
        let rows = count(batch.length(), max_rows, "rows")?;
        Ok(BatchValidator {
            nodes: batch.nodes().ok_or_else(|| missing("field nodes"))?,
            buffers,
            variadic: batch.variadicBufferCounts().into_iter().flatten().collect(),
            next: (0, 0, 0),
            sizes,
            rows,
            max_rows,
        })
    }

    fn column(&mut self, field: &Field, v4: bool) -> Result<()> {
        let top = (self.next.0 < self.nodes.len()).then(|| self.nodes.get(self.next.0).length());
        if let Some(rows) = top.filter(|&rows| u64::try_from(rows).ok() != Some(self.rows)) {
            return Err(Error::invalid(format!("it has {rows} rows, the batch {}", self.rows)));
        }
        let (mut rows, mut nulls) = (0, 0);
        visit_layout(field.data_type(), v4, &mut |element| {
            match element {
                LayoutElement::Node => (rows, nulls) = self.node()?,
                LayoutElement::Variadic => self.variadic()?,
                LayoutElement::Validity if nulls > 0 => self.buffer(rows.div_ceil(8))?,
                LayoutElement::TypeIds => self.buffer(rows)?,
                LayoutElement::UnionOffsets => self.buffer(rows * 4)?,
                LayoutElement::Validity | LayoutElement::Data => self.buffer(0)?,
            }
            Ok(())
        })
    }

    /// Takes the next node: its rows and nulls.
    fn node(&mut self) -> Result<(u64, u64)> {
        if self.next.0 >= self.nodes.len() {
            return Err(Error::invalid("the schema requires more field nodes than there are"));
        }
        let node = self.nodes.get(self.next.0);
        self.next.0 += 1;
        let rows = count(node.length(), self.max_rows, "entries")?;
        Ok((rows, count(node.null_count(), rows, "nulls")?))
    }

    /// Takes the next buffer, which must have at least `min_size` bytes.
    fn buffer(&mut self, min_size: u64) -> Result<()> {
        let Some(&size) = self.sizes.get(self.next.1) else {
            return Err(Error::invalid("the schema requires more buffers than there are"));
        };
        self.next.1 += 1;
        if size < min_size {
            return Err(Error::invalid(format!("buffer {} has {size} bytes, needs {min_size}", self.next.1 - 1)));
        }
        Ok(())
    }

    /// Takes the next variadic count and its buffers.
    fn variadic(&mut self) -> Result<()> {
        let Some(&buffers) = self.variadic.get(self.next.2) else {
            return Err(Error::invalid("it has no count of variadic buffers"));
        };
        self.next.2 += 1;
        let remaining = (self.buffers.len() - self.next.1) as u64;
        self.next.1 += count(buffers, remaining, "variadic buffers")? as usize;
        Ok(())
    }

    /// Checks that everything was taken; returns the decompressed bytes.
    fn finish(self) -> Result<usize> {
        let all = (self.nodes.len(), self.buffers.len(), self.variadic.len());
        if self.next != all {
            return Err(Error::invalid(format!(
                "the record batch has {all:?} field nodes, buffers and variadic counts, its schema requires {:?}",
                self.next
            )));
        }
        Ok(self.sizes.iter().sum::<u64>() as usize)
    }
}

/// A count of the message's, checked against its upper limit.
fn count(value: i64, max: u64, what: &str) -> Result<u64> {
    match u64::try_from(value) {
        Ok(value) if value <= max => Ok(value),
        _ => {
            Err(Error::invalid(format!("the message says it has {value} {what}, which is impossible (at most {max})")))
        }
    }
}

/// Every buffer's decompressed size, after checking that the buffer lies in the body and that all stay within limits.
fn decompressed_sizes(
    batch: &ipc::RecordBatch<'_>,
    buffers: flatbuffers::Vector<'_, ipc::Buffer>,
    body: &[u8],
    max_bytes: usize,
    place: impl Fn(usize) -> String,
) -> Result<Vec<u64>> {
    let codec = codec(batch)?;
    let (mut stored, mut decompressed) = (0u64, 0u64);
    let mut sizes = Vec::with_capacity(buffers.len());
    for (at, buffer) in buffers.iter().enumerate() {
        let bytes = slice(body, buffer).ok_or_else(|| {
            let (offset, length) = (buffer.offset(), buffer.length());
            Error::invalid(format!(
                "buffer {at} ({length} bytes at {offset}) is outside the body of {} bytes",
                body.len()
            ))
        })?;
        let size = match codec {
            Some(codec) => decompressed_size(bytes, codec, max_bytes).map_err(|e| e.at(place(at)))?,
            None => bytes.len() as u64,
        };
        stored += bytes.len() as u64;
        decompressed = decompressed.saturating_add(size);
        sizes.push(size);
    }
    // Overlapping buffers would be stored once for every column that refers to them.
    if stored > body.len() as u64 {
        return Err(Error::invalid(format!(
            "the buffers overlap: they have {stored} bytes in a body of {}",
            body.len()
        )));
    }
    if decompressed > max_bytes as u64 {
        return Err(Error::exhausted(format!(
            "the message decompresses to {decompressed} bytes, the limit is {max_bytes}"
        )));
    }
    Ok(sizes)
}

fn slice<'a>(body: &'a [u8], buffer: &ipc::Buffer) -> Option<&'a [u8]> {
    let offset = usize::try_from(buffer.offset()).ok()?;
    let length = usize::try_from(buffer.length()).ok()?;
    body.get(offset..offset.checked_add(length)?)
}

fn codec(batch: &ipc::RecordBatch<'_>) -> Result<Option<CompressionType>> {
    let Some(compression) = batch.compression() else { return Ok(None) };
    if compression.method() != ipc::BodyCompressionMethod::BUFFER {
        return Err(Error::invalid("the message's compression method is unknown"));
    }
    match compression.codec() {
        codec @ (CompressionType::LZ4_FRAME | CompressionType::ZSTD) => Ok(Some(codec)),
        other => Err(Error::invalid(format!("the message's compression {other:?} is unknown: use LZ4 or ZSTD"))),
    }
}

/// The decompressed size of a compressed buffer, which begins with it; -1: the rest is not compressed.
fn decompressed_size(bytes: &[u8], codec: CompressionType, max_bytes: usize) -> Result<u64> {
    if bytes.is_empty() {
        return Ok(0);
    }
    let Some((length, data)) = bytes.split_first_chunk::<8>() else {
        return Err(Error::invalid("a compressed buffer is shorter than its length field"));
    };
    match i64::from_le_bytes(*length) {
        -1 => Ok(data.len() as u64),
        size if size < 0 => Err(Error::invalid(format!("its uncompressed length is {size}"))),
        size if size as u64 > max_bytes as u64 => {
            Err(Error::exhausted(format!("it decompresses to {size} bytes, the limit is {max_bytes}")))
        }
        size => {
            let matches =
                codec != CompressionType::LZ4_FRAME || size == 0 || lz4::decompressed_len(data) == Some(size as u64);
            matches
                .then_some(size as u64)
                .ok_or_else(|| Error::invalid(format!("it is not an LZ4 frame of {size} bytes")))
        }
    }
}
