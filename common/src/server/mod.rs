//! What the server processes share: the HTTP/2 server loop.

pub mod serve;
