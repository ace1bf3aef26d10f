//! Hand-made Flight calls: messages that a client library would not send, and calls that stop halfway.

use std::task::Poll;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow_flight::utils::batches_to_flight_data;
use arrow_flight::{FlightData, FlightDescriptor, PutResult};
use futures::{Stream, TryStreamExt};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::{Code, Status};
use volley_client::Client;

use crate::process::ServerProcess;

/// The messages of a put by path: the schema with the descriptor, then dictionaries and batches.
pub fn messages(table: &str, schema: &Schema, batches: Vec<RecordBatch>) -> Vec<FlightData> {
    let mut messages = batches_to_flight_data(schema, batches).unwrap();
    messages[0].flight_descriptor = Some(FlightDescriptor::new_path(table.split('/').map(String::from).collect()));
    messages
}

/// Puts these messages and reads all answers.
pub async fn put(
    client: &Client,
    messages: impl Stream<Item = FlightData> + Send + 'static,
) -> Result<Vec<PutResult>, Status> {
    client.flight().do_put(messages).await?.into_inner().try_collect().await
}

/// A put whose client can pause, continue, or disappear. It has its own connection and runtime. When they end, the
/// member sees the same as when a client's process is killed.
pub struct OpenPut {
    /// `None` ends the request cleanly; without it the request never ends by itself.
    send: mpsc::Sender<Option<FlightData>>,
    answers: Option<PutAnswers>,
    runtime: Option<Runtime>,
}

type PutAnswers = JoinHandle<Result<Vec<PutResult>, Status>>;

impl OpenPut {
    /// Begins a put at a member; nothing is sent yet.
    pub fn begin(member: &ServerProcess) -> OpenPut {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (send, mut queue) = mpsc::channel(1);
        let stream = futures::stream::poll_fn(move |context| match queue.poll_recv(context) {
            Poll::Ready(Some(message)) => Poll::Ready(message),
            // The test dropped the put: the member must not see an end of the request.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        });
        let address = member.address.clone();
        let answers = runtime.spawn(async move {
            let client = Client::connect(&address).await?;
            client.flight().do_put(stream).await?.into_inner().try_collect().await
        });
        OpenPut { send, answers: Some(answers), runtime: Some(runtime) }
    }

    /// Sends messages until the member ends the call.
    pub async fn send(&self, messages: impl IntoIterator<Item = FlightData>) {
        for message in messages {
            if self.send.send(Some(message)).await.is_err() {
                return;
            }
        }
    }

    /// Ends the request and reads the answers.
    pub async fn finish(mut self) -> Result<Vec<PutResult>, Status> {
        // An error means that the member has ended the call.
        let _ = self.send.send(None).await;
        self.answers.take().unwrap().await.unwrap()
    }

    /// Breaks the connection in the middle of the request.
    pub fn vanish(self) {}
}

impl Drop for OpenPut {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

/// The code of a call that must fail.
pub fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.unwrap_err();
    (status.code(), status.message().to_string())
}
