//! Reads columns of the messages of a mapped part. Whatever is accessed is faulted in before.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use volley_common::ipc::encode::IpcMessage;
use volley_common::ipc::stored::StoredDecoder;
use volley_common::{Error, Result};

use super::scan_plan::{ScanPlan, Selection, column_ranges};
use crate::get::message::Projection;
use crate::storage::{Part, PartMessage};

/// Decodes columns of a part's messages.
pub struct ColumnReader {
    /// The part.
    pub part: Arc<Part>,
    /// What is read of it.
    pub plan: Arc<ScanPlan>,
    decoder: StoredDecoder,
    /// Dictionaries that the decoder has.
    loaded: HashSet<i64>,
    /// Those that were loaded since the last [`ColumnReader::take_new_dictionaries`].
    new_dictionaries: Vec<IpcMessage>,
}

/// A message of a group, and the rows that the filter selects.
pub struct SelectedMessage<'a> {
    /// The message.
    pub message: &'a PartMessage,
    header: Bytes,
    filtered: Option<RecordBatch>,
    selection: Selection,
}

impl SelectedMessage<'_> {
    /// Whether a row is selected.
    pub fn has_rows(&self) -> bool {
        self.message.rows > 0 && !matches!(self.selection, Selection::None)
    }
}

impl ColumnReader {
    /// Has read nothing yet.
    pub fn new(part: Arc<Part>, plan: Arc<ScanPlan>) -> Self {
        let decoder = StoredDecoder::new(plan.schema().clone());
        ColumnReader { part, plan, decoder, loaded: HashSet::new(), new_dictionaries: Vec::new() }
    }

    /// Copies of the messages' headers.
    pub fn headers(&self, messages: &[PartMessage]) -> Result<Vec<Bytes>> {
        self.part.prefault(messages.iter().map(|message| message.header.clone()))?;
        Ok(messages.iter().map(|message| Bytes::copy_from_slice(&self.part.slice(message.header.clone()))).collect())
    }

    /// Evaluates the filter for each message.
    pub fn select<'a>(&mut self, messages: &'a [PartMessage], headers: Vec<Bytes>) -> Result<Vec<SelectedMessage<'a>>> {
        let plan = self.plan.clone();
        let messages = messages.iter().zip(headers);
        let Some(filter) = plan.filter() else {
            let all =
                |(message, header)| SelectedMessage { message, header, filtered: None, selection: Selection::All };
            return Ok(messages.map(all).collect());
        };
        let messages: Vec<_> = messages.collect();
        self.load(&filter.columns, messages.iter().map(|(message, header)| (*message, header)))?;
        let select = |(message, header): (&'a PartMessage, Bytes)| -> Result<SelectedMessage<'a>> {
            let filtered = self.columns(&filter.columns, message, &header)?;
            let selection = filter.select(&filtered)?;
            Ok(SelectedMessage { message, header, filtered: Some(filtered), selection })
        };
        messages.into_iter().map(select).collect()
    }

    /// Makes the other columns of these messages readable.
    pub fn load_rest(&mut self, messages: &[&SelectedMessage<'_>]) -> Result<()> {
        let plan = self.plan.clone();
        if messages.is_empty() {
            return Ok(());
        }
        self.load(plan.rest(), messages.iter().map(|message| (message.message, &message.header)))
    }

    /// The selected rows of a message, whose other columns must be loaded. They are in the part's memory or their own.
    pub fn rows_of(&self, message: &SelectedMessage<'_>) -> Result<RecordBatch> {
        let rest = self.rest_of(message.message, &message.header)?;
        let rows = message.message.rows as usize;
        self.plan.output(message.filtered.as_ref(), rest.as_ref(), rows, &message.selection)
    }

    /// The columns of the output that are none of the filter's; `None` if there are none.
    pub fn rest_of(&self, message: &PartMessage, header: &Bytes) -> Result<Option<RecordBatch>> {
        let rest = self.plan.rest();
        if rest.projector.columns().is_empty() {
            return Ok(None);
        }
        self.columns(rest, message, header).map(Some)
    }

    /// Faults columns of messages in, and reads the dictionaries that they need.
    pub fn load<'a>(
        &mut self,
        columns: &Projection,
        messages: impl Iterator<Item = (&'a PartMessage, &'a Bytes)>,
    ) -> Result<()> {
        let mut ranges = Vec::new();
        for (message, header) in messages {
            ranges.extend(column_ranges(columns, message, header)?);
        }
        self.part.prefault(ranges)?;
        self.load_dictionaries(columns)
    }

    /// A dictionary is copied: rows use it as long as there are any.
    fn load_dictionaries(&mut self, columns: &Projection) -> Result<()> {
        let part = self.part.clone();
        let is_missing = |id: &i64| columns.dictionaries.contains(id) && !self.loaded.contains(id);
        let missing: Vec<(i64, &PartMessage)> = (part.dictionaries().iter())
            .filter_map(|message| message.dictionary_id.filter(is_missing).map(|id| (id, message)))
            .collect();
        part.prefault(missing.iter().map(|(_, message)| message.header.start..message.body.end))?;
        for (id, message) in missing {
            let copy = |range: &Range<u64>| Bytes::copy_from_slice(&part.slice(range.clone()));
            let dictionary = IpcMessage { header: copy(&message.header), body: copy(&message.body) };
            self.decoder.add_dictionary(&dictionary)?;
            self.loaded.insert(id);
            if self.plan.sends_dictionary(id) {
                self.new_dictionaries.push(dictionary);
            }
        }
        Ok(())
    }

    /// The dictionaries of the output that were read since the last call.
    pub fn take_new_dictionaries(&mut self) -> Vec<IpcMessage> {
        std::mem::take(&mut self.new_dictionaries)
    }

    /// Columns of a message, in its memory. They must be loaded.
    pub fn columns(&self, columns: &Projection, message: &PartMessage, header: &Bytes) -> Result<RecordBatch> {
        let stored = IpcMessage { header: header.clone(), body: self.part.slice(message.body.clone()) };
        let batch = self.decoder.columns(&stored, columns.projector.columns())?;
        match batch.num_rows() as u64 == message.rows {
            true => Ok(batch),
            false => Err(Error::data_loss(format!("a message of part {} has another length", self.part.id()))),
        }
    }
}
