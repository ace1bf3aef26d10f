//! Connections to members, and the choice of the member for a request.
//!
//! | module | what it holds |
//! |---|---|
//! | [`connection_pool`] | all connections of a process, by `HOST:PORT`; calls with fail-over, hedging and a breaker |
//! | [`connector`] | dials: plaintext, TLS between members, TLS of a client |
//! | `member_channel` | a tonic channel, which passes traces on |
//! | [`failover`] | which of several members is tried next |
//! | [`member_health`] | whether a member answers |
//! | `health_state` | what is recorded about its health |
//! | `probe` | one probe, and what a sequence of failed ones says |
//! | `received` | when something was last received from a member |
//! | [`address_map`] | one shared value for each address |

pub mod address_map;
pub mod connection_pool;
pub mod connector;
pub mod failover;
mod health_state;
mod member_channel;
mod member_connections;
pub mod member_health;
mod probe;
mod received;

#[cfg(test)]
mod tests;

pub use address_map::AddressMap;
pub use connection_pool::{Attempt, ConnectionPool};
pub use connector::{Connector, ExpectedMember};
pub use failover::{Failover, was_not_handled};
pub use member_channel::MemberChannel;
pub use member_connections::SendError;
