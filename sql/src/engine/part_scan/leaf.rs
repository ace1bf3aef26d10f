//! A scan as the leaf of tasks on other nodes: split into the parts of each task, and as a message that other nodes can read.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::Field;
use bytes::Bytes;
use datafusion::error::Result;
use datafusion::physical_plan::ExecutionPlan;
use volley_common::ipc::schema::{parse_schema, schema_message};
use volley_common::wire::cluster::{PartScanLeaf, Ticket, TicketPart};
use volley_common::{Error, NodeId, TableName};

use super::{PartScanExec, groups};
use crate::predicate::Predicate;
use crate::source::{PlannedPart, PlannedTable, TableSharding, TableSource};

impl PartScanExec {
    /// The parts, with their holders.
    pub(in crate::engine) fn ticket_parts(&self) -> &[TicketPart] {
        &self.table.ticket.parts
    }

    /// How the rows are distributed over the parts. A scan of a task does not know it.
    pub(in crate::engine) fn sharding(&self) -> Option<&TableSharding> {
        self.table.sharding.as_ref()
    }

    /// The table's column that is the column `at` of the rows.
    pub(in crate::engine) fn table_column(&self, at: usize) -> Option<&Field> {
        self.columns.get(at).map(|column| self.table.schema.field(*column))
    }

    /// Whether it may leave out rows that its filter selects, because others are enough.
    pub(in crate::engine) fn has_limit(&self) -> bool {
        self.limit.is_some()
    }

    /// How many partitions it has.
    pub(in crate::engine) fn partition_count(&self) -> usize {
        self.groups.len()
    }

    /// Bytes of its parts, about, with all columns.
    pub(in crate::engine) fn table_bytes(&self) -> u64 {
        self.table.about_bytes()
    }

    /// A scan for each task, of these parts (indexes) and on this node. Each has as many partitions as this one.
    pub(in crate::engine) fn split(
        &self,
        assigned: &[Vec<usize>],
        nodes: &[NodeId],
    ) -> Result<Vec<Arc<dyn ExecutionPlan>>> {
        let mut common = self.table.ticket.as_ref().clone();
        let parts = std::mem::take(&mut common.parts);
        let scan_of = |(own, node): (&Vec<usize>, &NodeId)| -> Result<Arc<dyn ExecutionPlan>> {
            let own: Vec<TicketPart> = own.iter().filter_map(|at| parts.get(*at).cloned()).collect();
            let planned: Vec<PlannedPart> = own.iter().map(planned_part).collect();
            let mut partitions = groups(&planned, self.groups.len());
            partitions.resize(self.groups.len(), planned.len()..planned.len());
            let rows = planned.iter().map(|part| part.rows).sum();
            let table = PlannedTable {
                name: self.table.name.clone(),
                version: self.table.version,
                schema: self.table.schema.clone(),
                parts: planned,
                rows,
                bytes: share(self.table.bytes, rows, self.table.rows),
                ticket: Arc::new(Ticket { parts: own, ..common.clone() }),
                sharding: None,
            };
            let (columns, filter) = (self.columns.clone(), self.filter.clone());
            let scan =
                Self::with_groups(self.source.clone(), Arc::new(table), partitions, columns, filter, self.limit)?;
            let (all_parts, pruned_parts) = (self.all_parts, self.pruned_parts);
            Ok(Arc::new(PartScanExec { node: Some(*node), all_parts, pruned_parts, ..scan }))
        };
        assigned.iter().zip(nodes).map(scan_of).collect()
    }

    /// The message for another node. `sign` signs the ticket.
    ///
    /// # Errors
    /// Those of `sign`. INVALID_ARGUMENT: a schema that cannot be sent.
    pub(in crate::engine) fn to_leaf(
        &self,
        sign: impl FnOnce(&Ticket) -> volley_common::Result<Bytes>,
    ) -> volley_common::Result<PartScanLeaf> {
        Ok(PartScanLeaf {
            ticket: sign(&self.table.ticket)?,
            visible_schema: schema_message(&self.table.schema)?,
            bytes: self.table.bytes,
            columns: self.columns.iter().map(|column| *column as u64).collect(),
            filter: self.filter.as_ref().map(|filter| filter.text().to_string()).unwrap_or_default(),
            limit: self.limit.map(|rows| rows as u64),
            partition_ends: self.groups.iter().map(|group| group.end as u64).collect(),
            node: self.node.map_or(0, |node| node.0),
            all_parts: self.all_parts as u64,
            pruned_parts: self.pruned_parts as u64,
        })
    }

    /// The scan of a message, whose ticket is verified.
    ///
    /// # Errors
    /// INTERNAL: the message contradicts itself. INVALID_ARGUMENT: it has a wrong schema or filter.
    pub(in crate::engine) fn of_leaf(
        leaf: &PartScanLeaf,
        ticket: Ticket,
        source: Arc<dyn TableSource>,
    ) -> volley_common::Result<Self> {
        let schema = parse_schema(&leaf.visible_schema)?;
        let filter = match leaf.filter.as_str() {
            "" => None,
            text => Some(Predicate::parse(text, &schema)?),
        };
        let parts: Vec<PlannedPart> = ticket.parts.iter().map(planned_part).collect();
        let partitions = partitions(&leaf.partition_ends, parts.len())
            .ok_or_else(|| Error::internal("the partitions of a leaf do not have its parts"))?;
        let columns = leaf.columns.iter().map(|column| usize::try_from(*column).unwrap_or(usize::MAX)).collect();
        let limit = leaf.limit.map(|rows| usize::try_from(rows).unwrap_or(usize::MAX));
        let table = PlannedTable {
            name: TableName::from_components(&ticket.table)?,
            version: ticket.version,
            schema,
            rows: parts.iter().map(|part| part.rows).sum(),
            parts,
            bytes: leaf.bytes,
            ticket: Arc::new(ticket),
            sharding: None,
        };
        let scan = Self::with_groups(source, Arc::new(table), partitions, columns, filter, limit)
            .map_err(crate::fault::from_datafusion)?;
        Ok(PartScanExec {
            node: (leaf.node != 0).then_some(NodeId(leaf.node)),
            all_parts: usize::try_from(leaf.all_parts).unwrap_or(usize::MAX),
            pruned_parts: usize::try_from(leaf.pruned_parts).unwrap_or(usize::MAX),
            ..scan
        })
    }
}

fn planned_part(part: &TicketPart) -> PlannedPart {
    PlannedPart { rows: part.rows }
}

/// The runs of parts that end there; `None`: they are not those of so many parts.
fn partitions(ends: &[u64], parts: usize) -> Option<Vec<Range<usize>>> {
    let mut start = 0;
    let mut runs = Vec::with_capacity(ends.len());
    for end in ends {
        let end = usize::try_from(*end).ok().filter(|end| (start..=parts).contains(end))?;
        runs.push(start..end);
        start = end;
    }
    (start == parts && !runs.is_empty()).then_some(runs)
}

/// The bytes of `rows` of `all_rows` that have `bytes`.
fn share(bytes: u64, rows: u64, all_rows: u64) -> u64 {
    let share = u128::from(bytes) * u128::from(rows) / u128::from(all_rows.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_runs_that_have_all_parts() {
        assert_eq!(partitions(&[2, 2, 3], 3), Some(vec![0..2, 2..2, 2..3]));
        assert_eq!(partitions(&[0], 0), Some(vec![Range { start: 0, end: 0 }]));
        for (ends, parts) in [(&[][..], 0), (&[2][..], 3), (&[4][..], 3), (&[2, 1][..], 2), (&[u64::MAX][..], 2)] {
            assert_eq!(partitions(ends, parts), None, "{ends:?} of {parts}");
        }
    }

    #[test]
    fn share_of_bytes_never_overflows() {
        assert_eq!(share(100, 1, 4), 25);
        assert_eq!(share(u64::MAX, u64::MAX, 1), u64::MAX);
        assert_eq!(share(100, 0, 0), 0);
    }
}
