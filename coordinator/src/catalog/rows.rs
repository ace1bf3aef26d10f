//! Rows and their keys.

use volley_common::wire::catalog::Row;

/// Which row: sorted as its bytes are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKey {
    /// The one row about the cluster.
    Cluster,
    /// A node, by its id.
    Node(u64),
    /// A table, by its id.
    Table(u64),
    /// A part, by where its rows stand in its table: neighbours on disk are neighbours in memory.
    Part {
        /// The table's id.
        table: u64,
        /// The version that brought it.
        added: u64,
        /// Its place among the parts of that version.
        seq: u64,
    },
    /// A write, by its id.
    Write(String),
    /// A cancelled flight, by its id.
    Cancelled(u64),
}

/// A row that a command touched: as it stands now, or none if it is gone.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Which row.
    pub key: RowKey,
    /// The row; none: delete it.
    pub row: Option<Row>,
}

impl RowKey {
    /// The key as bytes: a tag, then numbers big endian, so that bytes sort as keys do.
    pub fn to_bytes(&self) -> Vec<u8> {
        let numbers = |tag: u8, numbers: &[u64]| {
            let bytes = numbers.iter().flat_map(|n| n.to_be_bytes());
            std::iter::once(tag).chain(bytes).collect()
        };
        match self {
            RowKey::Cluster => vec![0],
            RowKey::Node(id) => numbers(1, &[*id]),
            RowKey::Table(id) => numbers(2, &[*id]),
            RowKey::Part { table, added, seq } => numbers(3, &[*table, *added, *seq]),
            RowKey::Write(id) => [&[4], id.as_bytes()].concat(),
            RowKey::Cancelled(flight) => numbers(5, &[*flight]),
        }
    }

    /// Reads what [`RowKey::to_bytes`] wrote; none if it is anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        let number = |rest: &[u8]| rest.try_into().ok().map(u64::from_be_bytes);
        Some(match (tag, rest.len()) {
            (0, 0) => RowKey::Cluster,
            (1, 8) => RowKey::Node(number(rest)?),
            (2, 8) => RowKey::Table(number(rest)?),
            (3, 24) => {
                RowKey::Part { table: number(&rest[..8])?, added: number(&rest[8..16])?, seq: number(&rest[16..])? }
            }
            (4, _) => RowKey::Write(String::from_utf8(rest.to_vec()).ok()?),
            (5, 8) => RowKey::Cancelled(number(rest)?),
            _ => return None,
        })
    }
}
