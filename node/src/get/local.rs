//! The messages of a part on this node's disk, as slices of its mapping.

use std::sync::Arc;

use bytes::Bytes;
use volley_common::Result;
use volley_common::ipc::encode::{Encoded, first_rows};
use volley_common::ipc::project::project_message;

use super::source::{Piece, Projection};
use crate::storage::{Message, Part, own_last_page};

/// A part and how far it has been sent: dictionaries first, then batches.
pub struct LocalPart {
    part: Arc<Part>,
    /// The table's encapsulated schema message; only cutting a batch needs it.
    schema: Bytes,
    projection: Option<Arc<Projection>>,
    next_dictionary: usize,
    next_batch: usize,
}

impl LocalPart {
    /// `skip_batches`: record batches to leave out at the front.
    pub fn new(part: Arc<Part>, schema: Bytes, projection: Option<Arc<Projection>>, skip_batches: u32) -> Self {
        LocalPart { part, schema, projection, next_dictionary: 0, next_batch: skip_batches as usize }
    }

    /// Record batches that were given so far, with those that were left out at the front.
    pub fn batches_given(&self) -> u32 {
        self.next_batch as u32
    }

    /// The next message; a batch has at most `left` rows. `None` after the last. It is in memory, and was of the file
    /// as it was verified when this returns.
    ///
    /// # Errors
    /// DATA_LOSS: the file was changed or cannot be read. What was given before is right.
    pub fn next(&mut self, left: Option<u64>) -> Result<Option<Piece>> {
        let before = self.next_batch;
        let piece = self.make(left).and_then(|piece| self.vouched(piece));
        if piece.is_err() {
            self.next_batch = before;
            // Whatever else seems to be wrong: if the file was changed, that is why.
            self.part.vouch()?;
        }
        piece
    }

    fn vouched(&self, piece: Option<Piece>) -> Result<Option<Piece>> {
        let Some(mut piece) = piece else { return Ok(None) };
        for slice in &piece.body {
            self.part.bring_in_slice(slice)?;
        }
        own_last_page(&mut piece.body);
        self.part.vouch()?;
        Ok(Some(piece))
    }

    fn make(&mut self, left: Option<u64>) -> Result<Option<Piece>> {
        let part = self.part.clone();
        let Some(batch) = part.batches().get(self.next_batch) else { return Ok(None) };
        while let Some(dictionary) = part.dictionaries().get(self.next_dictionary) {
            self.next_dictionary += 1;
            if self.needs(dictionary) {
                return self.whole(dictionary).map(Some);
            }
        }
        self.next_batch += 1;
        match left {
            Some(left) if left < batch.rows => self.cut(batch, left).map(Some),
            _ => self.batch(batch).map(Some),
        }
    }

    fn needs(&self, dictionary: &Message) -> bool {
        match (&self.projection, dictionary.dictionary_id) {
            (Some(projection), Some(id)) => projection.dictionaries.contains(&id),
            _ => true,
        }
    }

    fn whole(&self, message: &Message) -> Result<Piece> {
        self.part.bring_in(&message.header)?;
        Ok(Piece {
            // A copy: it is vouched for once and for all.
            header: Bytes::copy_from_slice(&self.part.slice(message.header.clone())),
            body: vec![self.part.slice(message.body.clone())],
            rows: message.dictionary_id.is_none().then_some(message.rows),
        })
    }

    fn batch(&self, message: &Message) -> Result<Piece> {
        let piece = self.whole(message)?;
        match &self.projection {
            None => Ok(piece),
            Some(projection) => projected(projection, &piece.header, &piece.body[0], message.rows),
        }
    }

    /// The batch that a limit ends in: the only one that is decoded and encoded.
    fn cut(&self, message: &Message, rows: u64) -> Result<Piece> {
        let dictionaries: Vec<Encoded> =
            self.part.dictionaries().iter().map(|d| self.encoded(d)).collect::<Result<_>>()?;
        let cut = first_rows(&self.schema, &dictionaries, &self.encoded(message)?, rows as usize)?;
        match &self.projection {
            None => Ok(Piece { header: cut.header, body: vec![cut.body], rows: Some(rows) }),
            Some(projection) => projected(projection, &cut.header, &cut.body, rows),
        }
    }

    fn encoded(&self, message: &Message) -> Result<Encoded> {
        self.part.bring_in(&(message.header.start..message.body.end))?;
        Ok(Encoded { header: self.part.slice(message.header.clone()), body: self.part.slice(message.body.clone()) })
    }
}

fn projected(projection: &Projection, header: &[u8], body: &Bytes, rows: u64) -> Result<Piece> {
    let projected = project_message(header, &projection.schema, &projection.columns)?;
    let slice = |range: &std::ops::Range<u64>| body.slice(range.start as usize..range.end as usize);
    Ok(Piece { header: projected.header, body: projected.body.iter().map(slice).collect(), rows: Some(rows) })
}
