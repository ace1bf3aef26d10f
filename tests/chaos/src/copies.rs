//! Which copies of which parts lie on the nodes' disks, and whether they are sound: seen from outside, by
//! the files' names (`WRITE-SEQ-PART-CRC.arrow`, docs/formats.md) and their checksums.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// One copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartCopy {
    /// Index of the node.
    pub node: usize,
    /// The file.
    pub path: PathBuf,
    /// Whether its bytes have the checksum that its name says.
    pub sound: bool,
}

/// All copies of one part.
#[derive(Clone, Debug, Default)]
pub struct PartCopies {
    /// The folder of its table.
    pub table: String,
    /// Where it lies.
    pub copies: Vec<PartCopy>,
}

impl PartCopies {
    /// Nodes that have a sound copy.
    pub fn sound(&self) -> BTreeSet<usize> {
        self.copies.iter().filter(|copy| copy.sound).map(|copy| copy.node).collect()
    }
}

/// All parts, by the names of their files.
pub type Survey = BTreeMap<String, PartCopies>;

/// Reads every part on these nodes' disks.
pub fn survey(nodes: &[PathBuf]) -> Survey {
    let mut survey = Survey::new();
    for (node, folder) in nodes.iter().enumerate() {
        for (table, path) in parts_of(folder) {
            let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
            // It may have been removed since it was listed.
            let Ok(bytes) = fs::read(&path) else { continue };
            let sound = named_checksum(&name) == Some(crc32c::crc32c(&bytes));
            let part = survey.entry(name).or_default();
            part.table = table;
            part.copies.push(PartCopy { node, path, sound });
        }
    }
    survey
}

/// `parts/TABLE/SHARD/FILE`: each file with its table's folder.
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

/// Parts that would be lost with this node: it has a copy, and nobody else has a sound one.
pub fn only_on(survey: &Survey, node: usize) -> Vec<String> {
    let alone = survey.iter().filter(|(_, part)| {
        part.copies.iter().any(|copy| copy.node == node) && part.sound().iter().all(|other| *other == node)
    });
    alone.map(|(name, _)| name.clone()).collect()
}

/// What is not as it should be once all is quiet: parts with fewer or more sound copies than `replicas` of their table's
/// folder, and copies that are not sound. Tables that nobody named should have no parts.
pub fn wrong(survey: &Survey, replicas: &BTreeMap<String, usize>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, part) in survey {
        let (wanted, sound) = (replicas.get(&part.table).copied().unwrap_or(0), part.sound());
        if part.copies.iter().any(|copy| !copy.sound) {
            wrong.push(format!("{}/{name}: a damaged copy stays where it is", part.table));
        }
        if sound.len() != wanted {
            wrong.push(format!("{}/{name}: {} copies (on {sound:?}) instead of {wanted}", part.table, sound.len()));
        }
    }
    wrong
}

/// Files in the nodes' `tmp/`.
pub fn unfinished(nodes: &[PathBuf]) -> Vec<PathBuf> {
    let files = nodes.iter().flat_map(|folder| fs::read_dir(folder.join("tmp")).into_iter().flatten().flatten());
    files.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three nodes' folders; each part as (node, table, bytes, what the name says of them).
    fn disks(parts: &[(usize, &str, &[u8], &[u8])]) -> (tempfile::TempDir, Survey) {
        let folder = tempfile::tempdir().unwrap();
        let nodes: Vec<PathBuf> = (0..3).map(|node| folder.path().join(node.to_string())).collect();
        for (node, table, bytes, named) in parts {
            let shard = nodes[*node].join("parts").join(table).join("0");
            fs::create_dir_all(&shard).unwrap();
            fs::write(shard.join(format!("w-0-{table}-{:08x}.arrow", crc32c::crc32c(named))), bytes).unwrap();
        }
        let survey = survey(&nodes);
        (folder, survey)
    }

    fn two(tables: &[&str]) -> BTreeMap<String, usize> {
        tables.iter().map(|table| (table.to_string(), 2)).collect()
    }

    #[test]
    fn two_sound_copies_are_as_they_should_be() {
        let (_folder, survey) = disks(&[(0, "t", b"x", b"x"), (2, "t", b"x", b"x")]);
        assert_eq!(wrong(&survey, &two(&["t"])), Vec::<String>::new());
        assert!((0..3).all(|node| only_on(&survey, node).is_empty()));
    }

    #[test]
    fn missing_surplus_damaged_and_forgotten_copies_are_found() {
        let (_folder, survey) = disks(&[
            (0, "few", b"x", b"x"),
            (0, "many", b"x", b"x"),
            (1, "many", b"x", b"x"),
            (2, "many", b"x", b"x"),
            (0, "bad", b"x", b"x"),
            (1, "bad", b"y", b"x"),
            (0, "gone", b"x", b"x"),
        ]);
        let wrong = wrong(&survey, &two(&["few", "many", "bad"]));
        for word in ["few/", "many/", "bad/", "gone/", "a damaged copy", "1 copies", "3 copies"] {
            assert!(wrong.iter().any(|line| line.contains(word)), "{word}: {wrong:?}");
        }
        assert_eq!(only_on(&survey, 0).len(), 3, "few, gone, and bad, whose other copy is no good");
        assert!(only_on(&survey, 1).is_empty(), "a sound copy of it is on node 0");
        assert!(only_on(&survey, 2).is_empty());
    }
}
