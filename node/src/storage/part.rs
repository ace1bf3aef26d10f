//! A sealed part, mapped and parsed.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use arrow_ipc::{Block, Footer, Message as IpcMessage, MessageHeader};
use bytes::Bytes;
use volley_common::ipc::batch_header::has_app_metadata;
use volley_common::ipc::schema::PREFIX_BYTES;
use volley_common::ipc::statistics::{MessageStatistics, STATISTICS_KEY};
use volley_common::{Error, PartId, Result};

use super::checksum::checksum;
use super::fingerprint::FileFingerprint;
use super::io_failure::{IoFailure, remedy};
use super::mapping::FileMapping;

/// The first bytes of an Arrow file; it ends with the first six of them.
const MAGIC: &[u8; 8] = b"ARROW1\0\0";
/// Bytes after the footer: its length, and the magic.
const TAIL: usize = 10;
/// The schema message begins at the first 64-byte boundary after the magic.
const SCHEMA_AT: u64 = 64;

/// One IPC message of a part, as ranges of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartMessage {
    /// The bare flatbuffer: `FlightData.data_header`.
    pub header: Range<u64>,
    /// The body: `FlightData.data_body`.
    pub body: Range<u64>,
    /// Rows of a record batch; entries of a dictionary.
    pub rows: u64,
    /// The dictionary's id; `None` for a record batch.
    pub dictionary_id: Option<i64>,
    /// The header has `app_metadata` of the batch, see [`volley_common::ipc::batch_header`].
    pub has_app_metadata: bool,
    /// The body is compressed.
    pub compressed: bool,
}

/// A mapped part. Its bytes stay readable after the file is removed.
pub struct Part {
    id: PartId,
    crc32c: u32,
    file: File,
    /// The file's fingerprint when it was opened.
    fingerprint: FileFingerprint,
    map: FileMapping,
    bytes: Bytes,
    /// A copy of the encapsulated schema message.
    schema: Bytes,
    dictionaries: Vec<PartMessage>,
    batches: Vec<PartMessage>,
    /// Where the footer has the statistics of the batches.
    statistics: Option<Range<u64>>,
    rows: u64,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({} rows, {} bytes)", self.id, self.rows, self.bytes.len())
    }
}

impl Part {
    /// Maps and parses a part's file. Unless `is_trusted` accepts the file's fingerprint, the whole file is read first and
    /// its CRC-32C compared.
    ///
    /// # Errors
    /// DATA_LOSS: the bytes are not those that were sealed, or cannot be read. UNAVAILABLE: the file cannot be opened or
    /// mapped.
    pub fn open(
        path: &Path,
        id: PartId,
        crc32c: u32,
        is_trusted: impl FnOnce(&FileFingerprint) -> bool,
    ) -> Result<Part> {
        let failed =
            |e: std::io::Error| Error::unavailable(format!("{} cannot be read: {e}{}", path.display(), remedy(&e)));
        let damaged = |why: String| Error::data_loss(format!("part {id} is damaged: {why} in {}", path.display()));
        let file = File::open(path).map_err(failed)?;
        let fingerprint = FileFingerprint::of(&file.metadata().map_err(failed)?);
        if !is_trusted(&fingerprint) {
            // By read(2), not through a mapping: a disk error is then returned as an error instead of raising a signal.
            let sum = checksum(&file, |_| true).map_err(|e| match IoFailure::of(&e).is_damage() {
                true => damaged(format!("a read failed ({e})")),
                false => failed(e),
            })?;
            if sum != (fingerprint.bytes, crc32c) {
                return Err(damaged("the checksum differs".into()));
            }
        }
        let map = FileMapping::new(&file, id).map_err(failed)?;
        let bytes = Bytes::from_owner(map.clone());
        let parsed = Part {
            id,
            crc32c,
            file,
            fingerprint,
            map,
            bytes,
            schema: Bytes::new(),
            dictionaries: vec![],
            batches: vec![],
            statistics: None,
            rows: 0,
        };
        parse(parsed).map_err(damaged)
    }

    /// The file's fingerprint when it was opened.
    pub fn fingerprint(&self) -> FileFingerprint {
        self.fingerprint
    }

    /// The file, open for reading.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether all these bytes are in memory, so that reading them does not wait for the disk. Undefined for a file that was
    /// changed after [`Part::check_unchanged`].
    pub fn is_resident(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> bool {
        self.map.is_resident(ranges)
    }

    /// Faults bytes in, so that the next access to them cannot raise SIGBUS. Blocks.
    ///
    /// # Errors
    /// DATA_LOSS: the disk cannot read them, or the file was truncated.
    pub fn prefault(&self, ranges: impl IntoIterator<Item = Range<u64>>) -> Result<()> {
        let failed = |e| Error::data_loss(format!("the file of part {} cannot be read: {e}", self.id));
        self.map.prefault(ranges).map_err(failed)
    }

    /// The position of a slice in the file; `None` for bytes that are not mapped from it.
    pub fn range_of(&self, slice: &[u8]) -> Option<Range<u64>> {
        self.map.range_of(slice)
    }

    /// Checks that the file still has the bytes that were verified.
    ///
    /// # Errors
    /// DATA_LOSS: the file was written to or truncated.
    pub fn check_unchanged(&self) -> Result<()> {
        match self.file.metadata() {
            Ok(now) if FileFingerprint::of(&now).has_same_contents(&self.fingerprint) => Ok(()),
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

    /// The encapsulated schema message, copied when the part was opened: the table's `schema`.
    pub fn schema_message(&self) -> Bytes {
        self.schema.clone()
    }

    /// The dictionaries, in file order. Readers need them before the batches, although they are stored after them.
    pub fn dictionaries(&self) -> &[PartMessage] {
        &self.dictionaries
    }

    /// The record batches, in row order.
    pub fn batches(&self) -> &[PartMessage] {
        &self.batches
    }

    /// The statistics of the record batches, whose entries cover all of them; `None` if the part has none that can be used. Blocks.
    ///
    /// # Errors
    /// DATA_LOSS: the disk cannot read them, or the file was truncated.
    pub fn statistics(&self) -> Result<Option<MessageStatistics>> {
        let Some(range) = self.statistics.clone() else { return Ok(None) };
        self.prefault([range.clone()])?;
        let text = self.slice(range);
        let decoded = str::from_utf8(&text)
            .map_err(|_| Error::data_loss("the statistics are no text"))
            .and_then(MessageStatistics::decode)
            .and_then(|statistics| self.check_statistics(statistics));
        match decoded {
            Ok(statistics) => Ok(Some(statistics)),
            Err(error) => {
                tracing::debug!(part = %self.id, %error, "the statistics of a part are not used");
                Ok(None)
            }
        }
    }

    /// Checks that the entries are of the part's batches, with as many rows.
    fn check_statistics(&self, statistics: MessageStatistics) -> Result<MessageStatistics> {
        let other = || Error::data_loss("the statistics are of other record batches");
        let mut rest = self.batches.as_slice();
        for entry in statistics.entries() {
            let (batches, after) = rest.split_at_checked(entry.messages as usize).ok_or_else(other)?;
            if batches.iter().map(|batch| batch.rows).sum::<u64>() != entry.rows {
                return Err(other());
            }
            rest = after;
        }
        if rest.is_empty() { Ok(statistics) } else { Err(other()) }
    }

    /// Bytes of the file, without a copy. `range` must be within [`Part::len`], as every [`PartMessage`]'s is.
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

    /// CRC-32C of the whole file, from its name.
    pub fn crc32c(&self) -> u32 {
        self.crc32c
    }
}

type ParseResult<T> = std::result::Result<T, String>;

/// Fills in the fields that come from the file's footer and headers.
fn parse(part: Part) -> ParseResult<Part> {
    let file = part.bytes.clone();
    let tail = file.len().saturating_sub(TAIL);
    let prefault = |ranges: Vec<Range<usize>>| {
        let ranges = ranges.into_iter().map(|range| range.start as u64..range.end as u64);
        part.prefault(ranges).map_err(|e| e.message)
    };
    prefault(vec![0..file.len().min(SCHEMA_AT as usize + PREFIX_BYTES), tail..file.len()])?;
    let blocks_end = footer_start(&file)?;
    prefault(std::iter::once(blocks_end..tail).collect())?;
    let footer = arrow_ipc::root_as_footer(&file[blocks_end..tail]).map_err(|e| format!("a malformed footer ({e})"))?;
    let all = footer.dictionaries().into_iter().chain(footer.recordBatches()).flatten();
    let mut headers: Vec<Range<usize>> = all.map(|block| header_range(block, blocks_end)).collect();
    headers.push(0..headers.iter().map(|header| header.start).min().unwrap_or(blocks_end));
    prefault(headers)?;
    let blocks = |list: Option<flatbuffers::Vector<'_, Block>>| -> ParseResult<Vec<PartMessage>> {
        list.into_iter().flatten().map(|block| message(&file[..blocks_end], block)).collect()
    };
    let (dictionaries, batches) = (blocks(footer.dictionaries())?, blocks(footer.recordBatches())?);
    if dictionaries.iter().any(|d| d.dictionary_id.is_none()) || batches.iter().any(|b| b.dictionary_id.is_some()) {
        return Err("messages of another kind than the footer lists".into());
    }
    let rows = batches.iter().try_fold(0_u64, |rows, batch| rows.checked_add(batch.rows));
    let rows = rows.ok_or("batches with more rows than can be counted")?;
    let statistics = statistics_text(&footer).and_then(|text| part.range_of(text.as_bytes()));
    Ok(Part { schema: schema(&file[..blocks_end])?, dictionaries, batches, statistics, rows, ..part })
}

fn statistics_text<'a>(footer: &Footer<'a>) -> Option<&'a str> {
    footer.custom_metadata()?.iter().find(|pair| pair.key() == Some(STATISTICS_KEY))?.value()
}

/// The position of the footer.
fn footer_start(bytes: &[u8]) -> ParseResult<usize> {
    let framed = bytes.starts_with(MAGIC) && bytes.ends_with(&MAGIC[..6]) && bytes.len() > SCHEMA_AT as usize + TAIL;
    let tail = bytes.len().checked_sub(TAIL).filter(|_| framed).ok_or("not an Arrow file")?;
    let length = i32::from_le_bytes([bytes[tail], bytes[tail + 1], bytes[tail + 2], bytes[tail + 3]]);
    usize::try_from(length)
        .ok()
        .and_then(|length| tail.checked_sub(length))
        .filter(|&at| at >= SCHEMA_AT as usize)
        .ok_or_else(|| "a footer of impossible length".into())
}

/// The position of a block's header, clamped to the bytes before the footer.
fn header_range(block: &Block, blocks_end: usize) -> Range<usize> {
    let within = |value: i64| usize::try_from(value).unwrap_or(0).min(blocks_end);
    let start = within(block.offset());
    start..within(block.offset().saturating_add(block.metaDataLength().into())).max(start)
}

fn schema(bytes: &[u8]) -> ParseResult<Bytes> {
    let at = SCHEMA_AT as usize;
    let prefix = bytes.get(at..at + PREFIX_BYTES).ok_or("no schema message")?;
    let length = i32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]);
    let start = SCHEMA_AT + PREFIX_BYTES as u64;
    let range = start..start + u64::try_from(length).map_err(|_| "a schema of negative length")?;
    match header(bytes, &range)?.header_type() {
        MessageHeader::Schema => Ok(Bytes::copy_from_slice(&bytes[at..range.end as usize])),
        _ => Err("no schema message".into()),
    }
}

fn header<'a>(bytes: &'a [u8], range: &Range<u64>) -> ParseResult<IpcMessage<'a>> {
    let header = bytes.get(range.start as usize..range.end as usize).ok_or("a message outside the file")?;
    arrow_ipc::root_as_message(header).map_err(|e| format!("a malformed message ({e})"))
}

/// A footer's block as ranges that lie within `bytes`, the file up to its footer.
fn message(bytes: &[u8], block: &Block) -> ParseResult<PartMessage> {
    let outside = || "a message outside the file".to_string();
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
    let compressed = batch.is_some_and(|b| b.compression().is_some());
    let (dictionary_id, has_app_metadata) = (dictionary.map(|d| d.id()), has_app_metadata(&header));
    Ok(PartMessage { header: range, body: body..end, rows, dictionary_id, has_app_metadata, compressed })
}
