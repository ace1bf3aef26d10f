//! Tickets and principals: a ticket says for whom it was planned and by which epoch of the grants, and is checked again when it
//! is redeemed.

use std::collections::BTreeSet;

use super::rights::{PrincipalRights, columns_hash, columns_of, permit};
use super::{Access, AccessKind, missing_table};
use crate::wire::catalog::{Grant, Role};
use crate::wire::cluster::Ticket;
use crate::{Error, Result};

impl Access {
    /// Fills a ticket's `principal`, `grant_epoch`, `shareable` and `permitted_columns`. Its table must be set. `shareable`:
    /// whether the table's option says that everybody may redeem its tickets. The ticket of a query, which has no table, and that of
    /// its result are never shareable. What the principal may see of the tables of the latter, the ticket says of each.
    pub fn bind_ticket(&self, ticket: &mut Ticket, shareable: bool) {
        ticket.principal = self.name().to_string();
        ticket.grant_epoch = self.epoch();
        if ticket.query.is_some() || ticket.result.is_some() {
            (ticket.shareable, ticket.permitted_columns) = (false, 0);
            return;
        }
        // What nobody has planned, nobody may share.
        ticket.shareable = (shareable || self.shareable_tickets) && !matches!(self.caller, AccessKind::Anonymous);
        ticket.permitted_columns = self.permitted_columns_hash(&ticket.table);
    }

    /// Checks that the caller may redeem a verified ticket.
    ///
    /// It may redeem its own tickets, and those that are shareable: their holders got them from somebody who may read the
    /// table, so that one job can plan a read and others, which need no grants, fetch it. If the grants changed after the ticket
    /// was planned, the caller's rights are checked again; for a shareable ticket those of its planner suffice.
    ///
    /// The ticket of a query is for its own principal alone, whatever the settings say. Here nothing else of it is checked: its
    /// tables are planned again when the query runs, by the rights that its caller has then. The ticket of its result is for that
    /// principal, too, while it may read what the query read.
    ///
    /// # Errors
    /// UNAUTHENTICATED: the caller is nobody. PERMISSION_DENIED: the ticket is another principal's, or the rights have changed
    /// since. NOT_FOUND: the caller may no longer read the table.
    pub fn check_ticket(&self, ticket: &Ticket) -> Result<()> {
        let Some(rights) = self.checked_rights()? else { return Ok(()) };
        let is_own = rights.principal().name == ticket.principal;
        if ticket.query.is_some() || ticket.result.is_some() {
            return if is_own { check_sources(rights, ticket) } else { Err(another_planned(rights, ticket)) };
        }
        if !is_own && !ticket.shareable && !self.shareable_tickets {
            return Err(another_planned(rights, ticket));
        }
        // A coordinator planned it by these grants, or by later ones that this member does not have yet.
        if ticket.grant_epoch >= rights.directory().epoch() {
            return Ok(());
        }
        match remaining_right(rights.grants_on(&ticket.table), &ticket.table, ticket.permitted_columns) {
            TicketRight::Complete => Ok(()),
            _ if !is_own && is_planner_permitted(rights, ticket) => Ok(()),
            TicketRight::Changed => Err(columns_changed(rights, &ticket.table)),
            TicketRight::None => Err(missing_table(&ticket.table)),
        }
    }

    /// The names of the columns that a verified ticket may be about, which [`Access::check_ticket`] has permitted: those that its
    /// planner may see. `None`: all.
    ///
    /// # Errors
    /// UNAUTHENTICATED: the caller is nobody. UNAVAILABLE: this member does not yet have the grants by which the ticket was
    /// planned. PERMISSION_DENIED: they have changed since.
    pub fn ticket_columns(&self, ticket: &Ticket) -> Result<Option<BTreeSet<String>>> {
        let Some(rights) = self.checked_rights()? else { return Ok(None) };
        if ticket.permitted_columns == 0 {
            return Ok(None);
        }
        let directory = rights.directory();
        // Whoever may see all columns learns nothing by the ticket.
        let Some(own) = columns_of(rights.grants_on(&ticket.table), &ticket.table) else { return Ok(None) };
        let planner: Vec<usize> = directory.positions_of(&ticket.principal, &[]).collect();
        let planner = columns_of(planner.iter().map(|at| directory.grant(*at)), &ticket.table);
        let mut known = [Some(own), planner].into_iter().flatten();
        if let Some(columns) = known.find(|columns| columns_hash(Some(columns)) == ticket.permitted_columns) {
            return Ok(Some(columns.into_iter().map(String::from).collect()));
        }
        let table = ticket.table.join("/");
        Err(match ticket.grant_epoch > directory.epoch() {
            true => Error::unavailable(format!(
                "this member does not have the grants yet by which the ticket for table {table:?} was planned: try again"
            )),
            false => Error::denied(format!(
                "the columns of table {table:?} that the ticket was planned for have changed since: call get_flight_info again"
            )),
        })
    }
}

/// What grants permit of a ticket that was planned by earlier ones.
enum TicketRight {
    /// To read all that it was planned for.
    Complete,
    /// To read other columns.
    Changed,
    None,
}

/// `permitted_columns`: those of the table by which it was planned.
fn remaining_right<'a>(
    grants: impl Iterator<Item = &'a Grant> + Clone,
    table: &[String],
    permitted_columns: u64,
) -> TicketRight {
    if !permit(grants.clone(), Role::Reader, table) {
        return TicketRight::None;
    }
    match columns_of(grants, table) {
        None => TicketRight::Complete,
        some if columns_hash(some.as_ref()) == permitted_columns => TicketRight::Complete,
        Some(_) => TicketRight::Changed,
    }
}

/// Checks that the principal of a query's result may still read what the query read, if the grants have changed since.
fn check_sources(rights: &PrincipalRights, ticket: &Ticket) -> Result<()> {
    let Some(result) = ticket.result.as_ref().filter(|_| ticket.grant_epoch < rights.directory().epoch()) else {
        return Ok(());
    };
    result.sources.iter().try_for_each(|source| {
        match remaining_right(rights.grants_on(&source.table), &source.table, source.permitted_columns) {
            TicketRight::Complete => Ok(()),
            TicketRight::Changed => Err(columns_changed(rights, &source.table)),
            TicketRight::None => Err(missing_table(&source.table)),
        }
    })
}

fn columns_changed(rights: &PrincipalRights, table: &[String]) -> Error {
    Error::denied(format!(
        "the columns of table {:?} that {:?} may read have changed since the ticket was planned: call get_flight_info again",
        table.join("/"),
        rights.principal().name
    ))
}

/// Whether the planner of a ticket may still read what it planned, as far as its name and its groups in the catalog say: groups
/// that only its token claimed are not known here.
fn is_planner_permitted(rights: &PrincipalRights, ticket: &Ticket) -> bool {
    let directory = rights.directory();
    let positions: Vec<usize> = directory.positions_of(&ticket.principal, &[]).collect();
    let grants = positions.iter().map(|at| directory.grant(*at));
    matches!(remaining_right(grants, &ticket.table, ticket.permitted_columns), TicketRight::Complete)
}

fn another_planned(rights: &PrincipalRights, ticket: &Ticket) -> Error {
    let (subject, name) = (ticket.subject(), &rights.principal().name);
    let planner = match ticket.principal.as_str() {
        "" => "before this cluster had users".to_string(),
        planner => format!("for {planner:?}"),
    };
    let or_share = match ticket.query.is_some() || ticket.result.is_some() {
        true => "",
        false => ", or put the table with shareable_tickets, which lets others redeem its tickets",
    };
    Error::denied(format!(
        "the ticket for {subject} was planned {planner}, and {name:?} presents it: call get_flight_info again{or_share}"
    ))
}

#[cfg(test)]
mod tests;
