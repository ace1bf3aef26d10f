//! What answers updates, bound parameters and actions.

use arrow::datatypes::Schema;
use arrow_flight::CancelStatus;
use arrow_flight::sql::{
    ActionCancelQueryResult, ActionCreatePreparedStatementResult, Any, DoPutPreparedStatementResult, DoPutUpdateResult,
    ProstMessageExt,
};
use bytes::Bytes;
use prost::Message;
use volley_common::ipc::schema::schema_message;
use volley_common::{Error, Result};

/// Most bytes of what a message carries: clients receive 4 MiB, and the message has more around it.
pub(super) const MAX_MESSAGE_BYTES: usize = (4 << 20) - (64 << 10);

/// `ActionCreatePreparedStatementResult` with a field that arrow-flight does not have yet.
#[derive(Clone, PartialEq, Message)]
struct CreatedStatement {
    #[prost(bytes = "bytes", tag = "1")]
    prepared_statement_handle: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    dataset_schema: Bytes,
    #[prost(bytes = "bytes", tag = "3")]
    parameter_schema: Bytes,
    #[prost(bool, optional, tag = "4")]
    is_update: Option<bool>,
}

/// The app_metadata of the PutResult of an update: how many rows it has changed, -1 if that is not known.
pub fn update_result(rows: i64) -> Bytes {
    DoPutUpdateResult { record_count: rows }.encode_to_vec().into()
}

/// The app_metadata of the PutResult of bound parameters: the handle to use from now on.
pub fn prepared_result(handle: Bytes) -> Bytes {
    DoPutPreparedStatementResult { prepared_statement_handle: Some(handle) }.encode_to_vec().into()
}

/// The body of the result of CreatePreparedStatement. `dataset`: the columns of a query; none for a statement that changes tables,
/// by which JDBC tells them apart; later clients read `is_update`. `parameters`: the parameters in their order.
///
/// # Errors
/// INVALID_ARGUMENT: a type that IPC cannot encode. RESOURCE_EXHAUSTED: the schemas do not fit into a message.
pub fn created_result(handle: Bytes, dataset: Option<&Schema>, parameters: &Schema) -> Result<Bytes> {
    let result = CreatedStatement {
        prepared_statement_handle: handle,
        dataset_schema: dataset.map(schema_message).transpose()?.unwrap_or_default(),
        parameter_schema: schema_message(parameters)?,
        is_update: Some(dataset.is_none()),
    };
    let type_url = ActionCreatePreparedStatementResult::type_url().to_string();
    let bytes: Bytes = Any { type_url, value: result.encode_to_vec().into() }.encode_to_vec().into();
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(Error::exhausted(format!(
            "the prepared statement and its schemas have {} bytes, and a message at most {MAX_MESSAGE_BYTES}: run it without preparing it, or select fewer columns",
            bytes.len()
        )));
    }
    Ok(bytes)
}

/// The body of the result of CancelQuery.
pub fn cancel_result(status: CancelStatus) -> Bytes {
    // Both enums have the same numbers.
    ActionCancelQueryResult { result: status as i32 }.as_any().encode_to_vec().into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow::datatypes::{DataType, Field};
    use arrow_flight::IpcMessage;
    use volley_common::Code;

    use super::*;

    #[test]
    fn results_of_puts_are_bare_messages() {
        let update = |rows| DoPutUpdateResult::decode(update_result(rows)).unwrap().record_count;
        assert_eq!([update(0), update(7), update(-1)], [0, 7, -1]);
        let handle = Bytes::from_static(b"handle");
        let bound = DoPutPreparedStatementResult::decode(prepared_result(handle.clone())).unwrap();
        assert_eq!(bound.prepared_statement_handle, Some(handle));
    }

    fn created(dataset: Option<&Schema>, parameters: &Schema) -> ActionCreatePreparedStatementResult {
        let body = created_result(Bytes::from_static(b"handle"), dataset, parameters).unwrap();
        Any::decode(body).unwrap().unpack().unwrap().unwrap()
    }

    #[test]
    fn created_statement_has_the_schemas_that_clients_read() {
        let dataset = Schema::new(vec![Field::new("n", DataType::Int64, false)]);
        let parameters = Schema::new(vec![Field::new("$1", DataType::Utf8, true)]);
        let result = created(Some(&dataset), &parameters);
        assert_eq!(result.prepared_statement_handle, &b"handle"[..]);
        assert_eq!(Schema::try_from(IpcMessage(result.dataset_schema)).unwrap(), dataset);
        assert_eq!(Schema::try_from(IpcMessage(result.parameter_schema)).unwrap(), parameters);
    }

    #[test]
    fn created_update_has_no_dataset_and_maybe_no_parameters() {
        let result = created(None, &Schema::empty());
        assert!(result.dataset_schema.is_empty());
        assert_eq!(Schema::try_from(IpcMessage(result.parameter_schema)).unwrap(), Schema::empty());
    }

    #[test]
    fn created_statement_says_whether_it_changes_tables() {
        let query = Schema::new(vec![Field::new("n", DataType::Int64, false)]);
        for (dataset, is_update) in [(Some(&query), false), (None, true)] {
            let body = created_result(Bytes::from_static(b"handle"), dataset, &Schema::empty()).unwrap();
            let result = CreatedStatement::decode(Any::decode(body).unwrap().value).unwrap();
            assert_eq!(result.is_update, Some(is_update));
        }
    }

    #[test]
    fn created_result_over_a_message_is_refused() {
        let long = "x".repeat(60_000);
        let fields = (0..80).map(|at| Field::new(format!("{at}{long}"), DataType::Int64, false));
        let wide = Schema::new(fields.collect::<Vec<_>>());
        let error = created_result(Bytes::new(), Some(&wide), &Schema::empty()).unwrap_err();
        assert_eq!(error.code, Code::ResourceExhausted);
    }

    #[test]
    fn cancel_result_has_the_number_of_its_status() {
        for (status, number) in [
            (CancelStatus::Unspecified, 0),
            (CancelStatus::Cancelled, 1),
            (CancelStatus::Cancelling, 2),
            (CancelStatus::NotCancellable, 3),
        ] {
            let result: ActionCancelQueryResult =
                Any::decode(cancel_result(status)).unwrap().unpack().unwrap().unwrap();
            assert_eq!(result.result, number);
        }
    }
}
