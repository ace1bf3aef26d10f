//! The OpenAPI document, made of the table of operations.

use axum::response::Response;
use serde_json::{Map, Value, json};

use super::json_response;
use super::operations::{HttpOperation, OPERATIONS, OperationContent};
use crate::problem::PROBLEM_JSON;

/// What each parameter means, and its type.
const MEANINGS: [(&str, &str, &str); 24] = [
    ("prefix", "string", "Only tables whose names begin with this."),
    ("columns", "string", "The columns to send, in this order, separated by commas; repeated, each value is one name."),
    ("where", "string", "A condition in SQL: only rows for which it is true are sent."),
    ("limit", "integer", "The most rows to send."),
    ("version", "integer", "This version instead of the newest."),
    ("max_endpoints", "integer", "The most partitions of a read; of a put, for readers that request no number."),
    ("format", "string", "arrow, csv, ndjson or parquet: overrides the header accept."),
    ("null", "string", "The text for a null in CSV; nothing without it."),
    ("partition", "integer", "One partition of the plan, as listed."),
    ("plan", "string", "The plan whose partition it is, as listed."),
    ("mode", "string", "PUT: replace (the default) or create. POST: append (the default) or create_append."),
    ("shards", "integer", "Partitions of a new table."),
    ("shard_by", "string", "Columns whose hash determines a row's shard, separated by commas."),
    ("replicas", "integer", "Copies of every part."),
    ("compression", "string", "none, lz4, zstd or auto."),
    ("retention_s", "integer", "Seconds for which replaced rows remain readable."),
    ("ttl_s", "integer", "Seconds after its last write at which the table is dropped; 0: never."),
    ("stats_columns", "string", "Columns of which parts have statistics, separated by commas."),
    ("preserve_batches", "boolean", "Whether batches are kept as they are put."),
    ("shareable_tickets", "boolean", "Whether any principal may redeem the table's tickets."),
    ("idempotency-key", "string", "Names the write: repeated with it, it takes effect once."),
    ("if-none-match", "string", "304 in place of rows that the client has."),
    ("if-range", "string", "The header range counts only for this version."),
    ("range", "string", "Some rows: rows=0-99, rows=100- or rows=-100."),
];

/// Shows the document.
pub(crate) async fn show() -> Response {
    json_response(&document())
}

/// The document.
fn document() -> Value {
    let mut paths = Map::new();
    for operation in &OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = described(operation);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Volley: Arrow over HTTP",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Tables as Arrow streams, CSV, JSON lines and Parquet. Every member serves it. Bulk data is faster by Arrow Flight.",
        },
        "paths": paths,
        "security": [{ "basic": [] }, { "bearer": [] }, {}],
        "components": {
            "securitySchemes": {
                "basic": { "type": "http", "scheme": "basic" },
                "bearer": { "type": "http", "scheme": "bearer" },
            },
            "schemas": { "Problem": problem_schema() },
        },
    })
}

fn described(operation: &HttpOperation) -> Value {
    let mut described = json!({
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": parameters(operation),
        "responses": {
            "200": { "description": "Done.", "content": content(operation.response) },
            "default": {
                "description": "It failed: code is that of Flight, and detail says what to do.",
                "content": { PROBLEM_JSON: { "schema": { "$ref": "#/components/schemas/Problem" } } },
            },
        },
    });
    if operation.request != OperationContent::Nothing {
        described["requestBody"] = json!({ "required": true, "content": content(operation.request) });
    }
    if operation.headers.contains(&"range") {
        described["responses"]["206"] =
            json!({ "description": "The rows that the header range selects.", "content": content(operation.response) });
        described["responses"]["304"] = json!({ "description": "The client has this version already." });
    }
    described
}

fn parameters(operation: &HttpOperation) -> Value {
    let table = json!({
        "name": "table", "in": "path", "required": true, "schema": { "type": "string" },
        "description": "The table's name: its components joined by slashes, which are not escaped; all else is, as in any path.",
    });
    let of_path = operation.path.contains("{table}").then_some(table);
    let place = |place: &'static str| move |name: &&'static str| parameter(name, place);
    let query = operation.parameters.iter().map(place("query"));
    let headers = operation.headers.iter().map(place("header"));
    of_path.into_iter().chain(query).chain(headers).collect()
}

fn parameter(name: &str, place: &str) -> Value {
    let known = MEANINGS.iter().find(|(known, _, _)| *known == name);
    let (_, kind, meaning) = known.copied().unwrap_or((name, "string", ""));
    json!({ "name": name, "in": place, "required": false, "schema": { "type": kind }, "description": meaning })
}

fn content(content: OperationContent) -> Value {
    let types = content.media_types().into_iter().map(|media| (media.to_string(), json!({})));
    Value::Object(types.collect())
}

fn problem_schema() -> Value {
    json!({
        "type": "object",
        "description": "A problem document (RFC 9457).",
        "required": ["type", "title", "status", "detail", "code", "request_id"],
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string", "description": "What is wrong, and what to do." },
            "code": { "type": "string", "description": "The code of Flight, as NOT_FOUND." },
            "request_id": { "type": "string", "description": "The members' logs name the request so." },
            "retry_after_ms": { "type": "integer", "description": "Waiting helps: repeat the request after this time." },
        },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt::Write;

    use super::*;
    use crate::negotiation::ROW_FORMATS;

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/http-reference.md");

    const INTRODUCTION: &str = "\
# HTTP reference

For those who write a client of Arrow over HTTP: every operation, with what it takes and returns. [http.md](http.md) shows how they are used, with identity, errors, ranges and compression. Every member serves the same list as an OpenAPI document, at `/api/v1/openapi.json`.

`{table}` is the name of a table: its components joined by slashes, which are not escaped; all else is, as in any path. A test generates this page from the table of operations (`http/src/api/operations.rs`).

| operation | what it does | parameters | headers | body | response |
|---|---|---|---|---|---|
";

    fn in_code(words: &[&str]) -> String {
        words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
    }

    fn in_words(content: OperationContent) -> &'static str {
        match content {
            OperationContent::Nothing => "",
            OperationContent::Rows => "rows",
            OperationContent::Json => "JSON",
            OperationContent::Statement => "a statement",
            OperationContent::RowsOrJson => "rows, or JSON",
        }
    }

    fn page() -> String {
        let mut text = String::from(INTRODUCTION);
        for operation in &OPERATIONS {
            let (method, path, summary) = (operation.method.to_uppercase(), operation.path, operation.summary);
            let (parameters, headers) = (in_code(operation.parameters), in_code(operation.headers));
            let (request, response) = (in_words(operation.request), in_words(operation.response));
            writeln!(text, "| `{method} {path}` | {summary} | {parameters} | {headers} | {request} | {response} |")
                .unwrap();
        }
        text.push_str("\n## Parameters and headers\n\n| name | type | meaning |\n|---|---|---|\n");
        for (name, kind, meaning) in MEANINGS {
            writeln!(text, "| `{name}` | {kind} | {meaning} |").unwrap();
        }
        text.push_str("\n## Rows, statements, errors\n\n| media type | parameter `format` |\n|---|---|\n");
        for (media, format, _) in ROW_FORMATS {
            writeln!(text, "| `{media}` | `{format}` |").unwrap();
        }
        let statements = in_code(&OperationContent::Statement.media_types());
        writeln!(text, "\nA statement is {statements}. An error is a problem document, `{PROBLEM_JSON}`.").unwrap();
        text
    }

    #[test]
    fn reference_page_is_up_to_date() {
        if std::env::var_os("VOLLEY_UPDATE_DOCS").is_some() {
            std::fs::write(PAGE, page()).unwrap();
            return;
        }
        assert!(
            std::fs::read_to_string(PAGE).unwrap_or_default() == page(),
            "docs/http-reference.md is out of date: VOLLEY_UPDATE_DOCS=1 cargo test -p volley-http openapi"
        );
    }

    #[test]
    fn document_has_every_operation_and_parameter() {
        let document = document();
        let mut named = BTreeSet::new();
        for operation in &OPERATIONS {
            let described = &document["paths"][operation.path][operation.method];
            assert_eq!(described["operationId"], operation.name);
            let listed = described["parameters"].as_array().unwrap();
            let in_path = usize::from(operation.path.contains("{table}"));
            assert_eq!(listed.len(), operation.parameters.len() + operation.headers.len() + in_path);
            named.extend(operation.parameters.iter().chain(operation.headers).copied());
            assert!(listed.iter().all(|one| !one["description"].as_str().unwrap().is_empty()), "{described}");
        }
        let explained: BTreeSet<&str> = MEANINGS.iter().map(|(name, _, _)| *name).collect();
        assert_eq!(named, explained);
    }
}
