//! The export of traces by OTLP: a task takes the spans that have ended from their queue, and sends them to the collector, many at a
//! time. A collector that is away or hangs costs the spans, which are counted, and one line of the log.

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, SpanExporter, WithExportConfig, WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter as _};
use reqwest::redirect;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;

use super::otlp_config::{OtlpCollector, OtlpConfig, OtlpProtocol};
use super::otlp_headers::read_headers;
use crate::http2::settings;
use crate::net::Connector;
use crate::telemetry::trace::install_tracer;
use crate::telemetry::trace::span_queue::{SpanQueue, SpanResult};
use crate::tls::ClientTls;
use crate::tls::client::{ClientConnector, https_config, https_config_of};
use crate::tls::server::HttpVersions;
use crate::transport_cause::transport_cause;
use crate::{Error, Result};

/// Spans of one request.
const MAX_BATCH: usize = 512;
/// A span waits this long for others of its request.
const BATCH_INTERVAL: Duration = Duration::from_secs(1);
/// A request that takes longer has failed.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// The last spans of a process have this much time.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// More of a reply of the collector is not read, bytes.
const MAX_REPLY: usize = 64 << 10;

/// The export of this process's traces, until it is flushed.
pub struct TraceExport {
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl TraceExport {
    /// Starts the export, if there is a collector: from now on calls are traced. `peer_listen` tells the processes of a program apart.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a file that cannot be used, or settings that contradict each other.
    pub fn start(config: &OtlpConfig, program: &'static str, peer_listen: &str) -> Result<TraceExport> {
        let stop = CancellationToken::new();
        let Some(collector) = config.collector()? else { return Ok(TraceExport { stop, task: None }) };
        let mut exporter = exporter(config, &collector)?;
        let resource = Resource::builder()
            .with_service_name(config.otlp_service_name.clone().unwrap_or_else(|| program.into()))
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", format!("{:032x}", rand::random::<u128>())),
                KeyValue::new("volley.peer_listen", peer_listen.to_string()),
            ])
            .build();
        exporter.set_resource(&resource);
        let (queue, spans) = SpanQueue::channel();
        let of_ratio = Sampler::TraceIdRatioBased(config.otlp_sampling_ratio);
        let provider = SdkTracerProvider::builder()
            .with_span_processor(queue)
            .with_sampler(Sampler::ParentBased(Box::new(of_ratio)))
            .with_resource(resource)
            .build();
        install_tracer(provider.tracer("volley"));
        tracing::info!(collector = collector.url, ratio = config.otlp_sampling_ratio, "calls are traced");
        let export = SpanExport { exporter, spans, stop: stop.clone(), collector: collector.addr, is_failing: false };
        Ok(TraceExport { stop, task: Some(tokio::spawn(export.run())) })
    }

    /// Sends the spans that wait, and ends the export, within some seconds.
    pub async fn flush(self) {
        self.stop.cancel();
        let Some(task) = self.task else { return };
        if timeout(FLUSH_TIMEOUT, task).await.is_err() {
            tracing::warn!(limit = ?FLUSH_TIMEOUT, "the last spans were not exported in time");
        }
    }
}

/// Reads the files of the settings of traces, as the start does.
///
/// # Errors
/// INVALID_ARGUMENT: a file cannot be used.
pub fn check_files(config: &OtlpConfig) -> Result<()> {
    let Some(collector) = config.collector()? else { return Ok(()) };
    config.otlp_headers_file.as_deref().map(read_headers).transpose()?;
    match config.otlp_protocol {
        OtlpProtocol::Grpc => grpc_connector(config, &collector).map(drop),
        OtlpProtocol::Http => http_client(config, &collector).map(drop),
    }
}

/// The task that exports spans.
struct SpanExport {
    exporter: SpanExporter,
    spans: mpsc::Receiver<SpanData>,
    stop: CancellationToken,
    /// `HOST:PORT`, for the log.
    collector: String,
    /// Whether the last request failed.
    is_failing: bool,
}

impl SpanExport {
    async fn run(mut self) {
        loop {
            let mut batch = Vec::with_capacity(MAX_BATCH);
            let filling = fill(&mut self.spans, &mut batch);
            if self.stop.run_until_cancelled(filling).await.is_none() {
                return self.export_rest(batch).await;
            }
            // Nobody can send a span any more.
            if batch.is_empty() {
                return;
            }
            self.export(batch).await;
        }
    }

    /// Exports these spans and those that wait.
    async fn export_rest(&mut self, mut batch: Vec<SpanData>) {
        self.spans.close();
        while let Ok(span) = self.spans.try_recv() {
            batch.push(span);
            if batch.len() >= MAX_BATCH {
                self.export(std::mem::take(&mut batch)).await;
            }
        }
        if !batch.is_empty() {
            self.export(batch).await;
        }
    }

    async fn export(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len() as u64;
        let failure = match timeout(EXPORT_TIMEOUT, self.exporter.export(batch)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {EXPORT_TIMEOUT:?}")),
        };
        let was_failing = std::mem::replace(&mut self.is_failing, failure.is_some());
        match failure {
            None => {
                SpanResult::Exported.count(spans);
                if was_failing {
                    tracing::info!(collector = self.collector, "traces are exported again");
                }
            }
            Some(error) => {
                SpanResult::Failed.count(spans);
                if !was_failing {
                    tracing::warn!(
                        collector = self.collector,
                        error,
                        "traces cannot be exported: their spans are lost"
                    );
                }
            }
        }
    }
}

/// Takes spans until they are enough for a request, or the first one has waited long enough.
async fn fill(spans: &mut mpsc::Receiver<SpanData>, batch: &mut Vec<SpanData>) {
    spans.recv_many(batch, MAX_BATCH).await;
    let until = Instant::now() + BATCH_INTERVAL;
    while batch.len() < MAX_BATCH {
        let room = MAX_BATCH - batch.len();
        match timeout_at(until, spans.recv_many(batch, room)).await {
            Ok(taken) if taken > 0 => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// The exporter that the settings name. It connects when it is first used.
fn exporter(config: &OtlpConfig, collector: &OtlpCollector) -> Result<SpanExporter> {
    let headers = config.otlp_headers_file.as_deref().map(read_headers).transpose()?.unwrap_or_default();
    let unusable = |e: ExporterBuildError| Error::invalid(format!("--otlp-endpoint {}: {e}", collector.url));
    match config.otlp_protocol {
        OtlpProtocol::Grpc => {
            let channel = grpc_connector(config, collector)?.channel(&settings::CLIENT, &collector.addr)?;
            let builder = SpanExporter::builder().with_tonic().with_channel(channel.into_tonic());
            let builder = builder.with_metadata(MetadataMap::from_headers(headers)).with_timeout(EXPORT_TIMEOUT);
            builder.build().map_err(unusable)
        }
        OtlpProtocol::Http => {
            let client = http_client(config, collector)?;
            let builder = SpanExporter::builder().with_http().with_http_client(CollectorClient { client, headers });
            let builder = builder.with_protocol(Protocol::HttpBinary).with_endpoint(collector.url.as_str());
            builder.with_timeout(EXPORT_TIMEOUT).build().map_err(unusable)
        }
    }
}

fn grpc_connector(config: &OtlpConfig, collector: &OtlpCollector) -> Result<Connector> {
    if !collector.is_tls {
        return Ok(Connector::Plaintext);
    }
    let tls = ClientTls { ca: config.otlp_ca.clone(), ..ClientTls::default() };
    let connector = ClientConnector::new(tls, HttpVersions::Http2);
    connector.load().map_err(|e| e.at("--otlp-ca"))?;
    Ok(Connector::Client(connector))
}

fn http_client(config: &OtlpConfig, collector: &OtlpCollector) -> Result<reqwest::Client> {
    let tls = match &config.otlp_ca {
        Some(ca) => https_config_of("otlp_ca", ca)?,
        None => https_config(collector.is_tls).map_err(|e| e.at("--otlp-endpoint"))?,
    };
    let client = reqwest::Client::builder()
        .use_preconfigured_tls(tls)
        .https_only(collector.is_tls)
        // It could lead the headers elsewhere.
        .redirect(redirect::Policy::none())
        .timeout(EXPORT_TIMEOUT)
        .user_agent(concat!("volley/", env!("CARGO_PKG_VERSION")));
    // A proxy cannot reach what listens on this machine only.
    let client = if collector.is_local { client.no_proxy() } else { client };
    client.build().map_err(|e| {
        let why = transport_cause(&e);
        Error::invalid(format!("--otlp-endpoint {}: an HTTP client cannot be created: {why}", collector.url))
    })
}

/// The HTTP client of the exporter.
#[derive(Debug)]
struct CollectorClient {
    client: reqwest::Client,
    headers: HeaderMap,
}

#[tonic::async_trait]
impl HttpClient for CollectorClient {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        request.headers_mut().extend(self.headers.clone());
        let request = reqwest::Request::try_from(request)?;
        let mut reply = self.client.execute(request).await.map_err(|e| Error::unavailable(transport_cause(&e)))?;
        let (status, headers) = (reply.status(), std::mem::take(reply.headers_mut()));
        let mut body = BytesMut::new();
        while let Some(chunk) = reply.chunk().await? {
            if body.len() + chunk.len() > MAX_REPLY {
                return Err(Error::unavailable("its reply is too long").into());
            }
            body.extend_from_slice(&chunk);
        }
        let mut response = Response::new(body.freeze());
        (*response.status_mut(), *response.headers_mut()) = (status, headers);
        Ok(response)
    }
}
