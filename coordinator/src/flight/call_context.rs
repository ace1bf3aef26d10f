//! One call of a client: who makes it, what it is about, and how it ended, for rights and the audit log.

use std::sync::{Arc, OnceLock};

use http::{Extensions, HeaderMap, HeaderValue};
use volley_common::identity::Access;
use volley_common::server::audit::{AuditEvent, AuditKind, AuditLog, REQUEST_ID_HEADER};
use volley_common::telemetry::trace::note;
use volley_common::{Error, Result, TableName};

use super::rights::Requirement;

/// One call of a client. The router puts it into the extensions of the request. Cheap to clone.
#[derive(Clone)]
pub struct CallContext {
    access: Access,
    audit: AuditLog,
    /// What the client calls it, as the header was sent.
    request_id: Option<HeaderValue>,
    /// The table, or the prefix, that it is about; the first one, if there are several.
    table: Arc<OnceLock<Vec<String>>>,
    /// What else an administrator's call is about: a user, a token's id, a grant, a member.
    target: Arc<OnceLock<String>>,
}

impl CallContext {
    /// A call of an identified caller.
    pub fn new(access: Access, audit: AuditLog, headers: &HeaderMap) -> Self {
        let request_id = headers.get(REQUEST_ID_HEADER).cloned();
        CallContext { access, audit, request_id, table: Arc::default(), target: Arc::default() }
    }

    /// The call of a request, from its extensions. A request without one has no rights.
    pub fn of(extensions: &Extensions) -> Self {
        let found = extensions.get::<CallContext>().cloned();
        found.unwrap_or_else(|| CallContext::new(Access::of(&Extensions::new()), AuditLog::off(), &HeaderMap::new()))
    }

    /// The caller and its rights.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The header by which the client names the call, for calls to other members because of it.
    pub fn request_id(&self) -> Option<&HeaderValue> {
        self.request_id.as_ref()
    }

    /// Checks what the call requires for the table that it names.
    ///
    /// # Errors
    /// Those of [`Requirement::check_table`].
    pub fn require(&self, requirement: Requirement, table: &TableName) -> Result<()> {
        self.note_table(table.components());
        requirement.check_table(&self.access, table.components())
    }

    /// Notes for the audit log, and for the span, the table, or the prefix, that the call is about.
    pub fn note_table(&self, name: &[String]) {
        // Of several tables the first one.
        if self.table.set(name.to_vec()).is_ok() {
            note("volley.table", || name.join("/"));
        }
    }

    /// Notes for the audit log what else the call is about; nothing secret.
    pub fn note_target(&self, target: &str) {
        if !target.is_empty() {
            let _ = self.target.set(target.into());
        }
    }

    /// Records in the audit log how the call ended.
    pub fn record(&self, kind: AuditKind, operation: &str, result: Result<(), &Error>) {
        let event = AuditEvent {
            access: &self.access,
            kind,
            operation,
            table: self.table.get().map(Vec::as_slice),
            request_id: self.request_id.as_ref().and_then(|id| id.to_str().ok()),
            result,
        };
        self.audit.record_about(event, self.target.get().map(String::as_str));
    }
}
