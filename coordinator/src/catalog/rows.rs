//! Rows and their keys.

use volley_common::wire::catalog::Row;

use super::parts::Place;

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
        /// Its place in the table.
        place: Place,
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
    /// The key as bytes: a tag, then numbers big endian, so that bytes sort as keys do. A part's generation is there
    /// only if it has one.
    pub fn to_bytes(&self) -> Vec<u8> {
        let numbers = |tag: u8, numbers: &[u64]| {
            let bytes = numbers.iter().flat_map(|n| n.to_be_bytes());
            std::iter::once(tag).chain(bytes).collect()
        };
        match self {
            RowKey::Cluster => vec![0],
            RowKey::Node(id) => numbers(1, &[*id]),
            RowKey::Table(id) => numbers(2, &[*id]),
            RowKey::Part { table, place: Place { added, seq, generation } } => {
                let mut key: Vec<u8> = numbers(3, &[*table, *added, *seq]);
                if *generation != 0 {
                    key.extend(generation.to_be_bytes());
                }
                key
            }
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
            (3, 24) | (3, 28) => {
                let (added, seq) = (number(&rest[8..16])?, number(&rest[16..24])?);
                let generation = rest[24..].try_into().map_or(0, u32::from_be_bytes);
                if rest.len() == 28 && generation == 0 {
                    return None;
                }
                RowKey::Part { table: number(&rest[..8])?, place: Place { added, seq, generation } }
            }
            (4, _) => RowKey::Write(String::from_utf8(rest.to_vec()).ok()?),
            (5, 8) => RowKey::Cancelled(number(rest)?),
            _ => return None,
        })
    }
}
