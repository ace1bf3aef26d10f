//! The control file: who the node is, and which cluster it belongs to.
//!
//! JSON in the wrapping of `durable`.

use std::fs;
use std::io::ErrorKind;

use serde::{Deserialize, Serialize};
use volley_common::{Error, NodeId, Result};

use super::durable::{self, Unreadable};
use super::layout::Layout;

const MAGIC: &[u8; 8] = b"VOLLEYND";
/// The newest format that this program knows.
pub const FORMAT: u32 = 1;

/// What the control file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The node's id.
    pub node: NodeId,
    /// The cluster that it has joined.
    pub cluster: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Json {
    node: String,
    cluster: Option<String>,
}

impl Control {
    /// Reads the folder's control file; makes a new node if there is none and the folder has no parts either.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: a newer format. DATA_LOSS: damaged, or lost while parts are there.
    pub fn open(layout: &Layout) -> Result<Control> {
        let path = layout.control();
        match fs::read(&path) {
            Ok(bytes) => parse(&bytes).map_err(|e| e.at(path.display())),
            Err(e) if e.kind() == ErrorKind::NotFound => Self::create(layout),
            Err(e) => Err(Error::unavailable(format!("{} cannot be read: {e}", path.display()))),
        }
    }

    fn create(layout: &Layout) -> Result<Control> {
        let parts = layout.parts();
        if fs::read_dir(&parts).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(Error::data_loss(format!(
                "{} has parts, but its control file is gone: restore it, or start with an empty data folder",
                layout.root().display()
            )));
        }
        let control = Control { node: NodeId::random(), cluster: None };
        control.save(layout)?;
        Ok(control)
    }

    /// Writes the control file: temp, fsync, rename, fsync of the folder.
    pub fn save(&self, layout: &Layout) -> Result<()> {
        let path = layout.control();
        durable::replace(&path, &self.bytes())
            .map_err(|e| Error::unavailable(format!("{} cannot be written: {e}", path.display())))
    }

    fn bytes(&self) -> Vec<u8> {
        let json = Json { node: self.node.to_string(), cluster: self.cluster.clone() };
        durable::wrap(MAGIC, FORMAT, &serde_json::to_vec(&json).expect("two strings are JSON"))
    }
}

fn parse(bytes: &[u8]) -> Result<Control> {
    let damaged = || Error::data_loss("the control file is damaged: restore it, or start with an empty data folder");
    let json = durable::unwrap(MAGIC, FORMAT, bytes).map_err(|why| match why {
        Unreadable::Damaged => damaged(),
        Unreadable::Newer(format) => newer(format),
    })?;
    let json: Json = serde_json::from_slice(json).map_err(|_| damaged())?;
    let node = json.node.parse().map_err(|_| damaged())?;
    Ok(Control { node, cluster: json.cluster })
}

/// What is said of a folder that a newer program has used.
pub(super) fn newer(format: u32) -> Error {
    Error::precondition(format!(
        "the data folder has format {format}, this program knows up to {FORMAT}: start a newer volley-node"
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use volley_common::error::Code;

    use super::*;

    #[test]
    fn a_node_keeps_its_id_and_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let mut control = Control::open(&layout).unwrap();
        control.cluster = Some("c".into());
        control.save(&layout).unwrap();
        assert_eq!(Control::open(&layout).unwrap(), control);
    }

    #[test]
    fn damage_and_newer_formats_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        Control::open(&layout).unwrap();
        let good = fs::read(layout.control()).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            fs::write(layout.control(), &bad).unwrap();
            let code = Control::open(&layout).unwrap_err().code;
            assert_eq!(code == Code::FailedPrecondition, (8..12).contains(&at), "byte {at}");
            fs::write(layout.control(), &good[..at]).unwrap();
            assert_eq!(Control::open(&layout).unwrap_err().code, Code::DataLoss, "cut at {at}");
        }
    }

    #[test]
    fn parts_without_a_control_file_are_not_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        fs::create_dir_all(layout.parts().join("t")).unwrap();
        assert_eq!(Control::open(&layout).unwrap_err().code, Code::DataLoss);
    }
}
