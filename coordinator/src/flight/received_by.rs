//! How a call arrived: which listener applies to it, and whether the client's connection has TLS.

use std::sync::Arc;

use http::{Extensions, HeaderMap};
use volley_common::Result;
use volley_common::options::{CLIENT_TLS_HEADER, LISTENER_HEADER, header_text};
use volley_common::tls::Caller;

use crate::client_listener::{ClientListener, ListenerTable};

/// How a call arrived, passed to the tonic services as a request extension.
#[derive(Clone)]
pub struct ReceivedBy {
    /// The name of the listener that received it.
    pub listener: Arc<str>,
    /// Whether the client's connection has TLS.
    pub client_tls: bool,
}

/// The client listener that applies to a call.
///
/// # Errors
/// As [`ListenerTable::resolve`]. INVALID_ARGUMENT: a header is not ASCII.
pub fn client_listener(
    listeners: &ListenerTable,
    extensions: &Extensions,
    headers: &HeaderMap,
) -> Result<ClientListener> {
    let received_by = extensions.get::<ReceivedBy>();
    let name = received_by.map_or("", |received_by| &*received_by.listener);
    let listener = listeners.resolve(name, header_text(headers, LISTENER_HEADER)?)?;
    Ok(ClientListener { client_tls: received_by.is_some_and(|received_by| received_by.client_tls), ..listener })
}

/// Whether a client's connection has TLS: at this listener, or at the node that forwarded its call. A member that calls is
/// no client: its own TLS says nothing about the client's.
pub fn is_client_tls(extensions: &Extensions, headers: &HeaderMap) -> bool {
    let is_client = match Caller::of(extensions) {
        Caller::Anonymous | Caller::Client(_) => true,
        Caller::Plaintext | Caller::Member(_) => false,
    };
    is_client || headers.contains_key(CLIENT_TLS_HEADER)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::HeaderValue;
    use volley_common::tls::{ClientIdentity, MemberIdentity, MemberRole};

    use super::*;

    #[test]
    fn client_has_tls_at_this_listener_or_at_a_node() {
        let member = MemberIdentity { role: MemberRole::Node, name: "n1".into() };
        let client = ClientIdentity { name: "alice".into(), ..ClientIdentity::default() };
        for (caller, is_tls) in [
            (Caller::Plaintext, false),
            (Caller::Member(Arc::new(member)), false),
            (Caller::Anonymous, true),
            (Caller::Client(Arc::new(client)), true),
        ] {
            let (mut extensions, mut headers) = (Extensions::new(), HeaderMap::new());
            extensions.insert(caller.clone());
            assert_eq!(is_client_tls(&extensions, &headers), is_tls, "{caller}");
            headers.insert(CLIENT_TLS_HEADER, HeaderValue::from_static("true"));
            assert!(is_client_tls(&extensions, &headers), "{caller}");
        }
    }

    #[test]
    fn header_with_two_values_is_refused() {
        let mut headers = HeaderMap::new();
        assert_eq!(header_text(&headers, LISTENER_HEADER).unwrap(), None);
        headers.append(LISTENER_HEADER, HeaderValue::from_static("inside"));
        headers.append(LISTENER_HEADER, HeaderValue::from_static("inside"));
        assert_eq!(header_text(&headers, LISTENER_HEADER).unwrap(), Some("inside"));
        headers.append(LISTENER_HEADER, HeaderValue::from_static("outside"));
        assert!(header_text(&headers, LISTENER_HEADER).unwrap_err().message.contains(LISTENER_HEADER));
    }
}
