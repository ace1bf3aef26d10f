//! A ticket into the messages of its stream, made only when they are asked for.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::{Stream, stream};
use volley_common::ipc::frame::{Frame, frame};
use volley_common::ipc::project::Projector;
use volley_common::ipc::{project, schema};
use volley_common::wire::cluster::{Columns, Ticket, TicketPart};
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

impl Piece {
    /// Bytes of its header and body.
    pub fn size(&self) -> usize {
        self.header.len() + self.body.iter().map(Bytes::len).sum::<usize>()
    }

    fn framed(self) -> Frame {
        // C++ clients refuse a batch that has no body field: an empty slice writes an empty one.
        frame(&self.header, None, self.body.into_iter().chain([Bytes::new()]))
    }
}

/// The columns that a stream has, when not all.
#[derive(Debug)]
pub struct Projection {
    /// Cuts them out of a batch.
    pub projector: Projector,
    /// The dictionaries that these columns need.
    pub dictionaries: HashSet<i64>,
}

impl Projection {
    /// `message`: the table's encapsulated schema message.
    fn new(message: &[u8], wanted: &Columns) -> Result<Self> {
        let columns: Vec<usize> = wanted.index.iter().map(|&at| at as usize).collect();
        let projector = Projector::new(schema::parse_schema(message)?, columns)?;
        let dictionaries = project::dictionary_ids(projector.schema(), projector.columns()).into_iter().collect();
        Ok(Projection { projector, dictionaries })
    }
}

/// What a stream is made from, and how far it has come.
pub struct Source {
    state: Arc<Shared>,
    /// Its schema is that of the first part that is here, if it came without: all parts of a table begin with the same.
    ticket: Ticket,
    /// Of the ticket's columns, once there is a schema.
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
    /// INVALID_ARGUMENT: the ticket has neither a schema nor a part, or asks for columns that its schema has not.
    pub fn new(state: Arc<Shared>, ticket: Ticket, hop: bool) -> Result<Self> {
        if ticket.schema.is_empty() && ticket.parts.is_empty() {
            return Err(Error::invalid("the ticket names neither a schema nor a part: call get_flight_info again"));
        }
        let mut source = Source {
            projection: None,
            left: ticket.limit,
            state,
            ticket,
            hop,
            schema_sent: false,
            next_part: 0,
            current: None,
            sent_bytes: metrics::counter!("volley_get_bytes_total"),
        };
        if !source.ticket.schema.is_empty() {
            source.project()?;
        }
        Ok(source)
    }

    /// The messages, schema first, in frames of one message, or of more that are at hand if these have no more than
    /// `bytes` together. Nothing is read before it is polled for.
    pub fn stream(self, bytes: usize) -> impl Stream<Item = Result<Frame>> + Send + 'static {
        stream::try_unfold(self, move |mut source| async move {
            let frame = source.next(bytes).await?;
            Ok(frame.map(|frame| {
                source.sent_bytes.increment(frame.len() as u64);
                (frame, source)
            }))
        })
    }

    async fn next(&mut self, bytes: usize) -> Result<Option<Frame>> {
        if !self.schema_sent {
            let header = self.schema().await?;
            self.schema_sent = true;
            return Ok(Some(frame(&header, None, std::iter::empty())));
        }
        let pieces = self.pieces(bytes).await?;
        Ok(pieces.into_iter().map(Piece::framed).reduce(|mut frame, next| {
            frame.append(next);
            frame
        }))
    }

    /// The next message behind the schema, as it is; `None` after the last.
    ///
    /// # Errors
    /// UNAVAILABLE that names table and part: nobody gives it. CANCELLED: the ticket's flight was.
    pub async fn piece(&mut self) -> Result<Option<Piece>> {
        Ok(self.pieces(0).await?.pop())
    }

    /// The next message, and those after it that are at hand, if all have no more than `bytes` together.
    async fn pieces(&mut self, bytes: usize) -> Result<Vec<Piece>> {
        while self.left != Some(0) {
            let Some(current) = &mut self.current else {
                match self.open_next().await? {
                    Some(opened) => self.current = Some(opened),
                    None => break,
                }
                continue;
            };
            let pieces = match current {
                Current::Local(part) => match part.next(bytes).await {
                    Err(error) if error.code == Code::DataLoss => {
                        let given = part.batches_given();
                        self.current = Some(self.elsewhere(given, error)?);
                        continue;
                    }
                    pieces => pieces?,
                },
                Current::Remote(part) => part.next(bytes, self.left).await?,
            };
            if pieces.is_empty() {
                self.current = None;
                continue;
            }
            let rows = pieces.iter().filter_map(|piece| piece.rows).sum();
            self.left = self.left.map(|left| left.saturating_sub(rows));
            return Ok(pieces);
        }
        self.current = None;
        Ok(Vec::new())
    }

    /// The bare flatbuffer of the stream's schema: of the ticket's, or else of what the first part begins with.
    async fn schema(&mut self) -> Result<Bytes> {
        if self.ticket.schema.is_empty() {
            self.current = self.open_next().await?;
        }
        let message = &self.ticket.schema;
        if let (Some(Current::Remote(part)), true) = (&mut self.current, message.is_empty()) {
            return part.schema(self.left).await;
        }
        match &self.projection {
            Some(projection) => {
                project::project_schema(message, projection.projector.columns()).map(|m| schema::flight_header(&m))
            }
            None => Ok(schema::flight_header(message)),
        }
    }

    /// Makes the projection of the ticket's columns, if it has any, by the ticket's schema.
    fn project(&mut self) -> Result<()> {
        if let (None, Some(wanted)) = (&self.projection, &self.ticket.columns) {
            self.projection = Some(Arc::new(Projection::new(&self.ticket.schema, wanted)?));
        }
        Ok(())
    }

    async fn open_next(&mut self) -> Result<Option<Current>> {
        let Some(part) = self.ticket.parts.get(self.next_part).cloned() else { return Ok(None) };
        check_not_cancelled(&self.state, &self.ticket)?;
        self.next_part += 1;
        let id = part.id.as_ref().map_or(PartId(0), PartId::from);
        match self.open_local(id, part.skip_batches).await {
            Ok(Some(local)) => Ok(Some(Current::Local(local))),
            Ok(None) if self.hop => Err(not_here(&self.state, &self.ticket, id)),
            Ok(None) => Ok(Some(self.remote(&part))),
            Err(error) if self.hop || error.code == Code::InvalidArgument => Err(error),
            Err(error) => {
                tracing::error!(part = %id, %error, "a part here cannot be read: taking it from another holder");
                Ok(Some(self.remote(&part)))
            }
        }
    }

    async fn open_local(&mut self, id: PartId, skip_batches: u32) -> Result<Option<LocalPart>> {
        let Some(part) = open_here(&self.state, id).await? else { return Ok(None) };
        if self.ticket.schema.is_empty() {
            self.ticket.schema = part.schema_message();
        }
        self.project()?;
        Ok(Some(LocalPart::new(part, self.projection.clone(), skip_batches, self.left)))
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

impl Drop for Source {
    /// A stream that broke off may have met a page that cannot be had: the next reader is to map the file anew.
    fn drop(&mut self) {
        let Some(Current::Local(part)) = self.current.take() else { return };
        let store = self.state.store.clone();
        let let_go = move || {
            let id = part.id();
            drop(part);
            store.evict(id);
        };
        // Unmapping takes time.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(let_go)),
            Err(_) => let_go(),
        }
    }
}

/// Maps a part, if it is here.
async fn open_here(state: &Shared, id: PartId) -> Result<Option<Arc<Part>>> {
    if let Some(opened) = state.store.cached(id) {
        return Ok(Some(opened));
    }
    let store = state.store.clone();
    tokio::task::spawn_blocking(move || store.part(id))
        .await
        .map_err(|e| Error::internal(format!("opening part {id} failed: {e}")))?
}

fn not_here(state: &Shared, ticket: &Ticket, id: PartId) -> Error {
    let node: NodeId = state.node();
    Error::not_found(format!("part {id} of table {:?} is not on node {node}", ticket.table.join("/")))
}
