//! The kind of port that a call came to.

/// The kind of port that a call came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallPort {
    /// A Flight listener.
    Flight,
    /// A peer port.
    Peer,
}

impl CallPort {
    /// Its name in metrics and spans.
    pub fn label(self) -> &'static str {
        match self {
            CallPort::Flight => "flight",
            CallPort::Peer => "peer",
        }
    }
}
