//! Objects of S3, Google Cloud Storage and Azure, and files of HTTP servers, by their URLs. Credentials come from the usual
//! variables of the environment.
//!
//! Requests go by the HTTP client and the TLS that the rest of the program uses. Callers block: they are threads without a
//! runtime of their own.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::buffered::BufWriter;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as ObjectPath;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt};
use tokio::io::AsyncWriteExt;
use volley_common::tls::client::https_config;
use volley_common::transport_cause::transport_cause;
use volley_common::{Error, Result};
use volley_formats::message_path;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may send nothing.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// The least bytes of the parts in which an object is uploaded.
const MIN_PART_BYTES: u64 = 10 << 20;
/// At most so many parts: S3 has 10,000, and refuses an object with more when all of them are there.
const MAX_PARTS: u64 = 9_000;

/// Where a URL leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RemoteScheme {
    AmazonS3,
    GoogleCloudStorage,
    Azure,
    Http,
}

const SCHEMES: [(&str, RemoteScheme); 8] = [
    ("s3://", RemoteScheme::AmazonS3),
    ("s3a://", RemoteScheme::AmazonS3),
    ("gs://", RemoteScheme::GoogleCloudStorage),
    ("az://", RemoteScheme::Azure),
    ("abfs://", RemoteScheme::Azure),
    ("abfss://", RemoteScheme::Azure),
    ("http://", RemoteScheme::Http),
    ("https://", RemoteScheme::Http),
];

/// A URL of an object, a folder of objects, or a file of an HTTP server.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteUrl {
    scheme: RemoteScheme,
    /// As it was given.
    url: String,
    /// The URL up to the bucket or container.
    bucket: String,
    /// What follows, as it is: keys of objects are not encoded.
    key: String,
}

impl RemoteUrl {
    /// The URL that a path is, if it is one of a known scheme.
    pub fn of(path: &Path) -> Option<RemoteUrl> {
        let url = path.to_str()?;
        let (prefix, scheme) = SCHEMES.iter().find(|(prefix, _)| url.starts_with(prefix))?;
        let rest = &url[prefix.len()..];
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let (bucket, key) = (format!("{prefix}{bucket}"), key.to_string());
        Some(RemoteUrl { scheme: *scheme, url: url.to_string(), bucket, key })
    }

    /// The URL as a path, of which [`RemoteUrl::of`] makes it again. For messages it is [`message_path`].
    pub fn path(&self) -> PathBuf {
        PathBuf::from(&self.url)
    }

    /// The key of the object, or the beginning of keys.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether objects can be listed and written.
    pub fn is_object_storage(&self) -> bool {
        self.scheme != RemoteScheme::Http
    }

    /// Another object of the bucket.
    pub fn with_key(&self, key: &str) -> RemoteUrl {
        RemoteUrl { url: format!("{}/{key}", self.bucket), key: key.to_string(), ..self.clone() }
    }

    /// The URL for messages and for the format: without the query of HTTP, in which a secret may be, and without a login.
    pub fn name(&self) -> PathBuf {
        message_path(&self.path())
    }

    fn error(&self, error: impl std::fmt::Display) -> Error {
        Error::unavailable(format!("{}: {error}", self.name().display()))
    }

    fn object_error(&self, error: object_store::Error) -> Error {
        match error {
            object_store::Error::NotFound { .. } => {
                Error::not_found(format!("{}: there is no such object", self.name().display()))
            }
            other => self.error(causes(&other)),
        }
    }

    fn object(&self) -> Result<ObjectPath> {
        ObjectPath::parse(&self.key).map_err(|e| Error::invalid(format!("{}: {e}", self.name().display())))
    }

    /// The bucket or container.
    fn store(&self) -> Result<Arc<dyn ObjectStore>> {
        let (transport, bucket) = (HttpTransport::new()?, self.bucket.clone());
        let store = match self.scheme {
            RemoteScheme::AmazonS3 => {
                let builder = AmazonS3Builder::from_env().with_url(bucket).with_http_connector(transport);
                builder.build().map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
            }
            RemoteScheme::GoogleCloudStorage => {
                let builder = GoogleCloudStorageBuilder::from_env().with_url(bucket).with_http_connector(transport);
                builder.build().map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
            }
            RemoteScheme::Azure => {
                let builder = MicrosoftAzureBuilder::from_env().with_url(bucket).with_http_connector(transport);
                builder.build().map(|store| Arc::new(store) as Arc<dyn ObjectStore>)
            }
            RemoteScheme::Http => return Err(self.error("files of HTTP servers can only be read")),
        };
        store.map_err(|e| self.object_error(e))
    }

    /// Copies the object into a file; returns its bytes.
    ///
    /// # Errors
    /// NOT_FOUND: there is none. UNAVAILABLE: the server or the disk. All name the URL.
    pub fn download(&self, into: &mut File) -> Result<u64> {
        block_on(async {
            if self.scheme == RemoteScheme::Http {
                return self.download_http(into).await;
            }
            let found = self.store()?.get(&self.object()?).await.map_err(|e| self.object_error(e))?;
            let (size, mut chunks, mut bytes) = (found.meta.size, found.into_stream(), 0);
            while let Some(chunk) = chunks.next().await {
                let chunk = chunk.map_err(|e| self.object_error(e))?;
                into.write_all(&chunk).map_err(|e| self.error(e))?;
                bytes += chunk.len() as u64;
            }
            if bytes == size { Ok(bytes) } else { Err(self.error(format!("{bytes} of {size} bytes arrived"))) }
        })
    }

    async fn download_http(&self, into: &mut File) -> Result<u64> {
        let failed = |e: reqwest::Error| self.error(transport_cause(&e.without_url()));
        let mut reply = HttpTransport::new()?.0.get(&self.url).send().await.map_err(failed)?;
        let status = reply.status();
        if status == http::StatusCode::NOT_FOUND {
            return Err(Error::not_found(format!("{}: the server has no such file", self.name().display())));
        }
        if !status.is_success() {
            return Err(self.error(format!("the server replied {status}")));
        }
        let mut bytes = 0;
        while let Some(chunk) = reply.chunk().await.map_err(failed)? {
            into.write_all(&chunk).map_err(|e| self.error(e))?;
            bytes += chunk.len() as u64;
        }
        Ok(bytes)
    }

    /// The keys of all objects below a folder, sorted. Objects that stand for folders are left out.
    ///
    /// # Errors
    /// UNAVAILABLE: the server; names the URL.
    pub fn list(&self, folder: &str) -> Result<Vec<String>> {
        let folder = folder.trim_end_matches('/');
        let prefix = if folder.is_empty() { None } else { Some(self.with_key(folder).object()?) };
        let listed = block_on(async {
            self.store()?.list(prefix.as_ref()).try_collect::<Vec<_>>().await.map_err(|e| self.object_error(e))
        })?;
        let mut keys: Vec<(String, u64)> =
            listed.into_iter().map(|meta| (meta.location.to_string(), meta.size)).collect();
        keys.sort_unstable();
        let all: Vec<String> = keys.iter().map(|(key, _)| key.clone()).collect();
        let is_folder = |key: &str| {
            let below = format!("{key}/");
            let next = all.partition_point(|other| *other < below);
            all.get(next).is_some_and(|other| other.starts_with(&below))
        };
        keys.retain(|(key, size)| *size > 0 || !is_folder(key));
        Ok(keys.into_iter().map(|(key, _)| key).collect())
    }

    /// Writes the object, which appears when it is complete.
    ///
    /// # Errors
    /// UNAVAILABLE: the server; names the URL.
    pub fn upload(&self, file: &File) -> Result<()> {
        let mut file = file.try_clone().map_err(|e| self.error(e))?;
        file.rewind().map_err(|e| self.error(e))?;
        block_on(async {
            let bytes = file.metadata().map_err(|e| self.error(e))?.len();
            let mut file = tokio::fs::File::from_std(file);
            let mut object = BufWriter::with_capacity(self.store()?, self.object()?, part_bytes(bytes));
            if let Err(e) = tokio::io::copy(&mut file, &mut object).await {
                // Parts of it would be stored, and paid, for ever.
                let _ = object.abort().await;
                return Err(self.error(causes(&e)));
            }
            object.shutdown().await.map_err(|e| self.error(causes(&e)))
        })
    }
}

/// The size of the parts of an object of so many bytes. Eight of them are in memory at once.
fn part_bytes(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(MAX_PARTS).max(MIN_PART_BYTES)).unwrap_or(usize::MAX)
}

/// Runs requests on this thread.
fn block_on<T>(requests: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| Error::unavailable(format!("cannot start: {e}")))?.block_on(requests)
}

/// An error with those that caused it, which its own text may leave out.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text += &format!(": {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// The HTTP client of this program.
#[derive(Clone, Debug)]
struct HttpTransport(reqwest::Client);

impl HttpTransport {
    fn new() -> Result<HttpTransport> {
        let client = reqwest::Client::builder()
            .use_preconfigured_tls(https_config(true)?)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .user_agent(concat!("volley/", env!("CARGO_PKG_VERSION")));
        let client = client.build().map_err(|e| Error::internal(format!("HTTP: {}", transport_cause(&e))))?;
        Ok(HttpTransport(client))
    }
}

#[async_trait]
impl HttpService for HttpTransport {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string().parse::<reqwest::Url>();
        let url = url.map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        let mut sent = reqwest::Request::new(parts.method, url);
        *sent.headers_mut() = parts.headers;
        *sent.body_mut() = Some(match body.as_bytes().cloned() {
            Some(bytes) => reqwest::Body::from(bytes),
            None => reqwest::Body::wrap(body),
        });
        let response = self.0.execute(sent).await.map_err(http_error)?;
        let (parts, body) = http::Response::<reqwest::Body>::from(response).into_parts();
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body.map_err(http_error))))
    }
}

/// The error with its kind, by which the request is repeated or not.
fn http_error(error: reqwest::Error) -> HttpError {
    let kind = match &error {
        e if e.is_timeout() => HttpErrorKind::Timeout,
        e if e.is_connect() => HttpErrorKind::Connect,
        e if e.is_decode() => HttpErrorKind::Decode,
        e if e.is_request() || e.is_body() => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    };
    HttpError::new(kind, error.without_url())
}

impl HttpConnector for HttpTransport {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_a_bucket_and_a_literal_key() {
        let of = |text: &str| RemoteUrl::of(Path::new(text)).unwrap();
        let url = of("s3://b/y=%2F/a?b#c.csv.gz");
        assert_eq!((url.bucket.as_str(), url.key()), ("s3://b", "y=%2F/a?b#c.csv.gz"));
        assert_eq!(url.name(), Path::new("s3://b/y=%2F/a?b#c.csv.gz"));
        assert_eq!(of("gs://b").with_key("x/y").name(), Path::new("gs://b/x/y"));
        let url = of("abfss://c@a.dfs.core.windows.net/x.csv");
        assert_eq!((url.bucket.as_str(), url.key()), ("abfss://c@a.dfs.core.windows.net", "x.csv"));
        assert!(!of("https://h/x").is_object_storage() && of("az://c/x").is_object_storage());
        for path in ["s3:/b/x", "x.csv", "ftp://h/x", "-", "./s3://b"] {
            assert_eq!(RemoteUrl::of(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn parts_of_an_object_are_not_too_many() {
        assert_eq!(part_bytes(0), 10 << 20);
        for gib in [1, 90, 500, 5 << 10] {
            let bytes: u64 = gib << 30;
            assert!(bytes.div_ceil(part_bytes(bytes) as u64) <= MAX_PARTS, "{gib} GiB");
        }
    }
}
