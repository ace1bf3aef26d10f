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

pub mod opening;
pub mod pipeline;
pub mod replicate;
pub mod results;
pub mod shards;
pub mod writer;

use std::sync::Arc;

use tonic::metadata::MetadataMap;

use crate::state::Shared;
pub use opening::Input;
pub use results::ResultStream;

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
