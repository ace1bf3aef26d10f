//! Who is at the other end of a connection, as its TLS handshake proved.
//!
//! | module | what it holds |
//! |---|---|
//! | [`identity`] | the identities of members and clients |
//! | `claims` | what a caller may claim in its messages: the ids of its certificate |

mod claims;
pub mod identity;

pub use identity::{Caller, ClientIdentity, MemberIdentity, MemberRole};
