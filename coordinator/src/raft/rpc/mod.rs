//! Raft messages between coordinators.
//!
//! | module | what it holds |
//! |---|---|
//! | [`network`] | the client side: openraft's network |
//! | [`server`] | the server side: the gRPC service on the peer port |
//! | [`convert`] | openraft's types to protobuf and back |

pub mod convert;
pub mod network;
pub mod server;
