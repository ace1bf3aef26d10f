//! The control file: the node's id and its cluster, as JSON in a [`super::checksummed_file`].

use std::fs;
use std::io::ErrorKind;

use serde::{Deserialize, Serialize};
use volley_common::{Error, NodeId, Result};

use super::checksummed_file::{self, DecodeFailure, newer_format};
use super::layout::Layout;
use super::seen_catalog::CatalogPosition;

const MAGIC: &[u8; 8] = b"VOLLEYND";
/// The newest format version that this program knows.
pub const FORMAT: u32 = 1;

/// The contents of the control file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// The node's id.
    pub node: NodeId,
    /// The cluster that it has joined, if any.
    pub cluster: Option<String>,
    /// The cluster with whose catalog all its parts were last reconciled: an earlier one than `cluster` between a recovery
    /// and the end of the first reconciliation after it.
    pub reconciled: Option<String>,
    /// How far that catalog was when the node last recorded it.
    pub seen: CatalogPosition,
}

#[derive(Serialize, Deserialize)]
struct ControlJson {
    node: String,
    cluster: Option<String>,
    /// Missing in files of earlier versions: then it is `cluster`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reconciled: Option<String>,
    #[serde(default)]
    seen: CatalogPosition,
}

impl ControlFile {
    /// Reads the folder's control file; creates one with a new node id if there is none and the folder has no parts.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: a newer format. DATA_LOSS: the file is damaged, or missing in a folder with parts.
    pub fn open(layout: &Layout) -> Result<ControlFile> {
        let path = layout.control();
        match fs::read(&path) {
            Ok(bytes) => parse(&bytes).map_err(|e| e.at(path.display())),
            Err(e) if e.kind() == ErrorKind::NotFound => Self::create(layout),
            Err(e) => Err(Error::unavailable(format!("{} cannot be read: {e}", path.display()))),
        }
    }

    fn create(layout: &Layout) -> Result<ControlFile> {
        let parts = layout.parts();
        if fs::read_dir(&parts).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::data_loss(format!(
                "{} has parts, but its control file is missing: restore it, or start with an empty data folder",
                layout.root().display()
            )));
        }
        let control =
            ControlFile { node: NodeId::random(), cluster: None, reconciled: None, seen: CatalogPosition::default() };
        control.save(layout)?;
        Ok(control)
    }

    /// Writes the control file durably.
    pub fn save(&self, layout: &Layout) -> Result<()> {
        let path = layout.control();
        checksummed_file::replace(&path, &self.bytes())
            .map_err(|e| Error::unavailable(format!("{} cannot be written: {e}", path.display())))
    }

    fn bytes(&self) -> Vec<u8> {
        let (cluster, reconciled) = (self.cluster.clone(), self.reconciled.clone());
        let json = ControlJson { node: self.node.to_string(), cluster, reconciled, seen: self.seen };
        checksummed_file::encode(MAGIC, FORMAT, &serde_json::to_vec(&json).expect("strings and numbers are JSON"))
    }
}

fn parse(bytes: &[u8]) -> Result<ControlFile> {
    let damaged = || Error::data_loss("the control file is damaged: restore it, or start with an empty data folder");
    let json = checksummed_file::decode(MAGIC, FORMAT, bytes).map_err(|why| match why {
        DecodeFailure::Damaged => damaged(),
        DecodeFailure::NewerFormat(format) => newer_format(format, FORMAT),
    })?;
    let json: ControlJson = serde_json::from_slice(json).map_err(|_| damaged())?;
    let node = json.node.parse().map_err(|_| damaged())?;
    let reconciled = json.reconciled.or_else(|| json.cluster.clone());
    Ok(ControlFile { node, cluster: json.cluster, reconciled, seen: json.seen })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use volley_common::error::Code;

    use super::*;

    #[test]
    fn id_and_cluster_survive_a_reopen() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let mut control = ControlFile::open(&layout).unwrap();
        (control.cluster, control.reconciled) = (Some("c".into()), Some("b".into()));
        control.seen = CatalogPosition { index: 7, epoch: u64::MAX };
        control.save(&layout).unwrap();
        assert_eq!(ControlFile::open(&layout).unwrap(), control);
    }

    #[test]
    fn file_of_an_earlier_version_counts_as_reconciled() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let json = br#"{"node":"00000000000000ab","cluster":"c"}"#;
        fs::write(layout.control(), checksummed_file::encode(MAGIC, FORMAT, json)).unwrap();
        assert_eq!(ControlFile::open(&layout).unwrap().reconciled.as_deref(), Some("c"));
    }

    #[test]
    fn damaged_files_and_newer_formats_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        ControlFile::open(&layout).unwrap();
        let good = fs::read(layout.control()).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            fs::write(layout.control(), &bad).unwrap();
            let code = ControlFile::open(&layout).unwrap_err().code;
            assert_eq!(code == Code::FailedPrecondition, (8..12).contains(&at), "byte {at}");
            fs::write(layout.control(), &good[..at]).unwrap();
            assert_eq!(ControlFile::open(&layout).unwrap_err().code, Code::DataLoss, "truncated at {at}");
        }
    }

    #[test]
    fn parts_without_a_control_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        fs::create_dir_all(layout.parts().join("t")).unwrap();
        assert_eq!(ControlFile::open(&layout).unwrap_err().code, Code::DataLoss);
    }
}
