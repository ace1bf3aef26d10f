//! The parts of a ticket in order: which of them are on this node, and what happens to one that is damaged.

use std::sync::Arc;

use bytes::Bytes;
use metrics::Counter;
use volley_common::ipc::project::SchemaMetadata;
use volley_common::ipc::{project, schema};
use volley_common::wire::cluster::{Ticket, TicketPart};
use volley_common::{Code, Error, PartId, Result};

use crate::context::GetContext;
use crate::storage::{Part, PartStore};

/// A verified ticket, and the position in its parts.
pub struct TicketParts {
    /// What gets use.
    pub context: Arc<GetContext>,
    /// A ticket without a schema gets the schema of the first part on this node, because all parts of a table have the
    /// same schema.
    pub ticket: Ticket,
    /// Rows that may still be sent, if there is a limit.
    pub remaining_rows: Option<u64>,
    /// The get comes from another node: only parts on this node are read.
    hop: bool,
    next_part: usize,
    /// The rows of gets; nothing if the rows are for this node.
    sent_rows: Counter,
}

impl TicketParts {
    /// Before the first part. `hop`: the get comes from another node, which does not have the part.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the ticket has neither a schema nor a part.
    pub fn new(context: Arc<GetContext>, ticket: Ticket, hop: bool) -> Result<Self> {
        if ticket.schema.is_empty() && ticket.parts.is_empty() {
            return Err(Error::invalid("the ticket names neither a schema nor a part: call get_flight_info again"));
        }
        let sent_rows = Counter::noop();
        Ok(TicketParts { context, remaining_rows: ticket.limit, ticket, hop, next_part: 0, sent_rows })
    }

    /// The rows are sent to the caller of a get: they count in the metrics.
    pub fn count_sent_rows(&mut self) {
        self.sent_rows = metrics::counter!("volley_get_rows_total");
    }

    /// Counts rows that are sent.
    pub fn count_rows(&mut self, rows: u64) {
        self.sent_rows.increment(rows);
        self.remaining_rows = self.remaining_rows.map(|remaining| remaining.saturating_sub(rows));
    }

    /// Whether the next part is to be opened: there is no reader of a `current` one. It is dropped when the limit is reached, after
    /// which no part is opened.
    pub fn needs_next<R>(&self, current: &mut Option<R>) -> bool {
        let is_at_limit = self.remaining_rows == Some(0);
        if is_at_limit {
            *current = None;
        }
        !is_at_limit && current.is_none()
    }

    /// The next part; `None` after the last.
    ///
    /// # Errors
    /// CANCELLED: the ticket's flight was cancelled.
    pub fn take_next(&mut self) -> Result<Option<TicketPart>> {
        let Some(part) = self.ticket.parts.get(self.next_part).cloned() else { return Ok(None) };
        self.context.cluster.check_not_cancelled(&self.ticket)?;
        self.next_part += 1;
        Ok(Some(part))
    }

    /// Maps a part; `None` if it is not on this node.
    ///
    /// # Errors
    /// Those of [`PartStore::part`].
    pub async fn map(&mut self, part: &TicketPart) -> Result<Option<Arc<Part>>> {
        let Some(mapped) = map_part(&self.context.store, id_of(part)).await? else { return Ok(None) };
        if self.ticket.schema.is_empty() {
            self.ticket.schema = mapped.schema_message();
        }
        Ok(Some(mapped))
    }

    /// What was opened of a part on this node; `None`: it is to be read from another holder.
    ///
    /// # Errors
    /// NOT_FOUND: it is not here, and the get comes from another node. INVALID_ARGUMENT: another holder would say the same.
    pub fn or_remote<L>(&self, part: &TicketPart, opened: Result<Option<L>>) -> Result<Option<L>> {
        let id = id_of(part);
        match opened {
            Ok(None) if self.hop => {
                let (table, node) = (self.ticket.table.join("/"), self.context.store.node());
                Err(Error::not_found(format!("part {id} of table {table:?} is not on node {node}")))
            }
            Err(error) if !self.hop && error.code != Code::InvalidArgument => {
                tracing::error!(part = %id, %error, "a local part cannot be read: reading it from another holder");
                Ok(None)
            }
            opened => opened,
        }
    }

    /// The part that was taken last: its file on this node was found to be damaged while it was read, and the rest is to be read
    /// from another holder.
    ///
    /// # Errors
    /// UNAVAILABLE: the get comes from another node, which will do that.
    pub fn report_damage(&self, error: Error) -> Result<TicketPart> {
        let part = self.ticket.parts.get(self.next_part.saturating_sub(1));
        let part = part.ok_or_else(|| Error::internal("a part was damaged before any was opened"))?;
        let id = id_of(part);
        tracing::error!(part = %id, %error, "a part could not be read to its end");
        let store = self.context.store.clone();
        // Quarantines the part if it is damaged.
        tokio::task::spawn_blocking(move || store.verify(id));
        match self.hop {
            true => Err(Error::unavailable(error.message)),
            false => Ok(part.clone()),
        }
    }

    /// Evicts a part that was not read to its end, and drops its `reader`: one of its pages may be unreadable, and the next
    /// reader must map the file again.
    pub fn evict(&self, id: PartId, reader: impl Send + 'static) {
        let store = self.context.store.clone();
        let evict = move || {
            drop(reader);
            store.evict(id);
        };
        // Unmapping takes time.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(evict)),
            Err(_) => evict(),
        }
    }

    /// The bare flatbuffer of the schema with which the ticket's stream begins. The ticket must have its schema.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it names columns that its schema does not have.
    pub fn schema_header(&self) -> Result<Bytes> {
        let ticket = &self.ticket;
        let Some(columns) = &ticket.columns else { return Ok(schema::flight_header(&ticket.schema)) };
        let metadata = match ticket.permitted_columns {
            0 => SchemaMetadata::Kept,
            _ => SchemaMetadata::Removed,
        };
        let columns: Vec<usize> = columns.index.iter().map(|&at| at as usize).collect();
        project::project_schema(&ticket.schema, &columns, metadata).map(|message| schema::flight_header(&message))
    }
}

/// The id of a part.
pub fn id_of(part: &TicketPart) -> PartId {
    part.id.as_ref().map_or(PartId(0), PartId::from)
}

/// A ticket for these parts instead, of the same table and for the same principal.
pub fn with_parts(ticket: &Ticket, parts: Vec<TicketPart>) -> Ticket {
    Ticket {
        flight: ticket.flight,
        expires_ms: ticket.expires_ms,
        table: ticket.table.clone(),
        table_id: ticket.table_id,
        version: ticket.version,
        parts,
        columns: ticket.columns.clone(),
        limit: ticket.limit,
        schema: ticket.schema.clone(),
        decompress: ticket.decompress,
        principal: ticket.principal.clone(),
        grant_epoch: ticket.grant_epoch,
        shareable: ticket.shareable,
        permitted_columns: ticket.permitted_columns,
        filter: ticket.filter.clone(),
        // It has no parts.
        query: None,
        result: ticket.result.clone(),
    }
}

/// Maps a part; `None` if it is not on this node.
///
/// # Errors
/// Those of [`PartStore::part`].
pub async fn map_part(store: &PartStore, id: PartId) -> Result<Option<Arc<Part>>> {
    if let Some(cached) = store.cached(id) {
        return Ok(Some(cached));
    }
    let store = store.clone();
    tokio::task::spawn_blocking(move || store.part(id))
        .await
        .map_err(|e| Error::internal(format!("opening part {id} failed: {e}")))?
}
