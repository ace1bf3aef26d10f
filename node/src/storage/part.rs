//! A sealed part, mapped and parsed.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use arrow_ipc::{Block, Message as IpcMessage, MessageHeader};
use bytes::Bytes;
use memmap2::Mmap;
use volley_common::ipc::schema::PREFIX_BYTES;
use volley_common::{Error, PartId, Result};

/// The first bytes of an Arrow file; the last six are the first six of it.
const MAGIC: &[u8; 8] = b"ARROW1\0\0";
/// The footer's length, and the magic behind it.
const TAIL: usize = 10;
/// The schema message begins at the first 64-byte boundary behind the magic.
const SCHEMA_AT: u64 = 64;

/// One IPC message of a part, as ranges of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The bare flatbuffer: `FlightData.data_header`.
    pub header: Range<u64>,
    /// The body: `FlightData.data_body`.
    pub body: Range<u64>,
    /// Rows of a record batch; entries of a dictionary.
    pub rows: u64,
    /// Which dictionary; `None` for a record batch.
    pub dictionary_id: Option<i64>,
}

/// A mapped part. Readers that hold one keep its bytes though the file is removed.
pub struct Part {
    id: PartId,
    crc32c: u32,
    bytes: Bytes,
    schema: Range<u64>,
    dictionaries: Vec<Message>,
    batches: Vec<Message>,
    rows: u64,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({} rows, {} bytes)", self.id, self.rows, self.bytes.len())
    }
}

impl Part {
    /// Maps and parses a part's file; `check` reads all of it and compares the CRC-32C.
    ///
    /// # Errors
    /// DATA_LOSS: not the bytes that were sealed. UNAVAILABLE: cannot be opened or mapped.
    pub fn open(path: &Path, id: PartId, crc32c: u32, check: bool) -> Result<Part> {
        let bytes = map(path)?;
        if check && crc32c::crc32c(&bytes) != crc32c {
            return Err(Error::data_loss(format!("{id:?} is damaged: the checksum of {} differs", path.display())));
        }
        parse(bytes, id, crc32c)
            .map_err(|why| Error::data_loss(format!("{id:?} is damaged: {why} in {}", path.display())))
    }

    /// The part's id.
    pub fn id(&self) -> PartId {
        self.id
    }

    /// The schema message's bare flatbuffer.
    pub fn schema_header(&self) -> Bytes {
        self.slice(self.schema.clone())
    }

    /// The dictionaries, in file order; each comes before the batches that need it.
    pub fn dictionaries(&self) -> &[Message] {
        &self.dictionaries
    }

    /// The record batches, in row order.
    pub fn batches(&self) -> &[Message] {
        &self.batches
    }

    /// Bytes of the file, without a copy. `range` must be within [`Part::len`]: every [`Message`]'s is.
    pub fn slice(&self, range: Range<u64>) -> Bytes {
        self.bytes.slice(range.start as usize..range.end as usize)
    }

    /// Length of the file, bytes.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Rows of all batches.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// CRC-32C of the whole file, as its name says.
    pub fn crc32c(&self) -> u32 {
        self.crc32c
    }
}

/// The file's bytes; the mapping lives as long as any slice of it.
fn map(path: &Path) -> Result<Bytes> {
    let failed = |e: std::io::Error| Error::unavailable(format!("{} cannot be mapped: {e}", path.display()));
    let file = File::open(path).map_err(failed)?;
    // SAFETY: a part's file never changes after its rename (ARCHITECTURE.md, Invariants): it is only unlinked, which
    // leaves mappings as they are.
    let mapping = unsafe { Mmap::map(&file) }.map_err(failed)?;
    Ok(Bytes::from_owner(mapping))
}

type Parsed<T> = std::result::Result<T, String>;

fn parse(bytes: Bytes, id: PartId, crc32c: u32) -> Parsed<Part> {
    let blocks_end = footer_at(&bytes)?;
    let footer = arrow_ipc::root_as_footer(&bytes[blocks_end..bytes.len() - TAIL])
        .map_err(|e| format!("a malformed footer ({e})"))?;
    let blocks = |list: Option<flatbuffers::Vector<'_, Block>>| -> Parsed<Vec<Message>> {
        list.into_iter().flatten().map(|block| message(&bytes[..blocks_end], block)).collect()
    };
    let (dictionaries, batches) = (blocks(footer.dictionaries())?, blocks(footer.recordBatches())?);
    if dictionaries.iter().any(|d| d.dictionary_id.is_none()) || batches.iter().any(|b| b.dictionary_id.is_some()) {
        return Err("messages of another kind than the footer says".into());
    }
    let rows = batches.iter().map(|batch| batch.rows).sum();
    Ok(Part { id, crc32c, schema: schema(&bytes[..blocks_end])?, dictionaries, batches, rows, bytes })
}

/// Where the footer begins.
fn footer_at(bytes: &[u8]) -> Parsed<usize> {
    let framed = bytes.starts_with(MAGIC) && bytes.ends_with(&MAGIC[..6]) && bytes.len() > SCHEMA_AT as usize + TAIL;
    let tail = bytes.len().checked_sub(TAIL).filter(|_| framed).ok_or("no Arrow file")?;
    let length = i32::from_le_bytes([bytes[tail], bytes[tail + 1], bytes[tail + 2], bytes[tail + 3]]);
    usize::try_from(length)
        .ok()
        .and_then(|length| tail.checked_sub(length))
        .filter(|&at| at >= SCHEMA_AT as usize)
        .ok_or_else(|| "a footer of an impossible length".into())
}

fn schema(bytes: &[u8]) -> Parsed<Range<u64>> {
    let at = SCHEMA_AT as usize;
    let prefix = bytes.get(at..at + PREFIX_BYTES).ok_or("no schema")?;
    let length = i32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]);
    let start = SCHEMA_AT + PREFIX_BYTES as u64;
    let range = start..start + u64::try_from(length).map_err(|_| "a schema of negative length")?;
    match header(bytes, &range)?.header_type() {
        MessageHeader::Schema => Ok(range),
        _ => Err("no schema".into()),
    }
}

fn header<'a>(bytes: &'a [u8], range: &Range<u64>) -> Parsed<IpcMessage<'a>> {
    let header = bytes.get(range.start as usize..range.end as usize).ok_or("a message outside of the file")?;
    arrow_ipc::root_as_message(header).map_err(|e| format!("a malformed message ({e})"))
}

/// A footer's block as ranges that are known to lie before the footer.
fn message(bytes: &[u8], block: &Block) -> Parsed<Message> {
    let outside = || "a message outside of the file".to_string();
    let number = |value: i64| u64::try_from(value).map_err(|_| outside());
    let start = number(block.offset())?;
    let body = start.checked_add(number(block.metaDataLength().into())?).ok_or_else(outside)?;
    let end = body.checked_add(number(block.bodyLength())?).filter(|&end| end <= bytes.len() as u64);
    let end = end.ok_or_else(outside)?;
    let range = start + PREFIX_BYTES as u64..body;
    if range.start > range.end {
        return Err(outside());
    }
    let header = header(bytes, &range)?;
    let dictionary = header.header_as_dictionary_batch();
    let batch = dictionary.map_or_else(|| header.header_as_record_batch(), |d| d.data());
    let rows = batch.and_then(|b| u64::try_from(b.length()).ok()).ok_or("a message without rows")?;
    Ok(Message { header: range, body: body..end, rows, dictionary_id: dictionary.map(|d| d.id()) })
}
