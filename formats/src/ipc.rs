//! Arrow IPC files (which begin with a magic) and streams.

use std::fs::File;
use std::io::{BufReader, Error, ErrorKind, Read, Seek, SeekFrom};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use volley_common::counts::plural;

use super::Batches;
use crate::progress::{ProgressReader, ReadProgress};

/// The first bytes of a file, not of a stream.
pub const FILE_MAGIC: &[u8] = b"ARROW1";
/// The first Feather format, which is not Arrow IPC.
const FEATHER_1: &[u8] = b"FEA1";
/// The error of [`UnendedReader`], which gets the place where it happens.
const CUT_OFF: &str = "the Arrow stream is cut off";
/// What helps whoever has a file that is not complete.
const CUT_OFF_REMEDY: &str = "nothing of it is stored: write it again, and close its writer";

pub fn schema(mut file: File) -> Result<SchemaRef, ArrowError> {
    if is_file(&mut file)? {
        Ok(FileReader::try_new(BufReader::new(file), None)?.schema())
    } else {
        stream_schema(file)
    }
}

pub fn open(mut file: File, bar: ReadProgress) -> Result<Batches, ArrowError> {
    let is_file = is_file(&mut file)?;
    let reader = ProgressReader::new(BufReader::new(file), bar);
    if is_file { Ok(Box::new(FileReader::try_new(reader, None)?)) } else { open_stream(reader) }
}

/// The schema of a stream.
pub fn stream_schema(reader: impl Read) -> Result<SchemaRef, ArrowError> {
    Ok(WholeStream::new(reader)?.reader.schema())
}

/// The batches of a stream.
pub fn open_stream(reader: impl Read + Send + 'static) -> Result<Batches, ArrowError> {
    Ok(Box::new(WholeStream::new(reader)?))
}

/// Fails where its bytes end. Arrow's reader would take that between two messages, or within the first bytes of one, for the
/// end of the stream, as if its writer had not died; it reads nothing after the marker of the end.
struct UnendedReader<R>(R);

impl<R: Read> Read for UnendedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(buffer)? {
            // Not the kind of an early end, which Arrow's reader ignores.
            0 if !buffer.is_empty() => Err(Error::new(ErrorKind::InvalidData, CUT_OFF)),
            bytes => Ok(bytes),
        }
    }
}

/// The batches of a stream, which must have the marker of its end, and be all of the file: what follows would be lost, and a
/// checksum of compressed data is known only at the end.
struct WholeStream<R: Read> {
    reader: StreamReader<UnendedReader<BufReader<R>>>,
    /// Rows that were returned.
    rows: usize,
}

impl<R: Read> WholeStream<R> {
    fn new(reader: R) -> Result<Self, ArrowError> {
        let reader = StreamReader::try_new(UnendedReader(BufReader::new(reader)), None);
        Ok(WholeStream { reader: reader.map_err(|e| cut_off(e, "within its schema, or is none"))?, rows: 0 })
    }
}

impl<R: Read> Iterator for WholeStream<R> {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.reader.next() {
            Some(Ok(batch)) => {
                self.rows += batch.num_rows();
                return Some(Ok(batch));
            }
            Some(Err(e)) => {
                let place = format!("after {} and has no end marker", plural(self.rows as i64, "row"));
                return Some(Err(cut_off(e, &place)));
            }
            None => {}
        }
        match std::io::copy(&mut self.reader.get_mut().0, &mut std::io::sink()) {
            Ok(0) => None,
            Ok(bytes) => {
                let text = format!("{bytes} bytes follow the end of the Arrow stream: a file holds one stream");
                Some(Err(ArrowError::IpcError(text)))
            }
            Err(e) => Some(Err(e.into())),
        }
    }
}

/// The error, with the place if the stream is cut off there.
fn cut_off(error: ArrowError, place: &str) -> ArrowError {
    match error {
        ArrowError::IoError(text, _) if text == CUT_OFF => {
            ArrowError::IpcError(format!("{CUT_OFF} {place}, and {CUT_OFF_REMEDY}"))
        }
        other => other,
    }
}

/// Whether the content is a file rather than a stream; the name may be wrong.
fn is_file(file: &mut File) -> Result<bool, ArrowError> {
    let mut start = Vec::new();
    file.take(FILE_MAGIC.len() as u64).read_to_end(&mut start)?;
    file.rewind()?;
    if start.starts_with(FEATHER_1) {
        return Err(ArrowError::IpcError("this is Feather version 1: convert it to version 2 (Arrow IPC)".into()));
    }
    if start.is_empty() {
        return Err(ArrowError::IpcError("the file is empty".into()));
    }
    let is_file = start == FILE_MAGIC;
    if is_file {
        check_footer(file)?;
    }
    Ok(is_file)
}

/// Refuses an Arrow file without the end of its footer, which is the magic again.
fn check_footer(file: &mut File) -> Result<(), ArrowError> {
    let bytes = file.seek(SeekFrom::End(-(FILE_MAGIC.len() as i64)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    file.rewind()?;
    // In the shortest file, the end is the start.
    if bytes == 0 || end != FILE_MAGIC {
        let text = format!("the Arrow file is cut off, as it does not end with a footer, and {CUT_OFF_REMEDY}");
        return Err(ArrowError::IpcError(text));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;
    use std::path::Path;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};
    use arrow::ipc::MetadataVersion;
    use arrow::ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;
    use crate::text::TextOptions;
    use crate::{Format, InputFile, error_text};

    fn batch() -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    }

    /// A stream of so many batches.
    fn stream(batches: usize, options: IpcWriteOptions) -> Vec<u8> {
        let mut writer = StreamWriter::try_new_with_options(Vec::new(), &batch().schema(), options).unwrap();
        for _ in 0..batches {
            writer.write(&batch()).unwrap();
        }
        writer.finish().unwrap();
        writer.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// The rows of a file, or why it is refused.
    fn rows(bytes: &[u8]) -> Result<usize, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let input = InputFile::of_copy(Path::new("t"), Format::Arrows, bytes.len() as u64, file).unwrap();
        let schema = crate::schema(&input).map_err(|e| e.message)?;
        let batches = crate::open(&input, schema, &TextOptions::default(), ReadProgress::default());
        let mut rows = 0;
        for batch in batches.map_err(|e| e.message)? {
            rows += batch.map_err(error_text)?.num_rows();
        }
        Ok(rows)
    }

    #[test]
    fn stream_without_its_end_is_refused_with_its_rows() {
        // The end of streams from before 2019 has 4 bytes.
        let old = IpcWriteOptions::try_new(8, true, MetadataVersion::V4).unwrap();
        for (options, end) in [(IpcWriteOptions::default(), 8), (old, 4)] {
            let whole = stream(2, options.clone());
            assert_eq!(rows(&whole), Ok(200));
            let borders = [0, 1, 2].map(|batches| stream(batches, options.clone()).len() - end);
            for length in 4..whole.len() {
                let place = match borders.iter().rposition(|border| *border <= length) {
                    Some(batches) => format!("cut off after {} rows", 100 * batches),
                    None => "cut off within its schema".to_string(),
                };
                let error = rows(&whole[..length]).unwrap_err();
                assert!(error.contains(&place) && error.contains("close its writer"), "{length} bytes: {error}");
            }
        }
    }

    #[test]
    fn compressed_stream_is_complete_or_refused() {
        let whole = stream(3, IpcWriteOptions::default());
        assert_eq!(rows(&gzip(&whole)), Ok(300));
        for lost in [1, 5, 7, 8] {
            let error = rows(&gzip(&whole[..whole.len() - lost])).unwrap_err();
            assert!(error.contains("cut off after 300 rows"), "{lost} bytes: {error}");
        }
        for (more, bytes) in [(&b"\0"[..], 1), (&whole[..], whole.len())] {
            let long = [&whole[..], more].concat();
            for error in [rows(&long), rows(&gzip(&long))].map(Result::unwrap_err) {
                assert!(error.contains(&format!("{bytes} bytes follow the end")), "{error}");
            }
        }
    }

    #[test]
    fn file_without_its_footer_is_refused() {
        let mut writer = FileWriter::try_new(Vec::new(), &batch().schema()).unwrap();
        writer.write(&batch()).unwrap();
        writer.finish().unwrap();
        let whole = writer.into_inner().unwrap();
        assert_eq!(rows(&whole), Ok(100));
        for length in FILE_MAGIC.len()..whole.len() {
            let error = rows(&whole[..length]).unwrap_err();
            assert!(error.contains("the Arrow file is cut off"), "{length} bytes: {error}");
        }
    }
}
