//! Where the keys of an issuer come from: a file or a URL. What it reads is bounded in size and time.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::header::{ACCEPT, LOCATION};
use reqwest::{Client, Url, redirect};

use super::issuer_keys::IssuerKeys;
use crate::tls::client::https_config;
use crate::transport_cause::transport_cause;
use crate::{Error, Result};

/// The largest document: that of a large issuer has a hundredth of it.
const MAX_BYTES: usize = 1 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For the whole request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A key that was removed from a URL is accepted for this long.
const URL_INTERVAL: Duration = Duration::from_secs(3600);
/// A file costs nothing to read.
const FILE_INTERVAL: Duration = Duration::from_secs(60);

/// A file or a URL with a JWK set.
pub(super) enum JwksSource {
    /// A file.
    File(PathBuf),
    /// A URL, and the client that fetches it.
    Url(Url, Client),
}

impl JwksSource {
    /// The source that the setting `oidc_jwks` names: a URL if it has `://` in it, otherwise a file.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the URL cannot be parsed, or is not https, or this system has no CAs that would make https secure.
    pub(super) fn new(setting: &str) -> Result<Self> {
        if !setting.contains("://") {
            return Ok(JwksSource::File(setting.into()));
        }
        let bad = |why: &str| Error::invalid(format!("oidc_jwks {setting}: {why}"));
        let url = Url::parse(setting).map_err(|e| bad(&format!("it is not a URL ({e})")))?;
        let is_https = url.scheme() == "https";
        let is_here = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let is_local_http = url.scheme() == "http" && is_here;
        if !is_https && !is_local_http {
            return Err(bad(
                "who can change the keys on their way can be anybody: give an https URL, or the path of a file",
            ));
        }
        let client = Client::builder()
            .use_preconfigured_tls(https_config(is_https).map_err(|e| e.at("oidc_jwks"))?)
            .https_only(is_https)
            // It could lead away from https, or to a server that the operator did not mean.
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("volley/", env!("CARGO_PKG_VERSION")));
        // A proxy cannot reach what listens on this machine only.
        let client = if is_https { client } else { client.no_proxy() };
        let client =
            client.build().map_err(|e| bad(&format!("an HTTP client cannot be created: {}", transport_cause(&e))))?;
        Ok(JwksSource::Url(url, client))
    }

    /// How old the keys may become.
    pub(super) fn refresh_interval(&self) -> Duration {
        match self {
            JwksSource::File(_) => FILE_INTERVAL,
            JwksSource::Url(..) => URL_INTERVAL,
        }
    }

    /// The keys of a file; `None` for a URL. Blocks.
    pub(super) fn read_file(&self) -> Option<Result<IssuerKeys>> {
        match self {
            JwksSource::File(path) => Some(read(path)),
            JwksSource::Url(..) => None,
        }
    }

    /// Gets the keys.
    ///
    /// # Errors
    /// It cannot be read or fetched, or is no JWK set that can be used. The text names the file or the URL.
    pub(super) async fn fetch(&self) -> Result<IssuerKeys> {
        match self {
            JwksSource::File(path) => {
                let path = path.clone();
                let reading = tokio::task::spawn_blocking(move || read(&path));
                reading.await.map_err(|e| Error::internal(format!("oidc_jwks: reading the file failed: {e}")))?
            }
            JwksSource::Url(url, client) => fetch(url, client).await.map_err(|e| e.at(format!("oidc_jwks {url}"))),
        }
    }
}

impl fmt::Display for JwksSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JwksSource::File(path) => write!(f, "{}", path.display()),
            JwksSource::Url(url, _) => write!(f, "{url}"),
        }
    }
}

fn read(path: &Path) -> Result<IssuerKeys> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes));
    let keys = match read {
        Ok(length) if length > MAX_BYTES => Err(too_large()),
        Ok(_) => IssuerKeys::parse(&bytes),
        Err(e) => Err(Error::invalid(format!("it cannot be read ({e}): check the path and its permissions"))),
    };
    keys.map_err(|e| e.at(format!("oidc_jwks {}", path.display())))
}

async fn fetch(url: &Url, client: &Client) -> Result<IssuerKeys> {
    // The text of reqwest's error would name the URL once more.
    let failed = |e: reqwest::Error| Error::unavailable(transport_cause(&e.without_url()));
    let reply = client.get(url.clone()).header(ACCEPT, "application/json").send();
    let mut reply = reply.await.map_err(failed)?;
    if reply.status().is_redirection() {
        let target = reply.headers().get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or("another URL");
        return Err(Error::unavailable(format!("it redirects to {target}, which is not followed: set that URL")));
    }
    if !reply.status().is_success() {
        return Err(Error::unavailable(format!("the server replied {}", reply.status())));
    }
    let mut body = Vec::new();
    while let Some(chunk) = reply.chunk().await.map_err(failed)? {
        if body.len() + chunk.len() > MAX_BYTES {
            return Err(too_large());
        }
        body.extend_from_slice(&chunk);
    }
    IssuerKeys::parse(&body)
}

fn too_large() -> Error {
    Error::invalid(format!("it has more than {MAX_BYTES} bytes, so it is no JWK set"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::Router;
    use axum::http::StatusCode;
    use axum::response::Redirect;
    use axum::routing::get;

    use super::*;
    use crate::Code;
    use crate::server::serve::testing::closed_address;

    const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}"#;

    /// The base URL of a server of this test.
    async fn serve() -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new()
            .route("/keys", get(|| async { KEYS }))
            .route("/moved", get(|| async { Redirect::temporary("/keys") }))
            .route("/failed", get(|| async { (StatusCode::INTERNAL_SERVER_ERROR, KEYS) }))
            .route("/large", get(|| async { KEYS.to_string() + &" ".repeat(MAX_BYTES) }))
            .route("/page", get(|| async { "<html>" }));
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}")
    }

    async fn failure(url: String) -> String {
        let error = JwksSource::new(&url).unwrap().fetch().await.err().unwrap();
        assert!(error.message.starts_with(&format!("oidc_jwks {url}: ")), "{error}");
        error.message
    }

    #[tokio::test]
    async fn keys_of_a_url_are_fetched() {
        let base = serve().await;
        let source = JwksSource::new(&format!("{base}/keys")).unwrap();
        assert!(source.fetch().await.is_ok());
        assert!(source.read_file().is_none());
    }

    #[tokio::test]
    async fn other_replies_are_errors() {
        let base = serve().await;
        assert!(failure(format!("{base}/moved")).await.contains("redirects to /keys"));
        assert!(failure(format!("{base}/failed")).await.contains("500"));
        assert!(failure(format!("{base}/missing")).await.contains("404"));
        assert!(failure(format!("{base}/large")).await.contains("more than"));
        assert!(failure(format!("{base}/page")).await.contains("not a JWK set"));
        let (_reserved, closed) = closed_address();
        assert!(failure(format!("http://{closed}/keys")).await.contains("refused"));
    }

    #[test]
    fn url_must_be_https_or_of_this_machine() {
        for bad in [
            "http://id.example/keys",
            "ftp://id.example/keys",
            "https://",
            "http://localhost.example/keys",
            "http://127.0.0.1@x.example/",
        ] {
            let error = JwksSource::new(bad).err().unwrap();
            assert_eq!((error.code, error.message.contains(bad)), (Code::InvalidArgument, true), "{error}");
        }
        for good in ["http://localhost:8080/keys", "http://[::1]/keys", "http://127.0.0.1/keys"] {
            assert!(matches!(JwksSource::new(good), Ok(JwksSource::Url(..))), "{good}");
        }
    }

    #[test]
    fn bad_file_error_names_file_and_cause() {
        let dir = tempfile::tempdir().unwrap();
        let of = |path: &Path| {
            let source = JwksSource::new(path.to_str().unwrap()).unwrap();
            source.read_file().unwrap().map(drop).map_err(|e| e.message)
        };
        let path = dir.path().join("keys.json");
        assert!(of(&path).unwrap_err().contains("keys.json: it cannot be read"));
        std::fs::write(&path, KEYS).unwrap();
        assert_eq!(of(&path), Ok(()));
        std::fs::write(&path, KEYS.to_string() + &" ".repeat(MAX_BYTES)).unwrap();
        assert!(of(&path).unwrap_err().contains("more than"));
    }
}
