//! TLS of listeners, between members, and of clients. No other module uses rustls.
//!
//! | module | what it holds |
//! |---|---|
//! | [`pem`] | certificates and keys, from PEM files |
//! | [`reload`] | the last good value of files that may change |
//! | [`identity`] | whom a certificate names: a member or a client |
//! | `claims` | what a caller may claim in its messages: the ids of its certificate |
//! | [`server`] | the TLS of one listener |
//! | [`peers`] | the TLS between members, both directions |
//! | [`client`] | the TLS of a client |
//! | [`stream`] | a connection with TLS or without |
//! | `certificate_verifier` | checks that demand an identity besides the signature of a CA |
//! | `failure` | why a handshake failed, in words for a user |
//! | `provider` | cryptography and versions of the protocol |
//!
//! The provider is aws-lc-rs, passed explicitly: no default of the process is installed.

mod certificate_verifier;
mod claims;
pub mod client;
mod failure;
pub mod identity;
pub mod peers;
pub mod pem;
mod provider;
pub mod reload;
pub mod server;
pub mod stream;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use client::ClientTls;
pub use identity::{Caller, ClientIdentity, MemberIdentity, MemberRole};
pub use peers::{MEMBER_SNI, PeerTls, PeerTlsMode};
pub use server::{ClientAuth, ListenerTls};
pub use stream::MaybeTls;
