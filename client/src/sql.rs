//! Statements of SQL: queries, whose rows are fetched as those of tables, and statements that change tables.

use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::{FlightData, FlightDescriptor, FlightInfo};
use bytes::Bytes;
use prost::Message;
use serde_json::json;
use tonic::Status;
use volley_common::{Error, Result};

use super::{Client, ClientChannel, FetchOptions, FetchStream};

/// The outcome of a statement that changes tables: the protobuf message DoPutUpdateResult of Flight SQL.
#[derive(Clone, PartialEq, Message)]
struct UpdateReply {
    /// Rows written; -1 if they are not known.
    #[prost(int64, tag = "1")]
    record_count: i64,
}

/// The descriptor of a statement.
fn descriptor(sql: &str) -> FlightDescriptor {
    FlightDescriptor::new_cmd(json!({ "sql": sql }).to_string())
}

fn rows_of(reply: &[u8]) -> Result<Option<u64>> {
    let reply = UpdateReply::decode(reply)
        .map_err(|e| Error::internal(format!("the member's reply to the statement cannot be read: {e}")))?;
    Ok(u64::try_from(reply.record_count).ok())
}

impl Client {
    /// The FlightInfo of a query. That of a read of one table has the table's endpoints, that of any other query one without a
    /// location.
    ///
    /// # Errors
    /// The member's: INVALID_ARGUMENT also if the statement changes tables.
    pub async fn query_info(&self, sql: &str) -> Result<FlightInfo> {
        self.info_of(descriptor(sql)).await
    }

    /// Plans a query and fetches its rows: [`Client::query_info`], then [`Client::fetch`].
    ///
    /// # Errors
    /// Those of [`Client::query_info`].
    pub async fn query(&self, sql: &str, options: FetchOptions) -> Result<FetchStream> {
        let client = self.for_call();
        client.fetch(client.query_info(sql).await?, options)
    }

    /// Carries out a statement that changes tables, and waits until it has taken effect. Returns how many rows it has written, if
    /// the member knows. Dropping the future before it is done cancels the statement, unless it takes effect at that moment.
    ///
    /// # Errors
    /// The member's: INVALID_ARGUMENT also if the statement only reads. UNAVAILABLE: the connection failed, so that it is not
    /// known whether the statement took effect.
    pub async fn execute_update(&self, sql: &str) -> Result<Option<u64>> {
        let first = FlightData { flight_descriptor: Some(descriptor(sql)), ..FlightData::default() };
        let call = |mut flight: FlightServiceClient<ClientChannel>| {
            let first = first.clone();
            async move {
                let mut results = flight.do_put(futures::stream::iter([first])).await?.into_inner();
                let mut last = None;
                // Read to the end: an error may follow the result.
                while let Some(result) = results.message().await? {
                    last = Some(result.app_metadata);
                }
                Ok::<_, Status>(last)
            }
        };
        let reply: Option<Bytes> = self.call(call).await?;
        rows_of(&reply.ok_or_else(|| {
            Error::internal("the member sent no result of the statement: it is unknown whether it took effect")
        })?)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reply_of_an_update_has_its_rows() {
        for (count, rows) in [(3, Some(3)), (0, Some(0)), (-1, None)] {
            assert_eq!(rows_of(&UpdateReply { record_count: count }.encode_to_vec()).unwrap(), rows);
        }
        assert!(rows_of(b"\xff").unwrap_err().message.contains("cannot be read"));
    }

    #[test]
    fn statement_is_sent_as_json() {
        let command = descriptor("SELECT '\"' AS q\n").cmd;
        let value: serde_json::Value = serde_json::from_slice(&command).unwrap();
        assert_eq!(value, json!({ "sql": "SELECT '\"' AS q\n" }));
    }
}
