//! A sealed part, mapped and parsed.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use arrow_ipc::{Block, Message as IpcMessage, MessageHeader};
use bytes::Bytes;
use volley_common::ipc::schema::PREFIX_BYTES;
use volley_common::{Error, PartId, Result};

use super::checked::Stamp;
use super::mapping::Mapping;
use super::scan;

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
    file: File,
    /// The file when it was opened.
    stamp: Stamp,
    map: Mapping,
    bytes: Bytes,
    /// A copy of the encapsulated schema message.
    schema: Bytes,
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
    /// Maps and parses a part's file. Unless `trusted` says that a file with this stamp was verified, all of it is read
    /// first, and its CRC-32C compared.
    ///
    /// # Errors
    /// DATA_LOSS: not the bytes that were sealed, or they cannot be read. UNAVAILABLE: cannot be opened or mapped.
    pub fn open(path: &Path, id: PartId, crc32c: u32, trusted: impl FnOnce(&Stamp) -> bool) -> Result<Part> {
        let failed = |e: std::io::Error| Error::unavailable(format!("{} cannot be read: {e}", path.display()));
        let damaged = |why: String| Error::data_loss(format!("part {id} is damaged: {why} in {}", path.display()));
        let file = File::open(path).map_err(failed)?;
        let stamp = Stamp::of(&file.metadata().map_err(failed)?);
        if !trusted(&stamp) {
            // By read(2), not by the mapping: what the disk does not give is an error then, and no signal.
            let sum = scan::checksum(&file, |_| true).map_err(|e| match scan::is_damage(&e) {
                true => damaged(format!("a read failed ({e})")),
                false => failed(e),
            })?;
            if sum != (stamp.bytes, crc32c) {
                return Err(damaged("the checksum differs".into()));
            }
        }
        let map = Mapping::new(&file, id).map_err(failed)?;
        let bytes = Bytes::from_owner(map.clone());
        let parsed = Part {
            id,
            crc32c,
            file,
            stamp,
            map,
            bytes,
            schema: Bytes::new(),
            dictionaries: vec![],
            batches: vec![],
            rows: 0,
        };
        parse(parsed).map_err(damaged)
    }

    /// The file's stamp when it was opened.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Whether all these bytes are in memory: then reading them waits for no disk. Of a file that was changed since
    /// [`Part::vouch`] it says nothing.
    pub fn is_resident(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> bool {
        self.map.is_resident(ranges)
    }

    /// Brings bytes into memory, so that whoever reads them next meets no page that cannot be had. Blocks.
    ///
    /// # Errors
    /// DATA_LOSS: the disk does not give them, or the file has become shorter.
    pub fn bring_in(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> Result<()> {
        let lost = |e| Error::data_loss(format!("the file of part {} cannot be read: {e}", self.id));
        self.map.bring_in(ranges).map_err(lost)
    }

    /// Where a slice of this part lies; `None` for bytes that are no mapped ones.
    pub fn range_of(&self, slice: &[u8]) -> Option<Range<u64>> {
        self.map.range_of(slice)
    }

    /// Whether the file still has the bytes that were verified: nobody wrote into it or cut it.
    ///
    /// # Errors
    /// DATA_LOSS: somebody did.
    pub fn vouch(&self) -> Result<()> {
        match self.file.metadata() {
            Ok(now) if Stamp::of(&now).same_bytes(&self.stamp) => Ok(()),
            _ => Err(Error::data_loss(format!("the file of part {} was changed since it was verified", self.id))),
        }
    }

    /// The part's id.
    pub fn id(&self) -> PartId {
        self.id
    }

    /// The schema message's bare flatbuffer.
    pub fn schema_header(&self) -> Bytes {
        self.schema.slice(PREFIX_BYTES..)
    }

    /// The encapsulated schema message, as it was when the part was opened: the table's `schema`.
    pub fn schema_message(&self) -> Bytes {
        self.schema.clone()
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

type Parsed<T> = std::result::Result<T, String>;

/// Fills in what the file's footer and headers say.
fn parse(part: Part) -> Parsed<Part> {
    let here = part.bytes.clone();
    let tail = here.len().saturating_sub(TAIL);
    let reach = |ranges: Vec<Range<usize>>| {
        let ranges = ranges.into_iter().map(|range| range.start as u64..range.end as u64);
        part.bring_in(ranges).map_err(|e| e.message)
    };
    reach(vec![0..here.len().min(SCHEMA_AT as usize + PREFIX_BYTES), tail..here.len()])?;
    let blocks_end = footer_at(&here)?;
    reach(std::iter::once(blocks_end..tail).collect())?;
    let footer = arrow_ipc::root_as_footer(&here[blocks_end..tail]).map_err(|e| format!("a malformed footer ({e})"))?;
    let all = footer.dictionaries().into_iter().chain(footer.recordBatches()).flatten();
    let mut headers: Vec<Range<usize>> = all.map(|block| header_of(block, blocks_end)).collect();
    headers.push(0..headers.iter().map(|header| header.start).min().unwrap_or(blocks_end));
    reach(headers)?;
    let blocks = |list: Option<flatbuffers::Vector<'_, Block>>| -> Parsed<Vec<Message>> {
        list.into_iter().flatten().map(|block| message(&here[..blocks_end], block)).collect()
    };
    let (dictionaries, batches) = (blocks(footer.dictionaries())?, blocks(footer.recordBatches())?);
    if dictionaries.iter().any(|d| d.dictionary_id.is_none()) || batches.iter().any(|b| b.dictionary_id.is_some()) {
        return Err("messages of another kind than the footer says".into());
    }
    let rows = batches.iter().map(|batch| batch.rows).sum();
    Ok(Part { schema: schema(&here[..blocks_end])?, dictionaries, batches, rows, ..part })
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

/// Where a block's header is, as far as that lies before the footer.
fn header_of(block: &Block, blocks_end: usize) -> Range<usize> {
    let within = |value: i64| usize::try_from(value).unwrap_or(0).min(blocks_end);
    let start = within(block.offset());
    start..within(block.offset().saturating_add(block.metaDataLength().into())).max(start)
}

fn schema(bytes: &[u8]) -> Parsed<Bytes> {
    let at = SCHEMA_AT as usize;
    let prefix = bytes.get(at..at + PREFIX_BYTES).ok_or("no schema")?;
    let length = i32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]);
    let start = SCHEMA_AT + PREFIX_BYTES as u64;
    let range = start..start + u64::try_from(length).map_err(|_| "a schema of negative length")?;
    match header(bytes, &range)?.header_type() {
        MessageHeader::Schema => Ok(Bytes::copy_from_slice(&bytes[at..range.end as usize])),
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
