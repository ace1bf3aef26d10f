//! The methods that metrics tell apart: a label has no text that a client made up.

/// The label of every method that is not in [`METHODS`].
pub const OTHER: &str = "other";

/// The gRPC paths of all methods of the Flight and the peer ports. The last word of each is its label.
pub const METHODS: [&str; 38] = [
    "/arrow.flight.protocol.FlightService/DoGet",
    "/arrow.flight.protocol.FlightService/DoPut",
    "/arrow.flight.protocol.FlightService/GetFlightInfo",
    "/arrow.flight.protocol.FlightService/DoAction",
    "/arrow.flight.protocol.FlightService/ListFlights",
    "/arrow.flight.protocol.FlightService/GetSchema",
    "/arrow.flight.protocol.FlightService/PollFlightInfo",
    "/arrow.flight.protocol.FlightService/Handshake",
    "/arrow.flight.protocol.FlightService/DoExchange",
    "/arrow.flight.protocol.FlightService/ListActions",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/volley.raft.v1.Raft/Append",
    "/volley.raft.v1.Raft/Vote",
    "/volley.raft.v1.Raft/Snapshot",
    "/volley.raft.v1.Raft/Identify",
    "/volley.raft.v1.Raft/Transfer",
    "/volley.raft.v1.Raft/LogChecksums",
    "/volley.cluster.v1.Coordinator/Propose",
    "/volley.cluster.v1.Coordinator/ReadIndex",
    "/volley.cluster.v1.Coordinator/Session",
    "/volley.cluster.v1.Coordinator/BeginWrite",
    "/volley.cluster.v1.Coordinator/StageParts",
    "/volley.cluster.v1.Coordinator/RenewWrite",
    "/volley.cluster.v1.Coordinator/CommitWrite",
    "/volley.cluster.v1.Coordinator/AbortWrite",
    "/volley.cluster.v1.Coordinator/DeletableParts",
    "/volley.cluster.v1.Coordinator/PlanRead",
    "/volley.cluster.v1.Coordinator/PlanTables",
    "/volley.cluster.v1.Coordinator/ListTables",
    "/volley.cluster.v1.Coordinator/Login",
    "/volley.cluster.v1.Node/FetchPart",
    "/volley.cluster.v1.Node/CopyPart",
    "/volley.cluster.v1.Node/CopyOpenPart",
    "/volley.cluster.v1.Node/DiscardParts",
    "/volley.cluster.v1.Node/DescribeWorker",
    "/volley.cluster.v1.Node/RunQueryTask",
    "/volley.cluster.v1.Node/ReadQueryTask",
];

/// The number of a method: its index in [`METHODS`], or their number for any other path.
pub fn index_of(path: &str) -> usize {
    METHODS.iter().position(|known| *known == path).unwrap_or(METHODS.len())
}

/// The label of the method with this number.
pub fn label_of(index: usize) -> &'static str {
    METHODS.get(index).and_then(|path| path.rsplit('/').next()).unwrap_or(OTHER)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_method_has_a_label_of_its_own() {
        let labels: BTreeSet<&str> = (0..=METHODS.len()).map(label_of).collect();
        assert_eq!(labels.len(), METHODS.len() + 1, "{labels:?}");
        assert_eq!(label_of(index_of("/arrow.flight.protocol.FlightService/DoGet")), "DoGet");
        for unknown in ["", "/", "/DoGet", "/arrow.flight.protocol.FlightService/Evil\n", "/x.Y/DoGet"] {
            assert_eq!(label_of(index_of(unknown)), OTHER, "{unknown:?}");
        }
    }
}
