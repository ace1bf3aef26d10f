//! Connections to members, and the choice of the member for a request.
//!
//! | module | what it holds |
//! |---|---|
//! | [`connection_pool`] | all connections of a process, by `HOST:PORT` |
//! | [`failover`] | which of several members is tried next |
//! | [`address_map`] | one shared value for each address |

pub mod address_map;
pub mod connection_pool;
pub mod failover;
mod member_connections;

pub use address_map::AddressMap;
pub use connection_pool::ConnectionPool;
pub use failover::Failover;
