//! The paths of a node's data folder.
//!
//! ```text
//! LOCK, FOLDER                                locked by the running process; the role and the format of the folder
//! control                                     the node's id and cluster
//! checked                                     the verification log
//! tmp/                                        unfinished parts
//! spill/                                      what running queries have no memory for
//! damaged/                                    quarantined parts; only an operator removes them
//! orphaned/SECONDS/TABLE/SHARD/FILE           parts that the catalog did not know at that time
//! parts/TABLE/SHARD/WRITE-SEQ-PART-CRC.arrow
//! ```

use std::fmt;
use std::path::{Path, PathBuf};

use volley_common::{PartId, TableName};

/// Bytes of a folder's name; a longer slug is truncated and ends in a checksum.
const MAX_SLUG: usize = 120;

/// The paths of a data folder.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout below `root`.
    pub fn new(root: &Path) -> Self {
        Layout { root: root.to_path_buf() }
    }

    /// The data folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The control file.
    pub fn control(&self) -> PathBuf {
        self.root.join("control")
    }

    /// The verification log.
    pub fn verification_log(&self) -> PathBuf {
        self.root.join("checked")
    }

    /// Unfinished parts; emptied at start.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// What running queries have no memory for; emptied at start.
    pub fn spill(&self) -> PathBuf {
        self.root.join("spill")
    }

    /// Quarantined parts.
    pub fn quarantine(&self) -> PathBuf {
        self.root.join("damaged")
    }

    /// Parts that the catalog does not know and that somebody may need.
    pub fn orphans(&self) -> PathBuf {
        self.root.join("orphaned")
    }

    /// Sealed parts.
    pub fn parts(&self) -> PathBuf {
        self.root.join("parts")
    }

    /// The folder of one shard's parts.
    pub fn shard(&self, table: &TableName, shard: u32) -> PathBuf {
        self.parts().join(slug(table)).join(shard.to_string())
    }

    /// The path of a new file in `tmp/`.
    pub fn new_temp(&self, id: PartId) -> PathBuf {
        // A part may be received twice at once: the random suffix keeps the two apart.
        self.tmp().join(format!("{id}-{:08x}", rand::random::<u32>()))
    }
}

/// A part's file name, which has what the inventory needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartFileName {
    /// The write's id.
    pub write: String,
    /// The part's position among the write's parts.
    pub seq: u64,
    /// The part's id.
    pub id: PartId,
    /// CRC-32C of the whole file.
    pub crc32c: u32,
}

impl fmt::Display for PartFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}-{:08x}.arrow", self.write, self.seq, self.id, self.crc32c)
    }
}

impl PartFileName {
    /// Parses a file's name; `None` if it is not a part's.
    pub fn parse(name: &str) -> Option<Self> {
        // A write id may contain dashes.
        let mut fields = name.strip_suffix(".arrow")?.rsplitn(4, '-');
        let (crc, id, seq, write) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let file = PartFileName {
            write: write.to_string(),
            seq: seq.parse().ok()?,
            id: id.parse().ok()?,
            crc32c: u32::from_str_radix(crc, 16).ok()?,
        };
        (file.to_string() == name && !write.is_empty()).then_some(file)
    }
}

/// A table's name as a folder name: readable, safe in every file system. The exact name is in the parts' footers.
pub fn slug(table: &TableName) -> String {
    let name = table.to_string();
    let mut slug = String::new();
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => slug.push(byte as char),
            b'.' if at > 0 => slug.push('.'),
            b'/' => slug.push('+'),
            _ => slug.push_str(&format!("%{byte:02x}")),
        }
    }
    if slug.len() > MAX_SLUG {
        slug.truncate(MAX_SLUG - 9);
        slug.push_str(&format!("~{:08x}", crc32c::crc32c(name.as_bytes())));
    }
    slug
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn file_names_round_trip() {
        for (write, seq) in [("w", 0), ("a-b-1-2", u64::MAX), ("x.y_z", 7)] {
            let file = PartFileName { write: write.into(), seq, id: PartId::random(), crc32c: rand::random() };
            assert_eq!(PartFileName::parse(&file.to_string()), Some(file));
        }
    }

    #[test]
    fn random_file_names_round_trip_and_truncations_do_not_alias() {
        const LETTERS: &[u8] = b"abcXYZ019_-.";
        for _ in 0..500 {
            let letter = || LETTERS[rand::random_range(0..LETTERS.len())] as char;
            let write: String = (0..rand::random_range(1..65)).map(|_| letter()).collect();
            let file = PartFileName { write, seq: rand::random(), id: PartId::random(), crc32c: rand::random() };
            let name = file.to_string();
            assert_eq!(PartFileName::parse(&name), Some(file));
            let at = rand::random_range(0..name.len());
            let bad = format!("{}{}", &name[..at], &name[at + 1..]);
            // The shorter text is another part's name or none; it never parses as a different name.
            assert!(PartFileName::parse(&bad).is_none_or(|other| other.to_string() == bad));
        }
    }

    #[test]
    fn other_names_are_not_parsed() {
        let good = PartFileName { write: "w".into(), seq: 1, id: PartId(9), crc32c: 3 }.to_string();
        assert!(PartFileName::parse(&good).is_some());
        let bad = [
            good.replace(".arrow", ".arrow.bak"),
            good.replace("w-1-", "w-01-"),
            good.replace("w-", "-"),
            good.to_uppercase(),
            ".arrow".into(),
            "notes.txt".into(),
        ];
        for name in bad {
            assert_eq!(PartFileName::parse(&name), None, "{name}");
        }
    }

    #[test]
    fn slugs_are_safe_and_distinct() {
        let slug_of = |name: &str| slug(&name.parse().unwrap());
        assert_eq!(slug_of("sales/2026.q1"), "sales+2026.q1");
        assert_eq!(slug_of("..x"), "%2e.x");
        assert_eq!(slug_of("ü +"), "%c3%bc%20%2b");
        let (a, b) = (slug_of(&"a".repeat(1024)), slug_of(&format!("{}b", "a".repeat(1023))));
        assert!(a.len() <= MAX_SLUG && a != b);
    }
}
