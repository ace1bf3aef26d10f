//! The caller of a call that is SQL, and what is recorded of the call.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::request::Parts;
use volley_common::fairness::CallerKey;
use volley_common::identity::Access;
use volley_common::server::audit::{AuditEvent, AuditKind, request_id};
use volley_common::{Error, Result};

use super::statement_limit::StatementLimit;
use crate::assertion::{AssertedCaller, is_refused_by_coordinator};
use crate::context::SqlContext;

/// Who makes a call, and by what it is answered. Cheap to clone, apart from the headers.
#[derive(Clone)]
pub struct SqlCaller {
    /// What the call uses.
    pub context: Arc<SqlContext>,
    /// The rights.
    pub access: Access,
    /// As this node asserts the caller to other members.
    pub asserted: AssertedCaller,
    /// The call's headers.
    pub headers: Arc<HeaderMap>,
    /// How long its statements may take.
    pub limit: StatementLimit,
}

impl SqlCaller {
    /// That of a call with this head, into whose extensions the router has put the [`Access`].
    pub fn of(context: Arc<SqlContext>, head: &Parts) -> Self {
        let access = Access::of(&head.extensions);
        let asserted = AssertedCaller::client(access.clone(), context.get.cluster.clone()).named_by(&head.headers);
        let of_node = Duration::from_secs(context.put.config.statement_timeout_s);
        let limit = StatementLimit::of_headers(&head.headers, of_node);
        SqlCaller { context, access, asserted, headers: Arc::new(head.headers.clone()), limit }
    }

    /// Whom its queries are counted for.
    pub fn key(&self) -> CallerKey {
        CallerKey::of(&self.access)
    }

    /// Records how a call ended that reads these tables, or none in particular. What a coordinator refused, it has recorded.
    pub fn record_read<T>(&self, operation: &str, tables: &[Vec<String>], outcome: &Result<T>) {
        let result = outcome.as_ref().map(|_| ());
        if tables.is_empty() {
            return self.record(operation, None, result);
        }
        for table in tables {
            self.record(operation, Some(table.as_slice()), result);
        }
    }

    fn record(&self, operation: &str, table: Option<&[String]>, result: Result<(), &Error>) {
        let event = self.event(operation, table, result);
        if !is_refused_by_coordinator(&event) {
            self.context.get.audit.record(event);
        }
    }

    /// Records that this node itself refuses a call.
    pub fn record_refusal(&self, operation: &str, error: &Error) {
        self.context.get.audit.record(self.event(operation, None, Err(error)));
    }

    fn event<'a>(
        &'a self,
        operation: &'a str,
        table: Option<&'a [String]>,
        result: Result<(), &'a Error>,
    ) -> AuditEvent<'a> {
        let request_id = request_id(&self.headers);
        AuditEvent { access: &self.access, kind: AuditKind::Read, operation, table, request_id, result }
    }
}
