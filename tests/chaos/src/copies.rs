//! Which copies of which parts are on the nodes' disks, and whether they are intact, according to the files' names
//! (`WRITE-SEQ-PART-CRC.arrow`, docs/formats.md) and their checksums.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// One copy of a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartCopy {
    /// The index of the node.
    pub node: usize,
    /// The file.
    pub path: PathBuf,
    /// Whether its bytes have the checksum in its name.
    pub sound: bool,
}

/// All copies of one part.
#[derive(Clone, Debug, Default)]
pub struct PartCopies {
    /// The folder name of its table.
    pub table: String,
    /// The copies on all nodes.
    pub copies: Vec<PartCopy>,
}

impl PartCopies {
    /// The nodes with an intact copy.
    pub fn sound(&self) -> BTreeSet<usize> {
        self.copies.iter().filter(|copy| copy.sound).map(|copy| copy.node).collect()
    }
}

/// All parts, by their file names.
pub type PartFileInventory = BTreeMap<String, PartCopies>;

/// Reads every part on these nodes' disks.
pub fn inventory(nodes: &[PathBuf]) -> PartFileInventory {
    let mut inventory = PartFileInventory::new();
    for (node, folder) in nodes.iter().enumerate() {
        for (table, path) in parts_of(folder) {
            let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
            // It may have been deleted since it was listed.
            let Ok(bytes) = fs::read(&path) else { continue };
            let sound = named_checksum(&name) == Some(crc32c::crc32c(&bytes));
            let part = inventory.entry(name).or_default();
            part.table = table;
            part.copies.push(PartCopy { node, path, sound });
        }
    }
    inventory
}

/// The files `parts/TABLE/SHARD/FILE`, each with the folder name of its table.
pub fn parts_of(node: &Path) -> Vec<(String, PathBuf)> {
    let below = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let mut files = Vec::new();
    for table in below(&node.join("parts")) {
        let name = table.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for shard in below(&table) {
            let parts = below(&shard).into_iter().filter(|path| path.extension().is_some_and(|e| e == "arrow"));
            files.extend(parts.map(|path| (name.clone(), path)));
        }
    }
    files
}

fn named_checksum(name: &str) -> Option<u32> {
    u32::from_str_radix(name.strip_suffix(".arrow")?.rsplit('-').next()?, 16).ok()
}

/// Parts that would be lost with this node: it has a copy, and no other node has an intact one.
pub fn only_on(inventory: &PartFileInventory, node: usize) -> Vec<String> {
    let alone = inventory.iter().filter(|(_, part)| {
        part.copies.iter().any(|copy| copy.node == node) && part.sound().iter().all(|other| *other == node)
    });
    alone.map(|(name, _)| name.clone()).collect()
}

/// Deviations after the repair: parts with fewer or more intact copies than `replicas` of the folder of their table,
/// and damaged copies. Tables that are not in `replicas` must have no parts.
pub fn deviations(inventory: &PartFileInventory, replicas: &BTreeMap<String, usize>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, part) in inventory {
        let (wanted, sound) = (replicas.get(&part.table).copied().unwrap_or(0), part.sound());
        if part.copies.iter().any(|copy| !copy.sound) {
            wrong.push(format!("{}/{name}: a damaged copy was not removed", part.table));
        }
        if sound.len() != wanted {
            wrong.push(format!("{}/{name}: {} copies (on {sound:?}) instead of {wanted}", part.table, sound.len()));
        }
    }
    wrong
}

/// Unfinished files, in `tmp/` of the nodes.
pub fn unfinished(nodes: &[PathBuf]) -> Vec<PathBuf> {
    let files = nodes.iter().flat_map(|folder| fs::read_dir(folder.join("tmp")).into_iter().flatten().flatten());
    files.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The folders of three nodes; each part as (node, table, bytes, the bytes whose checksum is in its name).
    fn disks(parts: &[(usize, &str, &[u8], &[u8])]) -> (tempfile::TempDir, PartFileInventory) {
        let folder = tempfile::tempdir().unwrap();
        let nodes: Vec<PathBuf> = (0..3).map(|node| folder.path().join(node.to_string())).collect();
        for (node, table, bytes, named) in parts {
            let shard = nodes[*node].join("parts").join(table).join("0");
            fs::create_dir_all(&shard).unwrap();
            fs::write(shard.join(format!("w-0-{table}-{:08x}.arrow", crc32c::crc32c(named))), bytes).unwrap();
        }
        let inventory = inventory(&nodes);
        (folder, inventory)
    }

    fn two(tables: &[&str]) -> BTreeMap<String, usize> {
        tables.iter().map(|table| (table.to_string(), 2)).collect()
    }

    #[test]
    fn two_sound_copies_are_right() {
        let (_folder, inventory) = disks(&[(0, "t", b"x", b"x"), (2, "t", b"x", b"x")]);
        assert_eq!(deviations(&inventory, &two(&["t"])), Vec::<String>::new());
        assert!((0..3).all(|node| only_on(&inventory, node).is_empty()));
    }

    #[test]
    fn missing_extra_damaged_and_foreign_copies_are_found() {
        let (_folder, inventory) = disks(&[
            (0, "few", b"x", b"x"),
            (0, "many", b"x", b"x"),
            (1, "many", b"x", b"x"),
            (2, "many", b"x", b"x"),
            (0, "bad", b"x", b"x"),
            (1, "bad", b"y", b"x"),
            (0, "gone", b"x", b"x"),
        ]);
        let wrong = deviations(&inventory, &two(&["few", "many", "bad"]));
        for word in ["few/", "many/", "bad/", "gone/", "a damaged copy", "1 copies", "3 copies"] {
            assert!(wrong.iter().any(|line| line.contains(word)), "{word}: {wrong:?}");
        }
        assert_eq!(only_on(&inventory, 0).len(), 3, "few, gone, and bad, whose other copy is damaged");
        assert!(only_on(&inventory, 1).is_empty(), "an intact copy of it is on node 0");
        assert!(only_on(&inventory, 2).is_empty());
    }
}
