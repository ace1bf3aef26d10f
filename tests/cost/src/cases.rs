//! The cases: the measured member, its work, and the rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

/// Columns of the reference table.
const FLOATS: usize = 64;
/// Columns of the table of strings.
const STRINGS: usize = 8;
/// Bytes of one row of strings: of a value 12 on average, 4 of its offset.
const STRING_ROW: usize = STRINGS * 16;
/// Rows of a message as many clients split tables in `write_table`.
const LARGE: usize = 64 << 10;
/// Rows of the reference table that make 1 MiB.
const MIB: usize = (1 << 20) / (FLOATS * 8);

/// A member of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CostMember {
    /// The coordinator.
    Coordinator,
    /// The node that is measured when a node is.
    Node,
    /// The other one.
    OtherNode,
}

/// Which nodes hold a table's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DataPlacement {
    /// On the measured node.
    Node,
    /// On the other one.
    OtherNode,
    /// On both.
    Both,
}

/// Rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TestData {
    /// 64 columns of float64: the reference table.
    Floats,
    /// 8 columns of short strings.
    Strings,
}

/// The requests of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CostWork {
    /// One put of this many times the rows, in messages of this many rows.
    Put { times: usize, rows: usize },
    /// This many gets, one after another, of these columns; all if none is named.
    Get { times: usize, columns: &'static [&'static str] },
}

/// One figure of the report.
#[derive(Clone, Copy, Debug)]
pub struct CostCase {
    /// Its name, also in `bounds.toml`.
    pub name: &'static str,
    /// A description of the case.
    pub about: &'static str,
    /// The member whose cost is measured.
    pub measured: CostMember,
    /// The member that the client calls.
    pub asked: CostMember,
    /// The rows that are moved.
    pub data: TestData,
    /// The nodes that hold the rows.
    pub home: DataPlacement,
    /// The requests.
    pub work: CostWork,
}

/// All cases. Cheap ones are repeated, so that the background work of a member does not show.
pub const CASES: &[CostCase] = &[
    CostCase { name: "get", about: "64 float64 columns", ..GET },
    CostCase {
        name: "get-columns",
        about: "3 of the 64 columns",
        work: CostWork::Get { times: 16, columns: &["c3", "c30", "c60"] },
        ..GET
    },
    CostCase { name: "get-strings", about: "8 columns of short strings", data: TestData::Strings, ..GET },
    CostCase { name: "get-remote", about: "of rows on another node", home: DataPlacement::OtherNode, ..GET },
    CostCase { name: "put", about: "64 float64 columns, messages of 32 MiB", ..PUT },
    CostCase {
        name: "put-1mib",
        about: "the same in messages of 1 MiB",
        work: CostWork::Put { times: 1, rows: MIB },
        ..PUT
    },
    CostCase { name: "put-strings", about: "8 columns of short strings", data: TestData::Strings, ..PUT },
    CostCase {
        name: "put-copy",
        about: "the second copy of a put to another node",
        asked: CostMember::OtherNode,
        home: DataPlacement::Both,
        ..PUT
    },
    CostCase {
        name: "get-proxied",
        about: "through a coordinator",
        measured: CostMember::Coordinator,
        asked: CostMember::Coordinator,
        work: CostWork::Get { times: 16, columns: &[] },
        ..GET
    },
    CostCase {
        name: "put-proxied",
        about: "through a coordinator",
        measured: CostMember::Coordinator,
        asked: CostMember::Coordinator,
        work: CostWork::Put { times: 4, rows: MIB },
        ..PUT
    },
];

const GET: CostCase = CostCase {
    name: "",
    about: "",
    measured: CostMember::Node,
    asked: CostMember::Node,
    data: TestData::Floats,
    home: DataPlacement::Node,
    work: CostWork::Get { times: 8, columns: &[] },
};

const PUT: CostCase = CostCase { work: CostWork::Put { times: 1, rows: LARGE }, ..GET };

impl CostCase {
    /// The beginning of its table's name: cases that read share a table, because its rows stay the same.
    pub fn table(&self) -> String {
        let kind = if self.reads() { "get" } else { "put" };
        format!("{kind}-{:?}-{:?}", self.data, self.home).to_lowercase()
    }

    /// Whether it reads.
    pub fn reads(&self) -> bool {
        matches!(self.work, CostWork::Get { .. })
    }
}

impl TestData {
    /// About `bytes` bytes of rows, in batches of `rows` rows.
    pub fn batches(self, bytes: usize, rows: usize) -> Vec<RecordBatch> {
        let all = (bytes / self.row_bytes()).max(1);
        (0..all).step_by(rows).map(|start| self.batch(start, rows.min(all - start))).collect()
    }

    /// The batches that a table is filled with before it is read.
    pub fn filling(self, bytes: usize) -> Vec<RecordBatch> {
        self.batches(bytes, LARGE)
    }

    /// Its schema.
    pub fn schema(self) -> SchemaRef {
        let (columns, kind) = match self {
            TestData::Floats => (FLOATS, DataType::Float64),
            TestData::Strings => (STRINGS, DataType::Utf8),
        };
        let field = |at| Field::new(format!("c{at}"), kind.clone(), true);
        Arc::new(Schema::new((0..columns).map(field).collect::<Vec<_>>()))
    }

    fn row_bytes(self) -> usize {
        match self {
            TestData::Floats => FLOATS * 8,
            TestData::Strings => STRING_ROW,
        }
    }

    fn batch(self, start: usize, rows: usize) -> RecordBatch {
        let schema = self.schema();
        let columns = (0..schema.fields().len()).map(|column| self.column(column, start..start + rows)).collect();
        RecordBatch::try_new(schema, columns).unwrap()
    }

    fn column(self, column: usize, rows: std::ops::Range<usize>) -> ArrayRef {
        match self {
            TestData::Floats => {
                Arc::new(Float64Array::from_iter_values(rows.map(|row| (row * FLOATS + column) as f64)))
            }
            TestData::Strings => Arc::new(StringArray::from_iter_values(rows.map(|row| text(row + column)))),
        }
    }
}

/// 8 to 16 characters.
fn text(number: usize) -> String {
    format!("{number:0width$}", width = 8 + number % 9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_requested_size() {
        for data in [TestData::Floats, TestData::Strings] {
            let batches = data.batches(1 << 20, 1000);
            let columns = batches.iter().flat_map(RecordBatch::columns);
            let bytes: usize = columns.map(|column| column.to_data().get_slice_memory_size().unwrap()).sum();
            assert!((7 << 17..9 << 17).contains(&bytes), "{data:?}: {bytes}");
            assert!(batches.iter().all(|batch| batch.num_rows() <= 1000));
        }
        assert_eq!(TestData::Floats.batches(1 << 20, MIB).len(), 1);
    }

    #[test]
    fn tables_that_cases_read_are_never_written() {
        let (reads, writes): (Vec<&CostCase>, Vec<&CostCase>) = CASES.iter().partition(|case| case.reads());
        assert!(reads.iter().all(|read| writes.iter().all(|write| read.table() != write.table())));
    }
}
