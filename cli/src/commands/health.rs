//! `volley health`: whether the server beside this process can do its job; for containers, which have no other program.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use volley_common::listen::split_host_port;
use volley_common::{Error, Result};

use crate::output;

/// The servers' own setting of where that is.
const SETTING: &str = "VOLLEY_HTTP_LISTEN";
/// Where servers that were told nothing serve HTTP: coordinators and nodes.
const DEFAULTS: [&str; 2] = ["127.0.0.1:8835", "127.0.0.1:8836"];
const PATIENCE: Duration = Duration::from_secs(5);
/// The answer is a line of text.
const MAX_ANSWER: u64 = 64 << 10;

/// Asks the server at `http`, HOST:PORT; else at `VOLLEY_HTTP_LISTEN`; else at the default ports of this machine.
///
/// # Errors
/// UNAVAILABLE with what the server says, if it is not ready, or nobody answers.
pub async fn run(http: Option<&str>) -> Result<()> {
    let told = http.map(String::from).or_else(|| std::env::var(SETTING).ok());
    let places = told.map_or_else(|| DEFAULTS.map(String::from).to_vec(), |place| vec![place]);
    let mut last = String::new();
    for place in &places {
        let address = dialled(place)?;
        match tokio::time::timeout(PATIENCE, ask(&address)).await {
            Ok(Ok((200, said))) => return output::line(format!("{address} is ready: {}", said.trim())),
            Ok(Ok((_, said))) => return Err(Error::unavailable(format!("{address} is not ready: {}", said.trim()))),
            Ok(Err(error)) => last = format!("nobody answers at http://{address}/readyz: {error}"),
            Err(_) => last = format!("http://{address}/readyz does not answer within {PATIENCE:?}"),
        }
    }
    Err(Error::unavailable(format!("{last}; name the server's HTTP port with --http HOST:PORT")))
}

/// Where a server that listens at `listen` is dialled: one that listens everywhere by loopback.
fn dialled(listen: &str) -> Result<String> {
    let (host, port) = split_host_port(listen).map_err(|e| e.at("--http"))?;
    Ok(match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() => format!("127.0.0.1:{port}"),
        Ok(IpAddr::V6(ip)) if ip.is_unspecified() => format!("[::1]:{port}"),
        _ => listen.to_string(),
    })
}

/// The status code and the body of `GET /readyz`.
async fn ask(address: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let code = code.ok_or_else(|| io::Error::other("the answer is not HTTP's"))?;
    Ok((code, body.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_listens_everywhere_is_dialled_by_loopback() {
        let of = |listen: &str| dialled(listen).map_err(|e| e.message);
        assert_eq!(of("0.0.0.0:8836").as_deref(), Ok("127.0.0.1:8836"));
        assert_eq!(of("[::]:1").as_deref(), Ok("[::1]:1"));
        assert_eq!(of("10.0.0.7:1").as_deref(), Ok("10.0.0.7:1"));
        assert!(of("8836").is_err_and(|why| why.contains("--http")));
    }
}
