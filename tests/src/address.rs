//! Loopback addresses for one cluster at a time.

use std::net::TcpListener;

/// Held while a network is in use; no member listens there.
const GUARD: (u8, u16) = (254, 8800);

/// A network `127.A.B.*` that no other cluster on this machine uses, until it is dropped.
///
/// Members have the usual ports on addresses of their own: peers can be named before they run, a member
/// that starts again has the address that it had, and no port has to be guessed or raced for.
pub struct Net {
    prefix: String,
    _guard: TcpListener,
}

impl Net {
    /// Takes a free one.
    pub fn reserve() -> Net {
        for _ in 0..1000 {
            let prefix = format!("127.{}.{}", rand::random_range(1..=254), rand::random_range(0..=254));
            if let Ok(guard) = TcpListener::bind((format!("{prefix}.{}", GUARD.0), GUARD.1)) {
                return Net { prefix, _guard: guard };
            }
        }
        panic!("no free address among 127.0.0.0/8: does this system have only 127.0.0.1?");
    }

    /// A host of the network, `last` from 1 to 253. Those below are members'; the rest is free.
    pub fn host(&self, last: u8) -> String {
        format!("{}.{last}", self.prefix)
    }

    /// The host of the `index`th coordinator, from 0.
    pub fn coordinator(&self, index: usize) -> String {
        format!("{}.{}", self.prefix, index + 1)
    }

    /// The host of the `index`th node, from 0.
    pub fn node(&self, index: usize) -> String {
        format!("{}.{}", self.prefix, index + 101)
    }
}
