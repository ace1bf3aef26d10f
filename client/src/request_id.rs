//! The id of a call: members have it in their logs, and the caller in the call's error.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use volley_common::ids::new_request_id;
use volley_common::server::audit::REQUEST_ID_HEADER;
use volley_common::{Error, Result};

use super::Client;

/// The id of one call, its repetitions, and the calls that it consists of. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(Arc<str>);

impl RequestId {
    /// A new id.
    pub(crate) fn new() -> Self {
        RequestId(new_request_id().into())
    }

    /// Adds the id to the headers of a call, unless its caller gave it another one.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap) {
        // Hexadecimal digits fit into a header.
        if let Ok(value) = HeaderValue::from_str(&self.0) {
            headers.entry(REQUEST_ID_HEADER).or_insert(value);
        }
    }

    /// The id.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// The error of the call.
    pub(crate) fn name(&self, error: Error) -> Error {
        error.of_request(&self.0)
    }
}

impl Client {
    /// The client for one call: with the id of the call that it is a part of, or else a new one.
    pub(crate) fn for_call(&self) -> Client {
        Client { request_id: Some(self.request_id.clone().unwrap_or_else(RequestId::new)), ..self.clone() }
    }

    /// The error of the call that this client is for.
    pub(crate) fn name(&self, error: Error) -> Error {
        match &self.request_id {
            Some(id) => id.name(error),
            None => error,
        }
    }

    /// The outcome of the call that this client is for.
    pub(crate) fn named<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.map_err(|error| self.name(error))
    }
}
