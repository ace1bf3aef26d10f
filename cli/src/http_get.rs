//! A GET of HTTP/1.1 at the HTTP port of a member.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use volley_common::Result;
use volley_common::net::Connector;
use volley_common::tls::ClientTls;
use volley_common::tls::client::ClientConnector;
use volley_common::tls::server::HttpVersions;

/// How an HTTP port is dialled.
///
/// # Errors
/// The files of `tls` cannot be used.
pub fn connector(is_tls: bool, tls: &ClientTls) -> Result<Connector> {
    if !is_tls {
        return Ok(Connector::Plaintext);
    }
    let client = ClientConnector::new(tls.clone(), HttpVersions::Any);
    client.load()?;
    Ok(Connector::Client(client))
}

/// The status code and the body, of which at most `max_bytes` are read with the head. `limit`: for the whole call.
///
/// # Errors
/// The system's; TIMED_OUT; the answer is not HTTP, or not UTF-8.
pub async fn get(
    connector: &Connector,
    address: &str,
    path: &str,
    limit: Duration,
    max_bytes: u64,
) -> io::Result<(u16, String)> {
    let call = async {
        let mut stream = connector.connect(address, limit).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        stream.take(max_bytes).read_to_string(&mut response).await?;
        let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let code = code.ok_or_else(|| io::Error::other("the answer is not HTTP"))?;
        Ok::<_, io::Error>((code, body.to_string()))
    };
    let silent = || io::Error::new(io::ErrorKind::TimedOut, format!("nothing within {limit:?}"));
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| Err(silent()))
}
