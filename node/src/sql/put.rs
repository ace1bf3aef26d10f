//! DoPut: statements that change tables, parameters of prepared statements, ingests; what is none of these is a put of
//! [`crate::put`].

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_flight::FlightData;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;
use serde_json::Map;
use tonic::metadata::MetadataMap;
use volley_common::http2::{ReplyBody, grpc_error, grpc_frames};
use volley_common::identity::Access;
use volley_common::ipc::flight_encoder::encode_put_result;
use volley_common::options::HEADER_PREFIX;
use volley_common::options::fields::cut;
use volley_common::options::sql::{SqlContent, is_flight_sql, sql_of_descriptor};
use volley_common::{Error, Result};
use volley_sql::flight_sql::{self, IngestCommand, IngestMode, PreparedHandle, SqlCommand};

use super::caller::SqlCaller;
use super::parameters::{read_rows, read_stream};
use super::request::{StatementText, prepared, statement_text, update_transaction};
use super::update::{UpdateCall, descriptor_of, update_statement};
use crate::context::SqlContext;
use crate::coordinator_proxy::CoordinatorProxy;
use crate::put::handshake::next_message;
use crate::put::{self, AdmittedPut, PutInput, PutTarget};

/// The metadata of the results of a put, in their order.
type PutReplies = BoxStream<'static, Result<Bytes>>;

/// Answers a DoPut. The client gets results as soon as it has sent its first message.
pub fn serve_put(context: Arc<SqlContext>, proxy: CoordinatorProxy, request: Request<Incoming>) -> Response<ReplyBody> {
    let admitted = match put::admit(&context.put, request) {
        Ok(admitted) => admitted,
        Err(status) => return grpc_error(status),
    };
    let replies = stream::once(begin(context, proxy, admitted)).flatten();
    grpc_frames(replies.map(|metadata| Ok(encode_put_result(&metadata?))))
}

/// Reads the first message, and begins what it asks for.
async fn begin(context: Arc<SqlContext>, proxy: CoordinatorProxy, admitted: AdmittedPut) -> PutReplies {
    let AdmittedPut { head, mut input, slot } = admitted;
    let first = match next_message(&mut input).await {
        Ok(first) => first,
        Err(error) => return stream::iter([Err(error)]).boxed(),
    };
    let is_sql = |first: &FlightData| {
        let descriptor = first.flight_descriptor.as_ref();
        descriptor.is_some_and(|it| sql_of_descriptor(it, &head.headers) == Some(SqlContent::Query))
    };
    match first {
        Some(first) if is_sql(&first) => {
            let caller = SqlCaller::of(context, &head);
            let call = UpdateCall { caller, proxy, head, slot, transaction: None };
            let reply = answer(call, first, input).await;
            if let Err(error) = &reply {
                tracing::info!(code = ?error.code, %error, "a put of SQL failed");
            }
            stream::iter([reply]).boxed()
        }
        first => {
            let access = Access::of(&head.extensions);
            let input = Box::pin(stream::iter(first.map(Ok)).chain(input));
            let results = put::put(context.put.clone(), MetadataMap::from_headers(head.headers), access, input, slot);
            results.map(|result| result.map(|result| result.app_metadata)).boxed()
        }
    }
}

/// Carries out a command. Returns the metadata of the only result.
async fn answer(call: UpdateCall, first: FlightData, mut input: PutInput) -> Result<Bytes> {
    let command = first.flight_descriptor.as_ref().map(|descriptor| descriptor.cmd.clone()).unwrap_or_default();
    if !is_flight_sql(&command) {
        let text = statement_text(&command, &call.head.headers)?;
        return execute(call, text, Vec::new()).await;
    }
    match flight_sql::decode(&command)? {
        // Without waiting for the end of the stream: some clients end it after the result.
        SqlCommand::Update { sql, transaction } => {
            execute(call, StatementText { sql, parameters: None, transaction }, Vec::new()).await
        }
        SqlCommand::PreparedUpdate { handle } => {
            let mut text = prepared(&handle)?;
            let mut parameters = read_rows(first, &mut input).await?;
            if parameters.is_empty() {
                parameters.extend(text.parameters.take());
            }
            execute(call, text, parameters).await
        }
        SqlCommand::PreparedQuery { handle } => bind(&handle, read_stream(first, &mut input).await?),
        SqlCommand::Ingest(command) => ingest(call, command, first, input).await,
        SqlCommand::Statement { .. } | SqlCommand::Metadata(_) | SqlCommand::StatementTicket { .. } => {
            Err(Error::invalid("this command of Flight SQL only reads: send it by get_flight_info"))
        }
    }
}

async fn execute(call: UpdateCall, text: StatementText, parameters: Vec<Bytes>) -> Result<Bytes> {
    let transaction = update_transaction(&call.head.headers, text.transaction)?;
    let call = UpdateCall { transaction, ..call };
    let rows = call.execute(update_statement(&text.sql)?, parameters).await?;
    Ok(flight_sql::update_result(rows))
}

/// The handle of a prepared statement with the values of its parameters; with those that it has if none are given.
fn bind(handle: &[u8], parameters: Option<Bytes>) -> Result<Bytes> {
    let PreparedHandle { sql, parameters: bound, transaction } = PreparedHandle::decode(handle)?;
    let parameters = parameters.or(bound);
    Ok(flight_sql::prepared_result(PreparedHandle { sql, parameters, transaction }.encode()?))
}

/// Puts the rows of an ingest, as they come.
async fn ingest(call: UpdateCall, command: IngestCommand, mut first: FlightData, input: PutInput) -> Result<Bytes> {
    let IngestCommand { table, mode, temporary, transaction, options } = command;
    let mode = match mode {
        IngestMode::Create => "create",
        IngestMode::Append => "append",
        IngestMode::Replace => "replace",
        IngestMode::CreateAppend => "create_append",
    };
    first.flight_descriptor = Some(descriptor_of(&table, mode, transaction, Map::new()));
    let headers = MetadataMap::from_headers(with_options(call.head.headers.clone(), &options)?);
    let input = Box::pin(stream::iter([Ok::<_, Error>(first)]).chain(input));
    let target = if temporary { PutTarget::TemporaryTable } else { PutTarget::Table };
    let rows = call.put(target, headers, input).await?;
    Ok(flight_sql::update_result(rows))
}

/// The headers of a put with the options of an ingest, whose values are texts as those of headers.
fn with_options(mut headers: HeaderMap, options: &BTreeMap<String, String>) -> Result<HeaderMap> {
    for (name, value) in options {
        let invalid =
            || Error::invalid(format!("the option {:?} of the ingest, or its value, is not valid", cut(name)));
        let header = format!("{HEADER_PREFIX}{}", name.replace('_', "-"));
        let header = HeaderName::try_from(header).map_err(|_| invalid())?;
        headers.append(header, HeaderValue::try_from(value).map_err(|_| invalid())?);
    }
    Ok(headers)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::options::{Mode, TableRequest};
    use volley_common::{Code, TransactionId};

    use super::*;

    #[test]
    fn options_of_an_ingest_are_those_of_a_put() {
        let option = |name: &str, value: &str| (name.to_string(), value.to_string());
        let options = BTreeMap::from([option("shards", "8"), option("shard_by", "a,b")]);
        let headers = with_options(HeaderMap::new(), &options).unwrap();
        let transaction = Some(TransactionId::new(7));
        let descriptor = descriptor_of(&"s/t".parse().unwrap(), "create_append", transaction, Map::new());
        let put = TableRequest::from_descriptor(&descriptor, &MetadataMap::from_headers(headers)).unwrap();
        let options = put.for_put().unwrap().options;
        assert_eq!((options.mode, options.shards), (Some(Mode::CreateAppend), Some(8)));
        assert_eq!(options.transaction, transaction.map(|id| id.to_string()));
        assert_eq!(options.shard_by, Some(vec!["a".into(), "b".into()]));
        let bad = BTreeMap::from([option("shards", "8\n")]);
        assert_eq!(with_options(HeaderMap::new(), &bad).unwrap_err().code, Code::InvalidArgument);
    }
}
