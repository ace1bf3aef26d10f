//! What is measured: which member does what, with which rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

/// Columns of the reference table.
const FLOATS: usize = 64;
/// Columns of the table of strings.
const STRINGS: usize = 8;
/// Bytes of one row of strings: of a value 12 on average, 4 of its offset.
const STRING_ROW: usize = STRINGS * 16;
/// Rows of a message as `write_table` cuts them for many clients.
const LARGE: usize = 64 << 10;
/// Rows of the reference table that make 1 MiB.
const MIB: usize = (1 << 20) / (FLOATS * 8);

/// A member of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member {
    /// The coordinator.
    Coordinator,
    /// The node that is measured when a node is.
    Node,
    /// The other one.
    OtherNode,
}

/// Where a table's rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Home {
    /// On the measured node.
    Node,
    /// On the other one.
    OtherNode,
    /// On both.
    Both,
}

/// Rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Data {
    /// 64 columns of float64: the reference table.
    Floats,
    /// 8 columns of short strings.
    Strings,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// One put of so many times the rows, in messages of so many rows.
    Put { times: usize, rows: usize },
    /// So many gets, one after another, of these columns; none named: all.
    Get { times: usize, columns: &'static [&'static str] },
}

/// One figure of the report.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name, also in `bounds.toml`.
    pub name: &'static str,
    /// What happens.
    pub about: &'static str,
    /// Whose cost is measured.
    pub measured: Member,
    /// Whom the client asks.
    pub asked: Member,
    /// What is moved.
    pub data: Data,
    /// From or to where.
    pub home: Home,
    /// How.
    pub work: Work,
}

/// All cases. What costs little is repeated: what else the member does meanwhile must not be seen.
pub const CASES: &[Case] = &[
    Case { name: "get", about: "64 float64 columns", ..GET },
    Case {
        name: "get-columns",
        about: "3 of the 64 columns",
        work: Work::Get { times: 16, columns: &["c3", "c30", "c60"] },
        ..GET
    },
    Case { name: "get-strings", about: "8 columns of short strings", data: Data::Strings, ..GET },
    Case { name: "get-remote", about: "of rows that another node has", home: Home::OtherNode, ..GET },
    Case { name: "put", about: "64 float64 columns, messages of 32 MiB", ..PUT },
    Case { name: "put-1mib", about: "the same in messages of 1 MiB", work: Work::Put { times: 1, rows: MIB }, ..PUT },
    Case { name: "put-strings", about: "8 columns of short strings", data: Data::Strings, ..PUT },
    Case {
        name: "put-copy",
        about: "the second copy of what another node took",
        asked: Member::OtherNode,
        home: Home::Both,
        ..PUT
    },
    Case {
        name: "get-relayed",
        about: "through a coordinator",
        measured: Member::Coordinator,
        asked: Member::Coordinator,
        work: Work::Get { times: 16, columns: &[] },
        ..GET
    },
    Case {
        name: "put-relayed",
        about: "through a coordinator",
        measured: Member::Coordinator,
        asked: Member::Coordinator,
        work: Work::Put { times: 4, rows: MIB },
        ..PUT
    },
];

const GET: Case = Case {
    name: "",
    about: "",
    measured: Member::Node,
    asked: Member::Node,
    data: Data::Floats,
    home: Home::Node,
    work: Work::Get { times: 8, columns: &[] },
};

const PUT: Case = Case { work: Work::Put { times: 1, rows: LARGE }, ..GET };

impl Case {
    /// The name that its table begins with: cases that read share one, for its rows stay the same.
    pub fn table(&self) -> String {
        let kind = if self.reads() { "get" } else { "put" };
        format!("{kind}-{:?}-{:?}", self.data, self.home).to_lowercase()
    }

    /// Whether it reads.
    pub fn reads(&self) -> bool {
        matches!(self.work, Work::Get { .. })
    }
}

impl Data {
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
            Data::Floats => (FLOATS, DataType::Float64),
            Data::Strings => (STRINGS, DataType::Utf8),
        };
        let field = |at| Field::new(format!("c{at}"), kind.clone(), true);
        Arc::new(Schema::new((0..columns).map(field).collect::<Vec<_>>()))
    }

    fn row_bytes(self) -> usize {
        match self {
            Data::Floats => FLOATS * 8,
            Data::Strings => STRING_ROW,
        }
    }

    fn batch(self, start: usize, rows: usize) -> RecordBatch {
        let schema = self.schema();
        let columns = (0..schema.fields().len()).map(|column| self.column(column, start..start + rows)).collect();
        RecordBatch::try_new(schema, columns).unwrap()
    }

    fn column(self, column: usize, rows: std::ops::Range<usize>) -> ArrayRef {
        match self {
            Data::Floats => Arc::new(Float64Array::from_iter_values(rows.map(|row| (row * FLOATS + column) as f64))),
            Data::Strings => Arc::new(StringArray::from_iter_values(rows.map(|row| text(row + column)))),
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
    fn rows_have_the_size_that_is_asked_for() {
        for data in [Data::Floats, Data::Strings] {
            let batches = data.batches(1 << 20, 1000);
            let columns = batches.iter().flat_map(RecordBatch::columns);
            let bytes: usize = columns.map(|column| column.to_data().get_slice_memory_size().unwrap()).sum();
            assert!((7 << 17..9 << 17).contains(&bytes), "{data:?}: {bytes}");
            assert!(batches.iter().all(|batch| batch.num_rows() <= 1000));
        }
        assert_eq!(Data::Floats.batches(1 << 20, MIB).len(), 1);
    }

    #[test]
    fn a_table_that_is_read_is_never_written_by_a_case() {
        let (reads, writes): (Vec<&Case>, Vec<&Case>) = CASES.iter().partition(|case| case.reads());
        assert!(reads.iter().all(|read| writes.iter().all(|write| read.table() != write.table())));
    }
}
