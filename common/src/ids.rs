//! Ids of nodes, parts and calls: random, so that they need no coordination.

use std::fmt;
use std::str::FromStr;

use crate::wire::catalog;

/// A node's durable id, generated at its first start and kept in its data folder. Never 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u64);

impl NodeId {
    /// A new random id.
    pub fn random() -> Self {
        NodeId(rand::random_range(1..=u64::MAX))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {self}")
    }
}

impl FromStr for NodeId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match u64::from_str_radix(text, 16) {
            Ok(id) if id != 0 && text.len() == 16 => Ok(NodeId(id)),
            _ => {
                Err(format!("{text:?} is not a node id: 16 hexadecimal digits, as `volley cluster status` shows them"))
            }
        }
    }
}

/// A part's id: 128 random bits, chosen by the node that writes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartId(pub u128);

impl PartId {
    /// A new random id.
    pub fn random() -> Self {
        PartId(rand::random())
    }

    /// The id's 16 bytes, most significant first: the input of inventory digests.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The part's hash. The digest of an inventory is the XOR of its parts' hashes.
    pub fn digest(self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&self.to_bytes())
    }
}

impl fmt::Display for PartId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for PartId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "part {self}")
    }
}

impl FromStr for PartId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match u128::from_str_radix(text, 16) {
            Ok(id) if text.len() == 32 => Ok(PartId(id)),
            _ => Err(format!("{text:?} is not a part id: 32 hexadecimal digits")),
        }
    }
}

/// A name for a call of a client: 16 random hexadecimal digits.
pub fn new_request_id() -> String {
    format!("{:016x}", rand::random::<u64>())
}

impl From<PartId> for catalog::PartId {
    fn from(id: PartId) -> Self {
        catalog::PartId { hi: (id.0 >> 64) as u64, lo: id.0 as u64 }
    }
}

impl From<&catalog::PartId> for PartId {
    fn from(id: &catalog::PartId) -> Self {
        PartId((u128::from(id.hi) << 64) | u128::from(id.lo))
    }
}

impl catalog::Part {
    /// The part's id; the zero id, which no other part has, if the message has none.
    pub fn part_id(&self) -> PartId {
        self.id.as_ref().map_or(PartId(0), PartId::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_through_text_and_protobuf() {
        let part = PartId::random();
        assert_eq!(part.to_string().parse(), Ok(part));
        assert_eq!(PartId::from(&catalog::PartId::from(part)), part);
        let node = NodeId::random();
        assert_eq!(node.to_string().parse(), Ok(node));
        assert!("0000000000000000".parse::<NodeId>().is_err());
        assert!("xyz".parse::<PartId>().is_err());
    }
}
