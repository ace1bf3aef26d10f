//! Coordinators added and removed while the cluster runs.

use serde_json::{Value, json};
use volley_common::{Error, Result, listen};

use super::Service;

impl Service {
    /// Takes a coordinator in that was started with `--join`, and waits until it votes:
    /// `{"coordinators": [{"id", "peer"}]}`. Asked again it goes on waiting, or answers at once.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: not an address. ALREADY_EXISTS: the id has another address, or the address another id.
    /// FAILED_PRECONDITION: another coordinator answers there, or its folder is of another cluster or was removed.
    /// UNAVAILABLE: it does not answer, or did not catch up in time.
    pub async fn add_coordinator(&self, id: u64, peer: &str) -> Result<Value> {
        if id == 0 {
            return Err(Error::invalid("a coordinator's id is at least 1"));
        }
        let peer = listen::check_advertise(peer.trim()).map_err(|e| e.at("the coordinator's peer address"))?;
        self.raft.add_coordinator(id, peer).await?;
        Ok(self.coordinators_json())
    }

    /// Takes a coordinator out, and waits until the others have agreed on it: `{"coordinators": [{"id", "peer"}]}`.
    /// One that is not there is out already.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: it is the last one, or too few of the others are up.
    pub async fn remove_coordinator(&self, id: u64) -> Result<Value> {
        self.raft.remove_coordinator(id).await?;
        Ok(self.coordinators_json())
    }

    /// The coordinators as the catalog has them, in the answer of both actions.
    fn coordinators_json(&self) -> Value {
        let list: Vec<Value> = self.raft.peers().iter().map(|(id, peer)| json!({ "id": id, "peer": peer })).collect();
        json!({ "coordinators": list })
    }
}
