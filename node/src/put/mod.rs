//! A put: rows into parts, parts to their holders, one commit.
//!
//! | module | what it does |
//! |---|---|
//! | [`opening`] | its first messages: descriptor, options, schema |
//! | [`pipeline`] | its way from there to its commit |
//! | [`shards`] | rows → shards; pure |
//! | [`writer`] | messages → sealed parts, on a thread |
//! | [`replicate`] | sealed parts → their holders |
//! | [`results`] | the answers |
//!
//! Its messages are taken in below tonic, whose codec would copy every body once more.

pub mod opening;
pub mod pipeline;
pub mod replicate;
pub mod results;
pub mod shards;
pub mod writer;

use std::sync::Arc;

use futures::StreamExt;
use http::Request;
use hyper::body::Incoming;
use tonic::metadata::MetadataMap;
use volley_common::http2::{CompleteBody, ReplyBody, grpc_error, grpc_frames};
use volley_common::ipc::flight_decoder::FlightDataStream;
use volley_common::ipc::flight_encoder::encode_put_result;
use volley_common::{Error, Result};

use crate::state::Shared;
pub use opening::Input;
pub use results::ResultStream;

/// Answers a DoPut.
pub fn serve_put(state: Arc<Shared>, request: Request<Incoming>) -> http::Response<ReplyBody> {
    let (head, body) = request.into_parts();
    if let Err(error) = check_encoding(&head.headers) {
        return grpc_error(error);
    }
    let input = FlightDataStream::new(CompleteBody(body), state.config.max_message);
    let results = put(state, MetadataMap::from_headers(head.headers), input);
    grpc_frames(results.map(|result| Ok(encode_put_result(&result?.app_metadata))))
}

/// Whether messages come as they are.
fn check_encoding(headers: &http::HeaderMap) -> Result<()> {
    match headers.get("grpc-encoding").map(|encoding| encoding.as_bytes()) {
        None | Some(b"identity") => Ok(()),
        Some(other) => Err(Error::unimplemented(format!(
            "gRPC messages compressed by {} are not taken: switch the compression of the channel off (Arrow's own is taken)",
            String::from_utf8_lossy(other)
        ))),
    }
}

/// Takes a put in. It runs as a task of its own: when the client goes away it is undone, and once the
/// client's stream has come to its end it is committed, whether or not anybody reads the answers.
///
/// `headers`: the call's, which may hold options. An error in `input` means that the client did not finish.
pub fn put(state: Arc<Shared>, headers: MetadataMap, input: impl Input + 'static) -> ResultStream {
    let (results, stream) = results::channel();
    let puts = state.puts.clone();
    puts.spawn(async move {
        let outcome = pipeline::run(state, headers, input, &results).await;
        results.end(outcome);
    });
    stream
}

#[cfg(test)]
pub(crate) mod tests;
