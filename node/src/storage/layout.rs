//! Where everything lies in a node's data folder.
//!
//! ```text
//! LOCK                                        held by the running process
//! control                                     who the node is
//! checked                                     which parts' bytes were verified when
//! tmp/                                        parts that are being written or received
//! damaged/                                    parts whose bytes are not what they were: for a human to look at
//! parts/TABLE/SHARD/WRITE-SEQ-PART-CRC.arrow
//! ```

use std::path::{Path, PathBuf};

use volley_common::{PartId, TableName};

/// Bytes of a folder's name; a longer slug is cut and ends in a checksum.
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

    /// The file that the running process locks.
    pub fn lock(&self) -> PathBuf {
        self.root.join("LOCK")
    }

    /// The control file.
    pub fn control(&self) -> PathBuf {
        self.root.join("control")
    }

    /// What is known of the parts' files.
    pub fn checked(&self) -> PathBuf {
        self.root.join("checked")
    }

    /// Parts that are being written or received; emptied at start.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Parts that were found damaged.
    pub fn damaged(&self) -> PathBuf {
        self.root.join("damaged")
    }

    /// Sealed parts.
    pub fn parts(&self) -> PathBuf {
        self.root.join("parts")
    }

    /// The folder of one shard's parts.
    pub fn shard(&self, table: &TableName, shard: u32) -> PathBuf {
        self.parts().join(slug(table)).join(shard.to_string())
    }

    /// A new file's path in `tmp/`.
    pub fn temporary(&self, id: PartId) -> PathBuf {
        // One part may be received twice at once: the random tail keeps the two apart.
        self.tmp().join(format!("{id}-{:08x}", rand::random::<u32>()))
    }
}

/// What a part's file name says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartFile {
    /// The write's id.
    pub write: String,
    /// The part's place among the write's parts.
    pub seq: u64,
    /// The part.
    pub id: PartId,
    /// CRC-32C of the whole file.
    pub crc32c: u32,
}

impl PartFile {
    /// The file's name.
    pub fn name(&self) -> String {
        format!("{}-{}-{}-{:08x}.arrow", self.write, self.seq, self.id, self.crc32c)
    }

    /// Reads a file's name; `None` if it is not a part's.
    pub fn parse(name: &str) -> Option<Self> {
        // A write id may hold dashes itself.
        let mut fields = name.strip_suffix(".arrow")?.rsplitn(4, '-');
        let (crc, id, seq, write) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let file = PartFile {
            write: write.to_string(),
            seq: seq.parse().ok()?,
            id: id.parse().ok()?,
            crc32c: u32::from_str_radix(crc, 16).ok()?,
        };
        (file.name() == name && !write.is_empty()).then_some(file)
    }
}

/// A table's name as a folder's: readable, safe in every file system. The exact name stands in the footers.
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
    fn file_names_survive_a_round_trip() {
        for (write, seq) in [("w", 0), ("a-b-1-2", u64::MAX), ("x.y_z", 7)] {
            let file = PartFile { write: write.into(), seq, id: PartId::random(), crc32c: rand::random() };
            assert_eq!(PartFile::parse(&file.name()), Some(file));
        }
    }

    #[test]
    fn any_file_name_survives_and_nothing_near_it_is_taken_for_another_part() {
        const LETTERS: &[u8] = b"abcXYZ019_-.";
        for _ in 0..500 {
            let letter = || LETTERS[rand::random_range(0..LETTERS.len())] as char;
            let write: String = (0..rand::random_range(1..65)).map(|_| letter()).collect();
            let file = PartFile { write, seq: rand::random(), id: PartId::random(), crc32c: rand::random() };
            let name = file.name();
            assert_eq!(PartFile::parse(&name), Some(file));
            let at = rand::random_range(0..name.len());
            let bad = format!("{}{}", &name[..at], &name[at + 1..]);
            // What is shorter is another part's name, or none; it never reads as a name that it is not.
            assert!(PartFile::parse(&bad).is_none_or(|other| other.name() == bad));
        }
    }

    #[test]
    fn other_names_are_not_parts() {
        let good = PartFile { write: "w".into(), seq: 1, id: PartId(9), crc32c: 3 }.name();
        assert!(PartFile::parse(&good).is_some());
        let bad = [
            good.replace(".arrow", ".arrow.bak"),
            good.replace("w-1-", "w-01-"),
            good.replace("w-", "-"),
            good.to_uppercase(),
            ".arrow".into(),
            "notes.txt".into(),
        ];
        for name in bad {
            assert_eq!(PartFile::parse(&name), None, "{name}");
        }
    }

    #[test]
    fn slugs_are_safe_and_differ() {
        let slug_of = |name: &str| slug(&name.parse().unwrap());
        assert_eq!(slug_of("sales/2026.q1"), "sales+2026.q1");
        assert_eq!(slug_of("..x"), "%2e.x");
        assert_eq!(slug_of("ü +"), "%c3%bc%20%2b");
        let (a, b) = (slug_of(&"a".repeat(1024)), slug_of(&format!("{}b", "a".repeat(1023))));
        assert!(a.len() <= MAX_SLUG && a != b);
    }
}
