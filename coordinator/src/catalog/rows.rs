//! Row keys, their byte encoding, and row changes.

use volley_common::wire::catalog::{CompactedPosition, Part, Row};

/// The position of a part's rows in its table. Readers get parts in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SortKey {
    /// The version that added the rows.
    pub added: u64,
    /// Sequence number among the parts of that version.
    pub seq: u64,
    /// How often the rows were compacted; 0 for a part that no compaction created. Successive parts at one position have
    /// increasing generations.
    pub generation: u32,
}

impl SortKey {
    /// After every other key.
    pub(super) const LAST: SortKey = SortKey { added: u64::MAX, seq: u64::MAX, generation: u32::MAX };
}

impl From<CompactedPosition> for SortKey {
    fn from(position: CompactedPosition) -> Self {
        SortKey { added: position.added, seq: position.seq, generation: position.generation }
    }
}

/// The sort key of a part in its protobuf form.
pub fn sort_key_of(part: &Part) -> SortKey {
    part.position.map_or(SortKey { added: part.added, seq: part.seq, generation: 0 }, SortKey::from)
}

/// The key of a row. Keys sort as their bytes do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKey {
    /// The single row about the cluster.
    Cluster,
    /// A node, by id.
    Node(u64),
    /// A table, by id.
    Table(u64),
    /// A part, by the position of its rows in the table: neighbours on disk are neighbours in memory.
    Part {
        /// The table's id.
        table: u64,
        /// The part's position in the table.
        sort_key: SortKey,
    },
    /// A write, by id.
    Write(String),
    /// A cancelled flight, by id.
    Cancelled(u64),
    /// A stream of an open staged write.
    StagedStream {
        /// The write's id.
        write: String,
        /// The number of the stream among those of the write.
        index: u64,
    },
    /// The layout of old versions of a table.
    Layout {
        /// The table's id.
        table: u64,
        /// The layout's id.
        id: u64,
    },
    /// The single row with the catalog's time.
    Clock,
    /// A user, by name.
    User(String),
    /// A service token, by id.
    Token(String),
    /// A grant.
    Grant {
        /// `user:NAME` or `group:NAME`.
        to: String,
        /// The role's number.
        role: u32,
        /// The components of the prefix.
        prefix: Vec<String>,
    },
    /// A key that signs session tokens, by id.
    SigningKey(String),
    /// A quota, by the components of its prefix.
    Quota(Vec<String>),
    /// The single row with the epoch of users, tokens, grants and signing keys.
    Identity,
    /// A transaction, by id.
    Transaction(String),
}

/// A row that a command changed or deleted.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The key of the row.
    pub key: RowKey,
    /// The new row; `None` if the row was deleted.
    pub row: Option<Row>,
}

impl RowKey {
    /// Encodes the key: a tag byte, then big-endian numbers, so that bytes sort as keys do. Generation 0 is left out.
    pub fn to_bytes(&self) -> Vec<u8> {
        let numbers = |tag: u8, numbers: &[u64]| {
            let bytes = numbers.iter().flat_map(|n| n.to_be_bytes());
            std::iter::once(tag).chain(bytes).collect()
        };
        match self {
            RowKey::Cluster => vec![0],
            RowKey::Node(id) => numbers(1, &[*id]),
            RowKey::Table(id) => numbers(2, &[*id]),
            RowKey::Part { table, sort_key: SortKey { added, seq, generation } } => {
                let mut key: Vec<u8> = numbers(3, &[*table, *added, *seq]);
                if *generation != 0 {
                    key.extend(generation.to_be_bytes());
                }
                key
            }
            RowKey::Write(id) => [&[4], id.as_bytes()].concat(),
            RowKey::Cancelled(flight) => numbers(5, &[*flight]),
            // A write id has no byte 0, so bytes sort as (write, index) does.
            RowKey::StagedStream { write, index } => [&[6], write.as_bytes(), &[0], &index.to_be_bytes()[..]].concat(),
            RowKey::Layout { table, id } => numbers(7, &[*table, *id]),
            RowKey::Clock => vec![8],
            RowKey::User(name) => [&[9], name.as_bytes()].concat(),
            RowKey::Token(id) => [&[10], id.as_bytes()].concat(),
            // Neither names nor components have a byte 0.
            RowKey::Grant { to, role, prefix } => {
                let head = [&[11], to.as_bytes(), &[0], &role.to_be_bytes()[..]].concat();
                [head, prefix_bytes(prefix)].concat()
            }
            RowKey::SigningKey(id) => [&[12], id.as_bytes()].concat(),
            RowKey::Quota(prefix) => [vec![13], prefix_bytes(prefix)].concat(),
            RowKey::Identity => vec![14],
            RowKey::Transaction(id) => [&[15], id.as_bytes()].concat(),
        }
    }

    /// Decodes the output of [`RowKey::to_bytes`]; `None` for any other bytes.
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
                RowKey::Part { table: number(&rest[..8])?, sort_key: SortKey { added, seq, generation } }
            }
            (4, _) => RowKey::Write(String::from_utf8(rest.to_vec()).ok()?),
            (5, 8) => RowKey::Cancelled(number(rest)?),
            (6, 9..) => {
                let (write, index) = rest.split_at(rest.len() - 8);
                let write = write.strip_suffix(&[0])?.to_vec();
                RowKey::StagedStream { write: String::from_utf8(write).ok()?, index: number(index)? }
            }
            (7, 16) => RowKey::Layout { table: number(&rest[..8])?, id: number(&rest[8..])? },
            (8, 0) => RowKey::Clock,
            (9, 1..) => RowKey::User(String::from_utf8(rest.to_vec()).ok()?),
            (10, 1..) => RowKey::Token(String::from_utf8(rest.to_vec()).ok()?),
            (11, 6..) => {
                let end = rest.iter().position(|byte| *byte == 0)?;
                let (to, rest) = (&rest[..end], &rest[end + 1..]);
                let (role, prefix) = rest.split_first_chunk()?;
                let to = String::from_utf8(to.to_vec()).ok()?;
                RowKey::Grant { to, role: u32::from_be_bytes(*role), prefix: prefix_of(prefix)? }
            }
            (12, 1..) => RowKey::SigningKey(String::from_utf8(rest.to_vec()).ok()?),
            (13, _) => RowKey::Quota(prefix_of(rest)?),
            (14, 0) => RowKey::Identity,
            (15, 1..) => RowKey::Transaction(String::from_utf8(rest.to_vec()).ok()?),
            _ => return None,
        })
    }
}

/// The components of a prefix, each with a byte 0 after it, so that bytes sort as prefixes do.
fn prefix_bytes(prefix: &[String]) -> Vec<u8> {
    prefix.iter().flat_map(|component| component.bytes().chain([0])).collect()
}

/// Decodes the output of [`prefix_bytes`]; `None` for any other bytes.
fn prefix_of(bytes: &[u8]) -> Option<Vec<String>> {
    let Some(components) = bytes.strip_suffix(&[0]) else { return bytes.is_empty().then(Vec::new) };
    components.split(|byte| *byte == 0).map(|component| String::from_utf8(component.to_vec()).ok()).collect()
}
