//! On whose behalf a node calls other members: a client, whose principal is asserted with each call, or the cluster itself.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use tonic::metadata::MetadataMap;
use volley_common::identity::{ASSERTION_HEADER, Access, sign_header, signed_bytes};
use volley_common::server::audit::{AuditEvent, REQUEST_ID_HEADER, request_id};
use volley_common::ticket::TicketKey;
use volley_common::tls::Caller;
use volley_common::wire::cluster::Assertion;
use volley_common::{Code, Error, Result, clock};

use crate::cluster_view::ClusterView;

/// The header of a get that a node makes for the cluster's own work, such as a compaction: a signed assertion that names no
/// principal and no method, so that no client's assertion has the same bytes.
const OWN_WORK_HEADER: &str = "x-volley-own-work-bin";
/// How long such a header is valid, milliseconds: as long as a client's assertion.
const OWN_WORK_MS: u64 = 60_000;
/// More of a client's name for its call is not told to other members: a line of the audit log has no more of it either.
const MAX_REQUEST_ID: usize = 1024;

/// A caller, as this node asserts it to other members. Cheap to clone.
///
/// Assertions expire within a minute, so they are made for each call, not once for a get or a put.
#[derive(Clone)]
pub struct AssertedCaller {
    caller: CallOrigin,
    cluster: Arc<ClusterView>,
    /// How the client names its call.
    request_id: Option<HeaderValue>,
}

#[derive(Clone)]
enum CallOrigin {
    Client(Access),
    Cluster,
}

impl AssertedCaller {
    /// A client. Without a principal, as in an open cluster, nothing is asserted.
    pub fn client(access: Access, cluster: Arc<ClusterView>) -> Self {
        AssertedCaller { caller: CallOrigin::Client(access), cluster, request_id: None }
    }

    /// The cluster's own work, which no client requested.
    pub fn cluster(cluster: Arc<ClusterView>) -> Self {
        AssertedCaller { caller: CallOrigin::Cluster, cluster, request_id: None }
    }

    /// The same, and other members are told how the client names its call, if these headers of the call do: then it is found in
    /// their audit logs.
    pub fn named_by(mut self, headers: &HeaderMap) -> Self {
        let name = request_id(headers).map(|name| &name[..name.len().min(MAX_REQUEST_ID)]);
        self.request_id = name.and_then(|name| HeaderValue::from_str(name).ok());
        self
    }

    /// How the client names its call.
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_ref()?.to_str().ok()
    }

    /// Adds the assertion and the client's name for its call to the headers of a call of `path`. Before the node's first session
    /// there is no key and no assertion.
    pub fn assert_in(&self, headers: &mut HeaderMap, path: &str) {
        if let Some(id) = &self.request_id {
            headers.insert(REQUEST_ID_HEADER, id.clone());
        }
        let Some(key) = self.cluster.ticket_key.load_full() else { return };
        let now_ms = clock::now_ms();
        match &self.caller {
            CallOrigin::Client(access) => {
                if let Some(value) = access.assertion(&key, path, now_ms) {
                    headers.insert(ASSERTION_HEADER, value);
                }
            }
            CallOrigin::Cluster => {
                if let Some(value) = own_work(&key, path, now_ms) {
                    headers.insert(OWN_WORK_HEADER, value);
                }
            }
        }
    }

    /// The client's access; `None` for the cluster's own work.
    pub fn access(&self) -> Option<&Access> {
        match &self.caller {
            CallOrigin::Client(access) => Some(access),
            CallOrigin::Cluster => None,
        }
    }

    /// The request of a call of `path`, with the assertion as metadata.
    pub fn request<T>(&self, path: &str, message: T) -> tonic::Request<T> {
        let mut headers = HeaderMap::new();
        self.assert_in(&mut headers, path);
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = MetadataMap::from_headers(headers);
        request
    }
}

fn own_work(key: &TicketKey, path: &str, now_ms: u64) -> Option<HeaderValue> {
    let assertion = Assertion { path: path.into(), expires_ms: now_ms + OWN_WORK_MS, ..Assertion::default() };
    sign_header(key, &assertion)
}

/// Whether the headers of a call of `path` prove that a member makes it for the cluster's own work. `caller`: what is known of
/// the connection.
///
/// # Errors
/// UNAUTHENTICATED: they say so, but no member calls, or this cluster's key did not sign it, or for another call. Those of
/// [`TicketKey::verify_assertion`].
pub fn is_own_work(headers: &HeaderMap, caller: &Caller, key: &TicketKey, path: &str, now_ms: u64) -> Result<bool> {
    let Some(value) = headers.get(OWN_WORK_HEADER) else { return Ok(false) };
    let invalid = || Error::unauthenticated(format!("the header {OWN_WORK_HEADER} is not a member's: leave it out"));
    if matches!(caller, Caller::Client(_) | Caller::Anonymous) {
        return Err(invalid());
    }
    let signed = signed_bytes(value).ok_or_else(invalid)?;
    let assertion = key.verify_assertion(&signed, now_ms)?;
    match assertion.principal.is_empty() && assertion.method == 0 && assertion.path == path {
        true => Ok(true),
        false => Err(invalid()),
    }
}

/// Whether a call that a coordinator answered with this error is in the coordinator's audit log: it records what it refuses to
/// the principal that this node asserts. Of UNAUTHENTICATED it knows no principal.
pub fn is_refused_by_coordinator(event: &AuditEvent<'_>) -> bool {
    event.is_refusal() && event.result.is_err_and(|error| error.code != Code::Unauthenticated)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tonic::metadata::BinaryMetadataValue;
    use volley_common::grpc::DO_GET;

    use super::*;

    fn cluster() -> (Arc<ClusterView>, TicketKey) {
        let (cluster, key) = (Arc::<ClusterView>::default(), TicketKey::new(&[7; 32]));
        cluster.ticket_key.store(Some(Arc::new(key.clone())));
        (cluster, key)
    }

    #[test]
    fn own_work_is_proved_for_its_call_its_time_and_its_cluster() {
        let (cluster, key) = cluster();
        let mut headers = HeaderMap::new();
        AssertedCaller::cluster(cluster).assert_in(&mut headers, DO_GET);
        let now = clock::now_ms();
        assert!(is_own_work(&headers, &Caller::Plaintext, &key, DO_GET, now).unwrap());
        is_own_work(&headers, &Caller::Anonymous, &key, DO_GET, now).unwrap_err();
        let refused =
            |key: &TicketKey, path: &str, now| is_own_work(&headers, &Caller::Plaintext, key, path, now).unwrap_err();
        assert_eq!(refused(&key, "/arrow.flight.protocol.FlightService/DoPut", now).code, Code::Unauthenticated);
        refused(&key, DO_GET, now + 10 * OWN_WORK_MS);
        refused(&TicketKey::new(&[8; 32]), DO_GET, now);
    }

    #[test]
    fn forged_or_missing_header_is_no_own_work() {
        let (_, key) = cluster();
        let is_own_work = |headers: &HeaderMap| is_own_work(headers, &Caller::Plaintext, &key, DO_GET, 1);
        assert!(!is_own_work(&HeaderMap::new()).unwrap());
        // As a client's assertion would be, if it were moved to this header.
        let of_client = Assertion {
            principal: "ann".into(),
            method: 1,
            path: DO_GET.into(),
            expires_ms: 60_000,
            ..Assertion::default()
        };
        let mut metadata = MetadataMap::new();
        for bytes in [key.sign_assertion(&of_client), Vec::new(), vec![7; 100]] {
            metadata.insert_bin(OWN_WORK_HEADER, BinaryMetadataValue::from_bytes(&bytes));
            is_own_work(metadata.as_ref()).unwrap_err();
        }
        let mut text = HeaderMap::new();
        text.insert(OWN_WORK_HEADER, http::HeaderValue::from_static("*"));
        assert_eq!(is_own_work(&text).unwrap_err().code, Code::Unauthenticated);
    }

    #[test]
    fn name_of_the_client_for_its_call_is_told_to_other_members() {
        let told = |name: &[u8]| {
            let of_client = HeaderMap::from_iter([(
                http::HeaderName::from_static(REQUEST_ID_HEADER),
                HeaderValue::from_bytes(name).unwrap(),
            )]);
            let mut headers = HeaderMap::new();
            AssertedCaller::client(Access::open(), cluster().0).named_by(&of_client).assert_in(&mut headers, DO_GET);
            headers.get(REQUEST_ID_HEADER).map(|name| name.to_str().unwrap().to_string())
        };
        assert_eq!(told(b"job-7").unwrap(), "job-7");
        assert_eq!(told(&[b'x'; 50_000]).unwrap().len(), MAX_REQUEST_ID);
        assert_eq!(told(b"\xff"), None, "no line shows it");
    }

    #[test]
    fn caller_without_principal_or_key_asserts_nothing() {
        let mut headers = HeaderMap::new();
        AssertedCaller::client(Access::open(), cluster().0).assert_in(&mut headers, DO_GET);
        AssertedCaller::cluster(Arc::default()).assert_in(&mut headers, DO_GET);
        assert!(headers.is_empty(), "{headers:?}");
    }
}
