//! Decodes some columns of stored messages to arrays that use the messages' own memory. Of an uncompressed message no byte of
//! another column is read.
//!
//! A stored message was validated when it was put, and is still as it was then. So its layout is not validated again, as that of
//! a client's is; what its arrays refer to is.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow_data::UnsafeFlag;
use arrow_ipc::MetadataVersion;
use arrow_ipc::reader::RecordBatchDecoder;

use super::decode::{aligned, body_of, empty_header, values_of};
use super::encode::IpcMessage;
use super::schema::{catch_panics, verify_message};
use crate::{Error, Result};

/// Decodes the messages of one part, in any order of the batches.
pub struct StoredDecoder {
    schema: SchemaRef,
    dictionaries: HashMap<i64, ArrayRef>,
    /// Whether what arrays refer to is not validated.
    skip_validation: UnsafeFlag,
}

impl StoredDecoder {
    /// `schema`: as [`super::schema::parse_schema`] reads it from the part's schema message.
    pub fn new(schema: SchemaRef) -> Self {
        StoredDecoder { schema, dictionaries: HashMap::new(), skip_validation: UnsafeFlag::new() }
    }

    /// The same without a validation of what arrays refer to, if the flag is set: no value is read then. Whoever sets it promises
    /// that all messages are as they were when they were put.
    pub fn with_skip_validation(self, skip_validation: UnsafeFlag) -> Self {
        StoredDecoder { skip_validation, ..self }
    }

    /// Adds a dictionary, whose memory it keeps. It must come before the batches of columns that use it, and before the
    /// dictionaries whose values use it.
    ///
    /// # Errors
    /// DATA_LOSS: the message is malformed, or not a dictionary of the schema.
    pub fn add_dictionary(&mut self, message: &IpcMessage) -> Result<()> {
        let (id, values) = self.read_dictionary(message).map_err(lost)?;
        self.dictionaries.insert(id, values);
        Ok(())
    }

    fn read_dictionary(&self, message: &IpcMessage) -> Result<(i64, ArrayRef)> {
        let header = verify_message(&message.header)?;
        let dictionary = header.header_as_dictionary_batch().ok_or_else(empty_header)?;
        let what = format!("dictionary {}", dictionary.id());
        let data = dictionary.data().ok_or_else(|| Error::invalid(format!("{what} has no values")))?;
        let values = values_of(self.schema.fields().iter().map(|f| f.as_ref()), dictionary.id());
        let values = values.ok_or_else(|| Error::invalid(format!("{what} is not in the schema")))?;
        let body = aligned(body_of(&header, message.body.clone())?);
        let (schema, version) = (Arc::new(Schema::new(vec![values])), header.version());
        let read = || self.decode(&body, data, schema, None, version);
        Ok((dictionary.id(), catch_panics(&what, read)?.column(0).clone()))
    }

    /// These columns of a record batch, in this order. Arrays share the memory of the message's body, unless it is compressed.
    ///
    /// # Errors
    /// DATA_LOSS: the message is malformed, or not of the schema; a dictionary is missing.
    pub fn columns(&self, message: &IpcMessage, columns: &[usize]) -> Result<RecordBatch> {
        self.read(message, Some(columns)).map_err(lost)
    }

    /// The same, with all columns.
    ///
    /// # Errors
    /// As [`StoredDecoder::columns`].
    pub fn batch(&self, message: &IpcMessage) -> Result<RecordBatch> {
        self.read(message, None).map_err(lost)
    }

    fn read(&self, message: &IpcMessage, columns: Option<&[usize]>) -> Result<RecordBatch> {
        let header = verify_message(&message.header)?;
        let batch = header.header_as_record_batch().ok_or_else(empty_header)?;
        let body = aligned(body_of(&header, message.body.clone())?);
        let (schema, version) = (self.schema.clone(), header.version());
        catch_panics("a record batch", || self.decode(&body, batch, schema, columns, version))
    }

    fn decode(
        &self,
        body: &Buffer,
        batch: arrow_ipc::RecordBatch<'_>,
        schema: SchemaRef,
        columns: Option<&[usize]>,
        version: MetadataVersion,
    ) -> Result<RecordBatch, ArrowError> {
        RecordBatchDecoder::try_new(body, batch, schema, &self.dictionaries, &version)?
            .with_projection(columns)
            .with_require_alignment(false)
            .with_skip_validation(self.skip_validation.clone())
            .read_record_batch()
    }
}

fn lost(error: Error) -> Error {
    Error::data_loss(format!("a stored message cannot be decoded: {error}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow_ipc::CompressionType;
    use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};

    use super::*;
    use crate::Code;
    use crate::ipc::schema::{parse_schema, schema_message};
    use crate::ipc::shrink::shrink_to_fit;
    use crate::ipc::test_data;

    /// A decoder with the dictionaries of an encoded batch, and the batch.
    fn stored(batch: &RecordBatch, codec: Option<CompressionType>) -> (StoredDecoder, IpcMessage) {
        let options = IpcWriteOptions::default().try_with_compression(codec).unwrap();
        let (generator, mut tracker) = (IpcDataGenerator {}, DictionaryTracker::new(false));
        generator.schema_to_bytes_with_dictionary_tracker(batch.schema_ref(), &mut tracker, &options);
        let mut context = IpcWriteContext::default();
        let (dictionaries, rows) =
            generator.encode(&shrink_to_fit(batch), &mut tracker, &options, &mut context).unwrap();
        let schema = parse_schema(&schema_message(batch.schema_ref()).unwrap()).unwrap();
        let mut decoder = StoredDecoder::new(schema);
        for dictionary in dictionaries {
            decoder.add_dictionary(&dictionary.into()).unwrap();
        }
        (decoder, rows.into())
    }

    #[test]
    fn columns_of_every_type_are_those_that_were_stored() {
        let batch = test_data::batch(&mut test_data::rng(31), 70);
        for codec in [None, Some(CompressionType::LZ4_FRAME), Some(CompressionType::ZSTD)] {
            let (decoder, message) = stored(&batch, codec);
            for column in 0..batch.num_columns() {
                let got = decoder.columns(&message, &[column]).unwrap();
                assert_eq!(got.columns(), &batch.columns()[column..=column], "{codec:?}");
            }
            let last = batch.num_columns() - 1;
            let got = decoder.columns(&message, &[last, 0]).unwrap();
            assert_eq!(got.columns(), &[batch.column(last).clone(), batch.column(0).clone()]);
            assert_eq!(decoder.columns(&message, &[]).unwrap().num_rows(), 70);
        }
    }

    #[test]
    fn damaged_message_is_data_loss() {
        let batch = test_data::batch(&mut test_data::rng(32), 70);
        let (mut decoder, message) = stored(&batch, None);
        let all: Vec<usize> = (0..batch.num_columns()).collect();
        let short = IpcMessage { body: message.body.slice(..message.body.len() / 2), ..message.clone() };
        let headless = IpcMessage { header: message.header.slice(..12), ..message.clone() };
        for damaged in [short, headless] {
            assert_eq!(decoder.columns(&damaged, &all).unwrap_err().code, Code::DataLoss);
        }
        assert_eq!(decoder.add_dictionary(&message).unwrap_err().code, Code::DataLoss, "it is a batch");
    }
}
