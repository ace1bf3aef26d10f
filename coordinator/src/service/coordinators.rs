//! Coordinators added and removed while the cluster runs.

use serde_json::{Value, json};
use volley_common::{Error, Result};

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
        let _ = (id, peer);
        Err(Error::unimplemented("coordinators cannot be added yet"))
    }

    /// Takes a coordinator out, and waits until the others have agreed on it: `{"coordinators": [{"id", "peer"}]}`.
    /// One that is not there is out already.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: it is the last one, or too few of the others are up.
    pub async fn remove_coordinator(&self, id: u64) -> Result<Value> {
        let _ = id;
        Err(Error::unimplemented("coordinators cannot be removed yet"))
    }

    /// The coordinators as the catalog has them, in the answer of both actions.
    pub(crate) fn coordinators_json(&self) -> Value {
        let list: Vec<Value> = self.raft.peers().iter().map(|(id, peer)| json!({ "id": id, "peer": peer })).collect();
        json!({ "coordinators": list })
    }
}
