//! A ticket into the messages of its stream, made only when they are asked for.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use futures::{Stream, stream};
use volley_common::ipc::frame::{Frame, frame};
use volley_common::ipc::{project, schema};
use volley_common::wire::cluster::{Ticket, TicketPart};
use volley_common::{Code, Error, NodeId, PartId, Result};

use super::local::LocalPart;
use super::remote::RemotePart;
use super::request::check_not_cancelled;
use crate::state::Shared;
use crate::storage::Part;

/// One message of a stream, still in slices.
#[derive(Clone, Debug)]
pub struct Piece {
    /// `FlightData.data_header`.
    pub header: Bytes,
    /// `FlightData.data_body`.
    pub body: Vec<Bytes>,
    /// Rows, if it is a record batch.
    pub rows: Option<u64>,
}

/// The columns that a stream has, when not all.
#[derive(Debug)]
pub struct Projection {
    /// The table's whole schema.
    pub schema: SchemaRef,
    /// Indexes into it, in the order in which they are sent.
    pub columns: Vec<usize>,
    /// The dictionaries that these columns need.
    pub dictionaries: HashSet<i64>,
}

impl Projection {
    fn new(ticket: &Ticket) -> Result<Option<Self>> {
        let Some(wanted) = &ticket.columns else { return Ok(None) };
        let schema = schema::parse_schema(&ticket.schema)?;
        let columns: Vec<usize> = wanted.index.iter().map(|&at| at as usize).collect();
        if let Some(at) = columns.iter().find(|&&at| at >= schema.fields().len()) {
            return Err(Error::invalid(format!("the ticket asks for column {at} of {}", schema.fields().len())));
        }
        let dictionaries = project::dictionary_ids(&schema, &columns).into_iter().collect();
        Ok(Some(Projection { schema, columns, dictionaries }))
    }
}

/// What a stream is made from, and how far it has come.
pub struct Source {
    state: Arc<Shared>,
    ticket: Ticket,
    projection: Option<Arc<Projection>>,
    /// Asked by another node: only parts that are here.
    hop: bool,
    /// Rows that may still be sent.
    left: Option<u64>,
    schema_sent: bool,
    next_part: usize,
    current: Option<Current>,
    sent_bytes: metrics::Counter,
}

enum Current {
    Local(LocalPart),
    Remote(Box<RemotePart>),
}

impl Source {
    /// For a verified ticket. `hop`: the caller is a node that looks for a part.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the ticket asks for columns that there are not.
    pub fn new(state: Arc<Shared>, ticket: Ticket, hop: bool) -> Result<Self> {
        Ok(Source {
            projection: Projection::new(&ticket)?.map(Arc::new),
            left: ticket.limit,
            state,
            ticket,
            hop,
            schema_sent: false,
            next_part: 0,
            current: None,
            sent_bytes: metrics::counter!("volley_get_bytes_total"),
        })
    }

    /// The messages, schema first. Nothing is read before it is polled for.
    pub fn stream(self) -> impl Stream<Item = Result<Frame>> + Send + 'static {
        stream::try_unfold(self, |mut source| async move {
            let frame = source.next().await?;
            Ok(frame.map(|frame| {
                source.sent_bytes.increment(frame.len() as u64);
                (frame, source)
            }))
        })
    }

    async fn next(&mut self) -> Result<Option<Frame>> {
        if !self.schema_sent {
            self.schema_sent = true;
            return self.schema().map(Some);
        }
        let piece = self.piece().await?;
        // C++ clients refuse a batch that has no body field: an empty slice writes an empty one.
        Ok(piece.map(|piece| frame(&piece.header, None, piece.body.into_iter().chain([Bytes::new()]))))
    }

    /// The next message behind the schema, as it is; `None` after the last.
    ///
    /// # Errors
    /// UNAVAILABLE that names table and part: nobody gives it. CANCELLED: the ticket's flight was.
    pub async fn piece(&mut self) -> Result<Option<Piece>> {
        while self.left != Some(0) {
            let Some(current) = &mut self.current else {
                match self.open_next().await? {
                    Some(opened) => self.current = Some(opened),
                    None => return Ok(None),
                }
                continue;
            };
            let piece = match current {
                Current::Local(part) => match part.next(self.left) {
                    Err(error) if error.code == Code::DataLoss => {
                        let given = part.batches_given();
                        self.current = Some(self.elsewhere(given, error)?);
                        continue;
                    }
                    piece => piece?,
                },
                Current::Remote(part) => part.next(self.left).await?,
            };
            match piece {
                Some(piece) => return Ok(Some(self.count(piece))),
                None => self.current = None,
            }
        }
        Ok(None)
    }

    fn schema(&self) -> Result<Frame> {
        let message = match &self.projection {
            Some(projection) => project::project_schema(&self.ticket.schema, &projection.columns)?,
            None => self.ticket.schema.clone(),
        };
        Ok(frame(&schema::flight_header(&message), None, std::iter::empty()))
    }

    fn count(&mut self, piece: Piece) -> Piece {
        if let (Some(left), Some(rows)) = (&mut self.left, piece.rows) {
            *left = left.saturating_sub(rows);
        }
        piece
    }

    async fn open_next(&mut self) -> Result<Option<Current>> {
        let Some(part) = self.ticket.parts.get(self.next_part) else { return Ok(None) };
        check_not_cancelled(&self.state, &self.ticket)?;
        self.next_part += 1;
        let id = part.id.as_ref().map_or(PartId(0), PartId::from);
        match open_here(&self.state, id).await {
            Ok(Some(found)) => {
                let local =
                    LocalPart::new(found, self.ticket.schema.clone(), self.projection.clone(), part.skip_batches);
                Ok(Some(Current::Local(local)))
            }
            Ok(None) if self.hop => Err(not_here(&self.state, &self.ticket, id)),
            Err(error) if self.hop => Err(error),
            Ok(None) => Ok(Some(self.remote(part))),
            Err(error) => {
                tracing::error!(part = %id, %error, "a part here cannot be read: taking it from another holder");
                Ok(Some(self.remote(part)))
            }
        }
    }

    /// The file of the current part went bad after so many of its batches were given: the rest comes from another holder.
    fn elsewhere(&self, given: u32, error: Error) -> Result<Current> {
        let part = self.ticket.parts.get(self.next_part.saturating_sub(1));
        let part = part.ok_or_else(|| Error::internal("a part went bad before any was opened"))?;
        let id = part.id.as_ref().map_or(PartId(0), PartId::from);
        tracing::error!(part = %id, %error, "a part went bad while it was read");
        let store = self.state.store.clone();
        // Finds out whether it is really damaged, and puts it aside then.
        tokio::task::spawn_blocking(move || store.verify(id));
        if self.hop {
            return Err(Error::unavailable(error.message));
        }
        Ok(self.remote(&TicketPart { skip_batches: given, ..part.clone() }))
    }

    fn remote(&self, part: &TicketPart) -> Current {
        Current::Remote(Box::new(RemotePart::new(self.state.clone(), &self.ticket, part)))
    }
}

/// Maps a part, if it is here.
async fn open_here(state: &Shared, id: PartId) -> Result<Option<Arc<Part>>> {
    let store = state.store.clone();
    tokio::task::spawn_blocking(move || store.part(id))
        .await
        .map_err(|e| Error::internal(format!("opening part {id} failed: {e}")))?
}

fn not_here(state: &Shared, ticket: &Ticket, id: PartId) -> Error {
    let node: NodeId = state.node();
    Error::not_found(format!("part {id} of table {:?} is not on node {node}", ticket.table.join("/")))
}
