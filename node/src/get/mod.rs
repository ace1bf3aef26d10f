//! A get: a ticket into slices of mapped files.
//!
//! | module | what it does |
//! |---|---|
//! | [`request`] | the call's bytes → a verified ticket |
//! | [`source`] | a ticket → messages, as the client takes them |
//! | [`local`] | the messages of a part on this node's disk, window by window |
//! | [`remote`] | the messages of a part that others hold |
//! | [`incoming`] | another node's answer → messages |
//!
//! It answers below tonic, whose codec would copy every message.

pub mod incoming;
pub mod local;
pub mod remote;
pub mod request;
pub mod source;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use hyper::body::Incoming;
use volley_common::Result;
use volley_common::http2::{ReplyBody, grpc_error, grpc_frames};

use crate::state::Shared;
use source::Source;

/// Small messages go out together up to so many bytes: what a frame costs is then paid per MiB, and not per message.
const FRAME: usize = 1 << 20;
/// A node that asks another for a part says so by this header: the other must have it, and not ask on.
pub const HOP_HEADER: &str = "x-volley-hop";

/// Answers a DoGet. Errors that are known at once are the whole answer; later ones are its trailers.
pub async fn serve_get(state: Arc<Shared>, request: http::Request<Incoming>) -> http::Response<ReplyBody> {
    metrics::counter!("volley_get_streams_total").increment(1);
    match open(state, request).await {
        Ok(source) => grpc_frames(source.stream(FRAME)),
        Err(error) => {
            tracing::info!(code = ?error.code, %error, "a get was refused");
            grpc_error(error)
        }
    }
}

async fn open(state: Arc<Shared>, request: http::Request<Incoming>) -> Result<Source> {
    let (head, body) = request.into_parts();
    let bytes = request::read_ticket(body).await?;
    let ticket = request::verified(&state, &bytes, &head.headers).await?;
    Source::new(state, ticket, head.headers.contains_key(HOP_HEADER))
}
