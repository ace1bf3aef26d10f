//! Reads: what a client is offered, and the tickets that it comes back with.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use volley_common::ipc::project::project_schema;
use volley_common::ipc::schema::parse_schema;
use volley_common::listen::host_port;
use volley_common::options::{Options, TableRequest};
use volley_common::ticket::TicketSigner;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{CancelFlight, DescriptorKind, Node, PinVersion, Table};
use volley_common::wire::cluster::{Columns, Ticket};
use volley_common::{Code, Error, NodeId, PartId, Result, TableName, clock};

use super::via::{Locations, Via};
use super::{Service, need_nodes, ticket_key};
use crate::catalog::Catalog;
use crate::plan::Plan;
use crate::raft::CatalogView;

/// A table as it is offered to a reader: one version, cut into endpoints.
pub struct Offer {
    /// The table's name.
    pub name: Vec<String>,
    /// The version that all endpoints together are.
    pub version: u64,
    /// The schema message that every stream begins with: of the chosen columns.
    pub schema: Bytes,
    /// Streams that can be fetched in parallel.
    pub plan: Arc<Plan>,
    /// Signs their tickets.
    pub signer: TicketSigner,
    /// The way by which the client came.
    pub via: Via,
    /// Which of equal locations comes first.
    pub rotation: usize,
    /// Bytes of all endpoints' parts, all columns; unknown if only some columns or rows are wanted.
    pub bytes: Option<u64>,
    /// Whether the endpoints one after the other are the rows in order.
    pub ordered: bool,
    /// Until when the tickets are good, milliseconds since 1970.
    pub expires_ms: u64,
}

/// A table as it is listed.
pub struct Listed {
    /// The table's row.
    pub table: Table,
    /// Its name.
    pub name: TableName,
    /// How it was named when it was made.
    pub kind: DescriptorKind,
}

/// What is read: a version, and which of its columns.
struct Target {
    version: u64,
    columns: Option<Vec<usize>>,
    schema: Bytes,
    expires_ms: u64,
}

impl Service {
    /// Offers a table to a reader.
    ///
    /// # Errors
    /// NOT_FOUND: no such table or version. INVALID_ARGUMENT: a column that it does not have.
    /// UNAVAILABLE: a shard without a live holder, or no leader.
    pub async fn offer(&self, request: &TableRequest, via: &Via) -> Result<Offer> {
        self.raft.read_with(|catalog| self.offer_of(&catalog, request, via)).await?
    }

    fn offer_of(&self, catalog: &Catalog, request: &TableRequest, via: &Via) -> Result<Offer> {
        let (options, table) = (&request.options, catalog.require_table(&request.name)?);
        let target = self.target(catalog, table, options)?;
        let most = match via.locations {
            Locations::Single => 1,
            Locations::Direct | Locations::Proxy => {
                options.max_endpoints.unwrap_or(u32::MAX).min(self.config.max_endpoints).max(1)
            }
        };
        let plan = self.plan(catalog, table, &target, (most as usize, options.limit), &via.listener)?;
        let whole = options.limit.is_none() && target.columns.is_none();
        Ok(Offer {
            name: table.name.clone(),
            version: target.version,
            signer: signer(catalog, table, &target, &plan)?,
            via: via.clone(),
            rotation: self.rotation(),
            bytes: whole.then_some(plan.bytes),
            ordered: table.spec.as_ref().is_none_or(|spec| spec.shard_by.is_empty()),
            expires_ms: target.expires_ms,
            schema: target.schema,
            plan,
        })
    }

    /// One signed ticket for all of a table.
    ///
    /// # Errors
    /// As [`Service::offer`].
    pub async fn whole(&self, name: &TableName, options: &Options) -> Result<Vec<u8>> {
        let ticket = |catalog: CatalogView| {
            let table = catalog.require_table(name)?;
            let target = self.target(&catalog, table, options)?;
            // The locations are of no account: the first listener's plan is likeliest to be kept.
            let listener = self.entries.first().map_or_else(|| "".into(), |first| first.name.clone());
            let plan = self.plan(&catalog, table, &target, (1, options.limit), &listener)?;
            let tail = plan.endpoints.first().map_or(&[][..], |all| &all.tail);
            Ok(signer(&catalog, table, &target, &plan)?.ticket(tail))
        };
        self.raft.read_with(ticket).await?
    }

    /// The schema message of a table, of the chosen columns.
    ///
    /// # Errors
    /// NOT_FOUND: no such table. INVALID_ARGUMENT: a column that it does not have.
    pub async fn schema(&self, request: &TableRequest) -> Result<Bytes> {
        let catalog = self.raft.read().await?;
        let table = catalog.require_table(&request.name)?;
        Ok(columns(table, &request.options)?.1)
    }

    /// The tables whose names begin with `prefix`.
    pub async fn list(&self, prefix: &str) -> Result<Vec<Listed>> {
        let catalog = self.raft.read().await?;
        let mut listed = Vec::new();
        for table in catalog.tables() {
            let name = TableName::from_components(&table.name)?;
            if name.to_string().starts_with(prefix) {
                let kind = DescriptorKind::try_from(table.kind).unwrap_or_default();
                listed.push(Listed { table: table.clone(), name, kind });
            }
        }
        Ok(listed)
    }

    fn plan(
        &self,
        catalog: &Catalog,
        table: &Table,
        target: &Target,
        (most, limit): (usize, Option<u64>),
        listener: &Arc<str>,
    ) -> Result<Arc<Plan>> {
        need_nodes(catalog)?;
        self.plans.plan(catalog, table, target.version, most, limit, listener)
    }

    fn target(&self, catalog: &Catalog, table: &Table, options: &Options) -> Result<Target> {
        let now_ms = clock::now_ms();
        let version = catalog.readable_version(table, options.version, now_ms)?;
        let (columns, schema) = columns(table, options)?;
        Ok(Target {
            version,
            columns,
            schema,
            expires_ms: expires_ms(table, version, now_ms, self.config.retention_ms),
        })
    }

    /// Verifies a signed ticket that came back. Needs no leader: the key is at hand.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: damaged. PERMISSION_DENIED: forged, or of another cluster. NOT_FOUND: expired.
    /// CANCELLED: its flight was cancelled.
    pub fn open_ticket(&self, bytes: &[u8]) -> Result<Ticket> {
        let catalog = self.raft.view();
        let ticket = ticket_key(&catalog)?.verify(bytes, clock::now_ms())?;
        if catalog.cancelled().any(|cancelled| cancelled.flight == ticket.flight) {
            return Err(Error::cancelled(format!(
                "the flight of this ticket for table {:?} was cancelled: call get_flight_info again",
                ticket.table.join("/")
            )));
        }
        Ok(ticket)
    }

    /// Flight addresses (HOST:PORT) of live nodes for a ticket: holders of its first part first, then the others, which
    /// fetch from holders.
    ///
    /// # Errors
    /// UNAVAILABLE: no node is alive.
    pub fn redeemers(&self, ticket: &Ticket) -> Result<Vec<String>> {
        let catalog = self.raft.view();
        let turn = self.rotation() % need_nodes(&catalog)?;
        let mut live: Vec<&Node> = catalog.nodes().filter(|node| node.is_alive()).collect();
        live.rotate_left(turn);
        let holders: Vec<u64> = match ticket.parts.first() {
            Some(first) => {
                let id = first.id.as_ref().map_or(PartId(0), PartId::from);
                catalog.part(id).map_or_else(|| first.holders.clone(), |part| part.holders.to_vec())
            }
            None => Vec::new(),
        };
        // Ill nodes come last; for a put (which has no holders yet) those that take no parts do, too.
        live.sort_by_key(|node| {
            (!holders.contains(&node.id), !node.is_writable() && holders.is_empty(), node.is_degraded())
        });
        Ok(live.iter().map(|node| host_port(&node.flight_uri).to_string()).collect())
    }

    /// Flight addresses (HOST:PORT) of the live nodes, a different one first each time.
    ///
    /// # Errors
    /// UNAVAILABLE: no node is alive.
    pub fn any_nodes(&self) -> Result<Vec<String>> {
        self.redeemers(&Ticket::default())
    }

    /// Refuses all tickets of the flight that `ticket` is of, from now on and at every member.
    ///
    /// # Errors
    /// As [`Service::open_ticket`], but a ticket that is cancelled already is no error.
    pub async fn cancel(&self, ticket: &[u8]) -> Result<()> {
        let opened = match self.open_ticket(ticket) {
            Err(error) if error.code == Code::Cancelled => return Ok(()),
            opened => opened?,
        };
        // A renewed endpoint lives longer than the others: remember the flight as long as any may.
        let until_ms = opened.expires_ms.max(clock::now_ms() + self.config.retention_ms);
        self.raft.propose(Op::CancelFlight(CancelFlight { flight: opened.flight, until_ms })).await?;
        Ok(())
    }

    /// The same ticket with a later expiry, milliseconds since 1970; its version is kept until then.
    ///
    /// # Errors
    /// As [`Service::open_ticket`]; NOT_FOUND: the version is gone.
    pub async fn renew(&self, ticket: &[u8]) -> Result<(Vec<u8>, u64)> {
        let mut opened = self.open_ticket(ticket)?;
        let retention_ms = {
            let catalog = self.raft.read().await?;
            let spec = catalog.table(opened.table_id).and_then(|table| table.spec.as_ref());
            spec.map_or(self.config.retention_ms, |spec| spec.retention_ms.max(1))
        };
        let until_ms = opened.expires_ms.max(clock::now_ms() + retention_ms);
        let pin = PinVersion { table: opened.table_id, version: opened.version, until_ms };
        self.raft.propose(Op::PinVersion(pin)).await?;
        opened.expires_ms = until_ms;
        let key = ticket_key(&self.raft.view())?;
        Ok((key.sign(&opened), until_ms))
    }
}

/// Signs the tickets of one answer. They have the schema only where there is no part that begins with it.
fn signer(catalog: &Catalog, table: &Table, target: &Target, plan: &Plan) -> Result<TicketSigner> {
    let index = |columns: &Vec<usize>| columns.iter().map(|at| *at as u32).collect();
    let schema = if plan.has_parts() { Bytes::new() } else { table.schema.clone() };
    Ok(ticket_key(catalog)?.signer(&Ticket {
        flight: rand::random(),
        expires_ms: target.expires_ms,
        table: table.name.clone(),
        table_id: table.id,
        version: target.version,
        columns: target.columns.as_ref().map(|columns| Columns { index: index(columns) }),
        schema,
        ..Ticket::default()
    }))
}

/// The wanted columns' indexes and the schema message of just them.
fn columns(table: &Table, options: &Options) -> Result<(Option<Vec<usize>>, Bytes)> {
    let Some(wanted) = &options.columns else { return Ok((None, table.schema.clone())) };
    let schema = parse_schema(&table.schema)?;
    let find = |name: &String| {
        schema.index_of(name).map_err(|_| {
            let has: Vec<&str> = schema.fields().iter().take(50).map(|field| field.name().as_str()).collect();
            Error::invalid(format!(
                "table {:?} has no column {name:?}; it has {}",
                table.name.join("/"),
                has.join(", ")
            ))
        })
    };
    let indexes = wanted.iter().map(find).collect::<Result<Vec<usize>>>()?;
    let mut seen = BTreeSet::new();
    if let Some(twice) = indexes.iter().find(|at| !seen.insert(**at)) {
        return Err(Error::invalid(format!("the column {:?} is asked for twice", schema.field(*twice).name())));
    }
    let message = project_schema(&table.schema, &indexes)?;
    Ok((Some(indexes), message))
}

/// Until when a ticket for this version can be kept: the newest for as long as replaced parts stay, an older one until
/// its parts go.
fn expires_ms(table: &Table, version: u64, now_ms: u64, default_ms: u64) -> u64 {
    let retention = table.spec.as_ref().map_or(default_ms, |spec| spec.retention_ms);
    let newest = now_ms.saturating_add(retention.max(1));
    let Some(end) = table.replaced.iter().find(|replaced| replaced.version > version) else { return newest };
    let pins = table.pins.iter().filter(|pin| pin.version == version);
    pins.map(|pin| pin.until_ms).fold(end.until_ms, u64::max).min(newest)
}

/// Ids of the nodes that were heard from lately.
pub fn live_ids(catalog: &Catalog) -> BTreeSet<NodeId> {
    catalog.nodes().filter(|node| node.is_alive()).map(|node| NodeId(node.id)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::wire::catalog::{Pin, Replaced, TableSpec};

    use super::*;

    fn table() -> Table {
        Table {
            version: 5,
            spec: Some(TableSpec { retention_ms: 1000, ..TableSpec::default() }),
            replaced: [(3, 700), (5, 900)]
                .map(|(version, until_ms)| Replaced { version, until_ms, compaction: false })
                .into(),
            ..Table::default()
        }
    }

    #[test]
    fn the_newest_version_is_offered_for_the_retention() {
        assert_eq!(expires_ms(&table(), 5, 100, 7), 1100);
    }

    #[test]
    fn a_replaced_version_is_offered_until_its_parts_go() {
        assert_eq!(expires_ms(&table(), 4, 100, 7), 900);
        assert_eq!(expires_ms(&table(), 2, 100, 7), 700);
        let pinned = Table { pins: vec![Pin { version: 2, until_ms: 800 }], ..table() };
        assert_eq!(expires_ms(&pinned, 2, 100, 7), 800);
        assert_eq!(expires_ms(&pinned, 4, 100, 7), 900);
    }
}
