//! A put: writes rows into parts, copies the parts to their holders, and commits once.
//!
//! `run` has the steps in order, and each step is a file:
//!
//! | module | step |
//! |---|---|
//! | [`handshake`] | reads the first messages: descriptor, options, schema |
//! | [`plan`] | begins the write at the coordinators, which choose the targets |
//! | [`write`](mod@write) | a thread turns messages into sealed parts; [`shards`] (pure) splits rows into shards |
//! | [`growth`] | bounds what is stored by what was sent |
//! | [`replicate`] | copies sealed parts to their holders |
//! | [`commit`] | commits the write, or rolls it back |
//! | [`ack_stream`] | the results that the client reads during the put |
//!
//! The messages are decoded below tonic, whose codec would add a copy of every body.

pub mod ack_stream;
pub mod commit;
pub mod growth;
pub mod handshake;
pub mod plan;
pub mod replicate;
pub mod shards;
pub mod write;

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::Request;
use hyper::body::Incoming;
use tokio::sync::mpsc;
use tonic::metadata::MetadataMap;
use volley_common::http2::{CompleteBody, ReplyBody, grpc_error, grpc_frames};
use volley_common::ipc::flight_decoder::FlightDataStream;
use volley_common::ipc::flight_encoder::encode_put_result;
use volley_common::{Error, Result};

use crate::context::PutContext;
use ack_stream::{AckSender, AckStream};
use handshake::PutMessages;
use plan::PutPlan;

/// Answers a DoPut.
pub fn serve_put(context: Arc<PutContext>, request: Request<Incoming>) -> http::Response<ReplyBody> {
    let (head, body) = request.into_parts();
    if let Err(error) = check_encoding(&head.headers) {
        return grpc_error(error);
    }
    let input = FlightDataStream::new(CompleteBody(body), context.config.max_message);
    let acks = put(context, MetadataMap::from_headers(head.headers), input);
    grpc_frames(acks.map(|ack| Ok(encode_put_result(&ack?.app_metadata))))
}

/// Refuses messages that gRPC compressed; Arrow's own compression is accepted.
fn check_encoding(headers: &http::HeaderMap) -> Result<()> {
    match headers.get("grpc-encoding").map(|encoding| encoding.as_bytes()) {
        None | Some(b"identity") => Ok(()),
        Some(other) => Err(Error::unimplemented(format!(
            "gRPC messages compressed by {} are not accepted: switch off the channel's compression (Arrow's own is accepted)",
            String::from_utf8_lossy(other)
        ))),
    }
}

/// Runs a put as a task of its own. If the client disconnects before its stream ends, the put is rolled back. After the
/// end of the stream it is committed, whether or not the client reads the results.
///
/// `headers`: the call's, which may hold options. An error in `input` means that the client did not finish.
pub fn put(context: Arc<PutContext>, headers: MetadataMap, input: impl PutMessages + 'static) -> AckStream {
    let (acks, stream) = ack_stream::channel();
    let tasks = context.tasks.clone();
    tasks.spawn(async move {
        let outcome = run(context, headers, input, &acks).await;
        acks.end(outcome);
    });
    stream
}

/// The steps of a put. Returns the outcome as JSON.
///
/// # Errors
/// Those of the input, the table and the cluster. After an error nothing is visible, unless its message says that the
/// outcome is unknown.
async fn run(
    context: Arc<PutContext>,
    headers: MetadataMap,
    mut input: impl PutMessages,
    acks: &AckSender,
) -> Result<Bytes> {
    let handshake = handshake::read(&mut input, &headers, context.config.max_message, acks).await?;
    let write = match plan::begin(context, &handshake).await? {
        PutPlan::Write(write) => write,
        PutPlan::Committed(outcome) => {
            write::skip_rows(&mut input, acks).await?;
            return Ok(outcome);
        }
    };
    let config = write.sink_config();
    let (sealed, sealed_parts) = mpsc::channel(write::SEALED_PARTS);
    let writing = async {
        let (messages, queue) = mpsc::channel(write::QUEUED_MESSAGES);
        let writer = write::start(config, handshake.decoder, queue, sealed)?;
        tokio::try_join!(write::feed(input, acks, messages), write::join_writer(writer)).map(|_| ())
    };
    commit::execute(write, writing, sealed_parts).await
}

#[cfg(test)]
pub(crate) mod tests;
