//! Signed tickets: who may redeem, cancel and renew them.

use volley_common::identity::Access;
use volley_common::options::MAX_RETENTION_S;
use volley_common::ticket::TicketKey;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{CancelFlight, DropTable, PinVersion, Role, TableSpec};
use volley_common::wire::cluster::Ticket;
use volley_common::{Code, Error, Result, clock};

use crate::catalog::Catalog;
use crate::config::CoordinatorConfig;
use crate::planner::catalog_limits::CatalogLimits;
use crate::planner::table_options::MIN_RETENTION_MS;
use crate::raft::Handle;

/// Maximum number of cancelled flights: every member has all of them in memory.
const MAX_CANCELLED: usize = 100_000;
/// For how long a cancellation is kept at most after the ticket that it was made with has expired.
const MAX_RENEWED_MS: u64 = 24 * 3_600_000;

/// Verifies, cancels and renews tickets.
#[derive(Clone)]
pub struct TicketService {
    raft: Handle,
    /// The retention of tables without one.
    retention_ms: u64,
    limits: CatalogLimits,
}

impl TicketService {
    /// Works on this catalog.
    pub fn new(raft: Handle, config: &CoordinatorConfig) -> Self {
        TicketService { raft, retention_ms: config.retention_ms, limits: config.limits }
    }

    /// Verifies a signed ticket, but not whose it is. Needs no leader: the local catalog has the key.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: damaged. PERMISSION_DENIED: forged, or of another cluster. NOT_FOUND: expired.
    /// CANCELLED: its flight was cancelled.
    pub fn verify(&self, bytes: &[u8]) -> Result<Ticket> {
        let catalog = self.raft.view();
        let ticket = ticket_key(&catalog)?.verify(bytes, clock::now_ms())?;
        if catalog.is_cancelled(ticket.flight) {
            let subject = ticket.subject();
            return Err(Error::cancelled(format!(
                "the FlightInfo of this ticket for {subject} was cancelled: call get_flight_info again"
            )));
        }
        Ok(ticket)
    }

    /// Verifies a signed ticket for a principal that may redeem it.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: damaged. PERMISSION_DENIED: forged, of another cluster, or of another principal. NOT_FOUND: expired, or
    /// the principal may not read the table any more. CANCELLED: its flight was cancelled.
    fn redeem(&self, access: &Access, bytes: &[u8]) -> Result<Ticket> {
        let ticket = self.verify(bytes)?;
        access.check_ticket(&ticket)?;
        Ok(ticket)
    }

    /// Cancels the FlightInfo of a ticket: from now on every member rejects all its tickets. For the principal that planned it,
    /// also if its rights have changed, and for administrators.
    ///
    /// # Errors
    /// As `TicketService::redeem`, but an already cancelled ticket is no error. RESOURCE_EXHAUSTED: too many flights are
    /// cancelled.
    pub async fn cancel_flight(&self, access: &Access, bytes: &[u8]) -> Result<()> {
        let ticket = match self.verify(bytes) {
            Err(error) if error.code == Code::Cancelled => return Ok(()),
            verified => verified?,
        };
        if access.require_cluster(Role::Admin).is_err() {
            require_own(access, &ticket, "cancel")?;
        }
        let cancelled = self.raft.view().cancelled().count();
        check_cancellations(cancelled)?;
        let until_ms = cancelled_until_ms(&ticket, self.raft.now_ms(), self.retention_ms);
        self.raft.propose(Op::CancelFlight(CancelFlight { flight: ticket.flight, until_ms })).await?;
        if ticket.result.is_some() {
            self.drop_result(ticket.table).await;
        }
        Ok(())
    }

    /// Ends the retention of a query's result, which no ticket gives any more.
    async fn drop_result(&self, table: Vec<String>) {
        if let Err(error) = self.raft.propose(Op::DropTable(DropTable { table })).await
            && error.code != Code::NotFound
        {
            tracing::warn!(%error, "the result of a cancelled query stays until its retention ends");
        }
    }

    /// Renews a ticket for the principal that planned it: returns it with a later expiry (milliseconds since 1970), until which
    /// its version is kept.
    ///
    /// # Errors
    /// As `TicketService::redeem`. NOT_FOUND: the version is not kept any more. INVALID_ARGUMENT: it is the ticket of a query, which
    /// has several versions, or of its result, which takes disk space that is not the client's.
    pub async fn renew_ticket(&self, access: &Access, bytes: &[u8]) -> Result<(Vec<u8>, u64)> {
        let mut ticket = self.redeem(access, bytes)?;
        require_own(access, &ticket, "renew")?;
        if ticket.query.is_some() || ticket.result.is_some() {
            return Err(Error::invalid("the ticket of a query cannot be renewed: call get_flight_info again"));
        }
        let retention_ms = {
            let catalog = self.raft.read().await?;
            let spec = catalog.table(ticket.table_id).and_then(|table| table.spec.as_ref());
            self.limits.ticket_ms(ticket_ms(spec, self.retention_ms))
        };
        let until_ms = ticket.expires_ms.max(self.raft.now_ms() + retention_ms);
        let pin = PinVersion { table: ticket.table_id, version: ticket.version, until_ms };
        self.raft.propose(Op::PinVersion(pin)).await?;
        ticket.expires_ms = until_ms;
        // Its rights were checked by the newest grants.
        let shareable = ticket.shareable;
        access.bind_ticket(&mut ticket, shareable);
        let key = ticket_key(&self.raft.view())?;
        Ok((key.sign(&ticket), until_ms))
    }
}

/// Checks that a flight can be cancelled although `cancelled` are.
///
/// # Errors
/// RESOURCE_EXHAUSTED.
fn check_cancellations(cancelled: usize) -> Result<()> {
    if cancelled < MAX_CANCELLED {
        return Ok(());
    }
    Err(Error::exhausted(format!(
        "{cancelled} FlightInfos are cancelled, which is the limit: try again when tickets of some of them have expired, or let this ticket expire"
    )))
}

/// Until when a cancellation is kept: until the ticket expires, and as long as the flight's other tickets may last that were
/// renewed, a day at most.
fn cancelled_until_ms(ticket: &Ticket, now_ms: u64, retention_ms: u64) -> u64 {
    ticket.expires_ms.max(now_ms.saturating_add(retention_ms.min(MAX_RENEWED_MS)))
}

/// Checks that a principal planned a ticket itself: a ticket that anybody may redeem can only be renewed or cancelled by who
/// planned it.
///
/// # Errors
/// UNAUTHENTICATED: the caller has not identified itself. PERMISSION_DENIED: another principal planned it.
fn require_own(access: &Access, ticket: &Ticket, verb: &str) -> Result<()> {
    access.require_identity()?;
    if access.is_open() || ticket.principal == access.name() {
        return Ok(());
    }
    Err(Error::denied(format!(
        "{:?} may not {verb} a ticket for {} that another principal planned: call get_flight_info for one of your own",
        access.name(),
        ticket.subject()
    )))
}

/// The key of the cluster's tickets, which accepts what the next key and former ones signed, too.
///
/// # Errors
/// UNAVAILABLE before the cluster is formed.
pub fn ticket_key(catalog: &Catalog) -> Result<TicketKey> {
    let key = TicketKey::new(&catalog.require_cluster()?.ticket_key);
    Ok(key.accepting(catalog.accepted_ticket_keys().map(|other| &other[..])))
}

/// How long a new ticket lasts, milliseconds: the retention. Earlier versions accepted one of 0, with which nothing could be
/// read, and one that no client can represent.
pub fn ticket_ms(spec: Option<&TableSpec>, default_ms: u64) -> u64 {
    let retention = spec.map(|spec| spec.retention_ms).filter(|ms| *ms >= MIN_RETENTION_MS);
    retention.unwrap_or(default_ms).min(MAX_RETENTION_S * 1000)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::wire::cluster::{Query, QueryResult};

    use super::*;
    use crate::service::testing::ServicesFixture;

    #[tokio::test(flavor = "multi_thread")]
    async fn ticket_of_a_query_is_cancelled_but_not_renewed() {
        let fixture = ServicesFixture::open().await;
        let (tickets, access) = (&fixture.services.tickets, Access::open());
        let expires_ms = clock::now_ms() + 600_000;
        let query = Ticket { flight: 7, expires_ms, query: Some(Query::default()), ..Ticket::default() };
        let table = vec!["query_results".into(), "1".into()];
        let result = Some(QueryResult::default());
        let result = Ticket { flight: 8, expires_ms, table, result, ..Ticket::default() };
        for ticket in [query, result] {
            let signed = ticket_key(&fixture.services.raft.view()).unwrap().sign(&ticket);
            assert_eq!(tickets.verify(&signed).unwrap(), ticket);
            let refused = tickets.renew_ticket(&access, &signed).await.unwrap_err();
            assert!(refused.code == Code::InvalidArgument && refused.message.contains("get_flight_info"), "{refused}");
            tickets.cancel_flight(&access, &signed).await.unwrap();
            assert_eq!(tickets.verify(&signed).unwrap_err().code, Code::Cancelled);
        }
    }

    #[test]
    fn number_of_cancelled_flights_is_limited() {
        assert!(check_cancellations(MAX_CANCELLED - 1).is_ok());
        let refused = check_cancellations(MAX_CANCELLED);
        assert!(refused.is_err_and(|error| error.code == Code::ResourceExhausted && error.message.contains("100000")));
    }

    #[test]
    fn cancellation_outlives_renewed_tickets_by_a_day_at_most() {
        let until_ms = |expires_ms, retention_ms| {
            cancelled_until_ms(&Ticket { expires_ms, ..Ticket::default() }, 1_000, retention_ms)
        };
        assert_eq!((until_ms(5_000, 60_000), until_ms(99_000, 60_000)), (61_000, 99_000));
        assert_eq!(until_ms(5_000, u64::MAX), 1_000 + MAX_RENEWED_MS);
    }
}
