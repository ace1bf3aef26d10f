//! The checks that come before arrow's decoder: it asserts what it should doubt.

use arrow::datatypes::Field;
use arrow_ipc::{self as ipc, CompressionType, MetadataVersion};

use super::lz4;
use super::walk::{Item, walk};
use crate::{Error, Result};

/// Rows that a message may have though hardly any bytes stand for them (nulls, runs, no columns).
const FREE_ROWS: u64 = 1 << 24;

/// Checks one record batch (a dictionary's is one) against its fields and body.
///
/// Returns the bytes of its buffers once decompressed, at most `max_bytes`.
pub(super) fn check_batch(
    batch: &ipc::RecordBatch<'_>,
    version: MetadataVersion,
    fields: &[&Field],
    body: &[u8],
    max_bytes: usize,
) -> Result<usize> {
    let mut check = Check::new(batch, body, max_bytes)?;
    let v4 = version < MetadataVersion::V5;
    for field in fields {
        check.column(field, v4).map_err(|e| e.at(format_args!("the record batch's column {:?}", field.name())))?;
    }
    check.finish()
}

struct Check<'a> {
    nodes: flatbuffers::Vector<'a, ipc::FieldNode>,
    buffers: flatbuffers::Vector<'a, ipc::Buffer>,
    variadic: Vec<i64>,
    next: (usize, usize, usize),
    /// Bytes of every buffer once decompressed.
    sizes: Vec<u64>,
    rows: u64,
    max_rows: u64,
}

impl<'a> Check<'a> {
    fn new(batch: &ipc::RecordBatch<'a>, body: &[u8], max_bytes: usize) -> Result<Self> {
        let missing = |what| Error::invalid(format!("the record batch has no list of {what}"));
        let buffers = batch.buffers().ok_or_else(|| missing("buffers"))?;
        let sizes = sizes(batch, buffers, body, max_bytes)?;
        let max_rows = FREE_ROWS + 8 * sizes.iter().sum::<u64>();
        let rows = count(batch.length(), max_rows, "rows")?;
        Ok(Check {
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
        walk(field.data_type(), v4, &mut |item| {
            match item {
                Item::Node => (rows, nulls) = self.node()?,
                Item::Variadic => self.variadic()?,
                Item::Validity if nulls > 0 => self.buffer(rows.div_ceil(8))?,
                Item::TypeIds => self.buffer(rows)?,
                Item::UnionOffsets => self.buffer(rows * 4)?,
                Item::Validity | Item::Data => self.buffer(0)?,
            }
            Ok(())
        })
    }

    /// The next node's rows and nulls.
    fn node(&mut self) -> Result<(u64, u64)> {
        if self.next.0 >= self.nodes.len() {
            return Err(Error::invalid("the schema asks for more field nodes than there are"));
        }
        let node = self.nodes.get(self.next.0);
        self.next.0 += 1;
        let rows = count(node.length(), self.max_rows, "entries")?;
        Ok((rows, count(node.null_count(), rows, "nulls")?))
    }

    /// Takes the next buffer, which must hold `least` bytes.
    fn buffer(&mut self, least: u64) -> Result<()> {
        let Some(&size) = self.sizes.get(self.next.1) else {
            return Err(Error::invalid("the schema asks for more buffers than there are"));
        };
        self.next.1 += 1;
        if size < least {
            return Err(Error::invalid(format!("buffer {} has {size} bytes, needs {least}", self.next.1 - 1)));
        }
        Ok(())
    }

    fn variadic(&mut self) -> Result<()> {
        let Some(&buffers) = self.variadic.get(self.next.2) else {
            return Err(Error::invalid("it has no count of variadic buffers"));
        };
        self.next.2 += 1;
        let left = (self.buffers.len() - self.next.1) as u64;
        self.next.1 += count(buffers, left, "variadic buffers")? as usize;
        Ok(())
    }

    fn finish(self) -> Result<usize> {
        let all = (self.nodes.len(), self.buffers.len(), self.variadic.len());
        if self.next != all {
            return Err(Error::invalid(format!(
                "the record batch has {all:?} field nodes, buffers and variadic counts, its schema asks for {:?}",
                self.next
            )));
        }
        Ok(self.sizes.iter().sum::<u64>() as usize)
    }
}

fn count(value: i64, most: u64, what: &str) -> Result<u64> {
    match u64::try_from(value) {
        Ok(value) if value <= most => Ok(value),
        _ => {
            Err(Error::invalid(format!("the message says it has {value} {what}, which is impossible (at most {most})")))
        }
    }
}

/// Every buffer's bytes once decompressed, after checking that it lies in the body and that all stay within limits.
fn sizes(
    batch: &ipc::RecordBatch<'_>,
    buffers: flatbuffers::Vector<'_, ipc::Buffer>,
    body: &[u8],
    max_bytes: usize,
) -> Result<Vec<u64>> {
    let codec = codec(batch)?;
    let (mut stored, mut plain) = (0u64, 0u64);
    let mut sizes = Vec::with_capacity(buffers.len());
    for (at, buffer) in buffers.iter().enumerate() {
        let bytes = slice(body, buffer).ok_or_else(|| {
            let (offset, length) = (buffer.offset(), buffer.length());
            Error::invalid(format!(
                "buffer {at} ({length} bytes at {offset}) is outside of the body of {} bytes",
                body.len()
            ))
        })?;
        let size = match codec {
            Some(codec) => plain_size(bytes, codec, max_bytes).map_err(|e| e.at(format_args!("buffer {at}")))?,
            None => bytes.len() as u64,
        };
        stored += bytes.len() as u64;
        plain = plain.saturating_add(size);
        sizes.push(size);
    }
    // Overlapping buffers would be stored once for every column that shows them.
    if stored > body.len() as u64 {
        return Err(Error::invalid(format!("the buffers overlap: {stored} bytes in a body of {}", body.len())));
    }
    if plain > max_bytes as u64 {
        return Err(Error::exhausted(format!("the message decompresses to {plain} bytes, the limit is {max_bytes}")));
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

/// A compressed buffer begins with its plain length; -1: what follows is not compressed.
fn plain_size(bytes: &[u8], codec: CompressionType, max_bytes: usize) -> Result<u64> {
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
            let holds = codec != CompressionType::LZ4_FRAME || size == 0 || lz4::frames_len(data) == Some(size as u64);
            holds.then_some(size as u64).ok_or_else(|| Error::invalid(format!("it is no LZ4 frame of {size} bytes")))
        }
    }
}
