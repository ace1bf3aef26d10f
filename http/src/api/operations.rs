//! The table of all operations. Routes and OpenAPI document are made of it, so neither has what the other lacks.

use super::read_plan::READ_OPTIONS;
use super::{data, put, sql, tables};
use crate::negotiation::ROW_FORMATS;

/// What serves an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OperationKind {
    ListTables,
    DescribeTable,
    ListPartitions,
    ReadData,
    ReplaceData,
    AppendData,
    RunStatement,
    ShowDocument,
}

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OperationContent {
    /// None.
    Nothing,
    /// Rows, in any format.
    Rows,
    /// A JSON object.
    Json,
    /// A statement.
    Statement,
    /// Rows, or a JSON object that says what was done.
    RowsOrJson,
}

/// One operation.
#[derive(Debug)]
pub(crate) struct HttpOperation {
    /// What serves it.
    pub kind: OperationKind,
    /// Its name, in metrics and in the document.
    pub name: &'static str,
    /// `get`, `put` or `post`.
    pub method: &'static str,
    /// Its path; `{table}` is the rest of it.
    pub path: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// The parameters of its query string.
    pub parameters: &'static [&'static str],
    /// Headers that it reads, besides those of HTTP that every request may have.
    pub headers: &'static [&'static str],
    /// The body of the request.
    pub request: OperationContent,
    /// The body of the response.
    pub response: OperationContent,
}

use OperationContent::{Json, Nothing, Rows, RowsOrJson, Statement};

/// All operations.
pub(crate) static OPERATIONS: [HttpOperation; 8] = [
    HttpOperation {
        kind: OperationKind::ListTables,
        name: "listTables",
        method: "get",
        path: "/api/v1/tables",
        summary: "List the tables that the caller may see, sorted by name.",
        parameters: &tables::PARAMETERS,
        headers: &[],
        request: Nothing,
        response: Json,
    },
    HttpOperation {
        kind: OperationKind::DescribeTable,
        name: "describeTable",
        method: "get",
        path: "/api/v1/tables/{table}",
        summary: "Describe a table: version, rows, bytes, options, columns.",
        parameters: &[],
        headers: &[],
        request: Nothing,
        response: Json,
    },
    HttpOperation {
        kind: OperationKind::ListPartitions,
        name: "listPartitions",
        method: "get",
        path: "/api/v1/partitions/{table}",
        summary: "List the partitions of a read, which can be fetched in parallel, each by its address.",
        parameters: &READ_OPTIONS,
        headers: &[],
        request: Nothing,
        response: Json,
    },
    HttpOperation {
        kind: OperationKind::ReadData,
        name: "readData",
        method: "get",
        path: "/api/v1/data/{table}",
        summary: "Read the rows of one version of a table, in the format that the header accept prefers.",
        parameters: &data::PARAMETERS,
        headers: &["if-none-match", "if-range", "range"],
        request: Nothing,
        response: Rows,
    },
    HttpOperation {
        kind: OperationKind::ReplaceData,
        name: "replaceData",
        method: "put",
        path: "/api/v1/data/{table}",
        summary: "Replace the rows of a table, or create it, as one write: all of it is visible, or nothing.",
        parameters: &put::PARAMETERS,
        headers: &["idempotency-key"],
        request: Rows,
        response: Json,
    },
    HttpOperation {
        kind: OperationKind::AppendData,
        name: "appendData",
        method: "post",
        path: "/api/v1/data/{table}",
        summary: "Add rows to a table, as one write: all of it is visible, or nothing.",
        parameters: &put::PARAMETERS,
        headers: &["idempotency-key"],
        request: Rows,
        response: Json,
    },
    HttpOperation {
        kind: OperationKind::RunStatement,
        name: "runStatement",
        method: "post",
        path: "/api/v1/sql",
        summary: "Run a statement of SQL: the rows of a query, or what another statement has done.",
        parameters: &sql::PARAMETERS,
        headers: &[],
        request: Statement,
        response: RowsOrJson,
    },
    HttpOperation {
        kind: OperationKind::ShowDocument,
        name: "showDocument",
        method: "get",
        path: "/api/v1/openapi.json",
        summary: "Show this document.",
        parameters: &[],
        headers: &[],
        request: Nothing,
        response: Json,
    },
];

impl OperationContent {
    /// Its media types.
    pub fn media_types(self) -> Vec<&'static str> {
        let rows = || ROW_FORMATS.iter().map(|(media, _, _)| *media);
        match self {
            Nothing => Vec::new(),
            Rows => rows().collect(),
            Json => vec!["application/json"],
            Statement => sql::MEDIA_TYPES.to_vec(),
            RowsOrJson => rows().chain(["application/json"]).collect(),
        }
    }
}

/// The methods of a path, for the header `allow`; none if there is no such path.
pub(crate) fn methods_of(path: &str) -> Option<String> {
    let is_at = |operation: &&HttpOperation| match operation.path.split_once("{table}") {
        Some((prefix, _)) => path.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty()),
        None => operation.path == path,
    };
    let mut methods: Vec<String> = Vec::new();
    for operation in OPERATIONS.iter().filter(is_at) {
        methods.push(operation.method.to_uppercase());
        if operation.method == "get" {
            methods.push("HEAD".into());
        }
    }
    (!methods.is_empty()).then(|| methods.join(", "))
}
