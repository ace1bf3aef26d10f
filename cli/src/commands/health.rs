//! `volley health`: whether the server on this machine is ready, for container health checks.
//!
//! It requests `/readyz` from the HTTP port instead of using gRPC health: a container's health check knows the server only by
//! `VOLLEY_HTTP_LISTEN`, which does not speak gRPC, and `/readyz` gives the reason.

use std::net::IpAddr;
use std::time::Duration;

use volley_common::escape::escape_lines;
use volley_common::listen::split_host_port;
use volley_common::tls::ClientTls;
use volley_common::{Error, Result};

use crate::colours::Tone;
use crate::{http_get, output};

/// The servers' own setting of their HTTP port.
const HTTP_LISTEN_VAR: &str = "VOLLEY_HTTP_LISTEN";
/// The default HTTP ports of coordinators and nodes.
const DEFAULTS: [&str; 2] = ["127.0.0.1:8835", "127.0.0.1:8836"];
const TIMEOUT: Duration = Duration::from_secs(5);
/// Most bytes of the response, which is a line of text.
const MAX_RESPONSE: u64 = 64 << 10;

/// Checks the server at `http`, `[http[s]://]HOST:PORT`; by TLS if the scheme says so, or without a scheme if a setting of `tls`
/// is given; else at `VOLLEY_HTTP_LISTEN`; else at the default ports of this machine.
///
/// # Errors
/// UNAVAILABLE: the server is not ready, with its reason, or there is no answer.
pub async fn run(http: Option<&str>, tls: &ClientTls) -> Result<()> {
    let configured = http.map(String::from).or_else(|| std::env::var(HTTP_LISTEN_VAR).ok());
    let addresses = configured.map_or_else(|| DEFAULTS.map(String::from).to_vec(), |address| vec![address]);
    let mut errors = Vec::new();
    for listen in &addresses {
        let (is_tls, listen) = match listen.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => (tls.is_set(), listen.as_str()),
        };
        let (address, scheme) = (connect_address(listen)?, if is_tls { "https" } else { "http" });
        let connector = http_get::connector(is_tls, tls)?;
        match http_get::get(&connector, &address, "/readyz", TIMEOUT, MAX_RESPONSE).await {
            Ok((200, text)) => {
                let (ready, text) = (Tone::Good.out("ready"), escape_lines(text.trim()));
                return output::exact_line(format!("{} is {ready}: {text}", escape_lines(&address)));
            }
            Ok((_, text)) => return Err(Error::unavailable(format!("{address} is not ready: {}", text.trim()))),
            Err(error) => errors.push(format!("no answer from {scheme}://{address}/readyz: {error}")),
        }
    }
    Err(Error::unavailable(no_answer(&errors)))
}

/// Why no server answered at any of the addresses.
fn no_answer(errors: &[String]) -> String {
    format!(
        "{}; give the server's HTTP port with --http HOST:PORT. The members of `volley dev` have free ports: ask `volley cluster status` there",
        errors.join("; ")
    )
}

/// The address to connect to for a server that listens at `listen`: loopback if it listens on all interfaces.
fn connect_address(listen: &str) -> Result<String> {
    let (host, port) = split_host_port(listen).map_err(|e| e.at("--http"))?;
    Ok(match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() => format!("127.0.0.1:{port}"),
        Ok(IpAddr::V6(ip)) if ip.is_unspecified() => format!("[::1]:{port}"),
        _ => listen.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_without_an_answer_is_named() {
        let text = no_answer(&DEFAULTS.map(|address| format!("no answer from {address}")));
        assert!(DEFAULTS.iter().all(|address| text.contains(address)), "{text}");
        assert!(text.contains("--http") && text.contains("volley cluster status"), "{text}");
    }

    #[test]
    fn unspecified_listen_address_becomes_loopback() {
        let of = |listen: &str| connect_address(listen).map_err(|e| e.message);
        assert_eq!(of("0.0.0.0:8836").as_deref(), Ok("127.0.0.1:8836"));
        assert_eq!(of("[::]:1").as_deref(), Ok("[::1]:1"));
        assert_eq!(of("10.0.0.7:1").as_deref(), Ok("10.0.0.7:1"));
        assert!(of("8836").is_err_and(|why| why.contains("--http")));
    }
}
