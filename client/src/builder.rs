//! Connects: to which addresses, with which TLS, as whom.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::HeaderValue;
use tokio_util::task::TaskTracker;
use volley_common::http2::settings;
use volley_common::identity::Secret;
use volley_common::net::{ConnectionPool, Connector, MemberChannel};
use volley_common::telemetry::trace::is_traceparent;
use volley_common::tls::ClientTls;
use volley_common::tls::client::ClientConnector;
use volley_common::tls::server::HttpVersions;
use volley_common::{Code, Error, Result};

use super::address::{dial_target, split_addresses};
use super::local_reads::{LocalMode, LocalReads};
use super::login::{self, ClientLogin};
use super::nearness::Nearness;
use super::session::{LoginMember, LoginSession};
use super::{Client, failure, uri_of};

/// An address that has not accepted a connection for this long is no reason to wait: the next one is dialled beside it.
const DIAL_NEXT_AFTER: Duration = Duration::from_millis(300);

/// By this variable a program is told to which trace it belongs.
const TRACEPARENT_VARIABLE: &str = "TRACEPARENT";

/// Settings of a client, before it connects.
///
/// ```no_run
/// # async fn example() -> volley_client::Result<()> {
/// use volley_client::Client;
///
/// let client = Client::builder()
///     .address("grpc+tls://volley-1.example:8815")
///     .address("grpc+tls://volley-2.example:8815")
///     .tls_ca("ca.crt")
///     .user("ana", std::env::var("VOLLEY_PASSWORD").unwrap_or_default())
///     .connect()
///     .await?;
/// println!("connected to {}", client.address());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until it connects"]
pub struct ClientBuilder {
    addresses: Vec<String>,
    tls: ClientTls,
    login: ClientLogin,
    local: LocalMode,
    traceparent: Option<String>,
    /// Networks and hosts whose locations are tried first.
    places: Vec<String>,
    /// Nodes must not compress what they send.
    stays_plain: bool,
}

impl ClientBuilder {
    /// Adds the address of a member, or several separated by commas: `grpc://HOST:PORT`, `grpc+tcp://HOST:PORT`,
    /// `grpc+tls://HOST:PORT`, `http://HOST:PORT`, `https://HOST:PORT` or `HOST:PORT`. A host may have several DNS records: each
    /// is tried. With several addresses the first that accepts a connection is used; the others serve calls that it does not
    /// answer.
    pub fn address(mut self, address: impl AsRef<str>) -> Self {
        self.addresses.extend(split_addresses(address.as_ref()).map(str::to_string));
        self
    }

    /// Adds several addresses, see [`ClientBuilder::address`].
    pub fn addresses<A: AsRef<str>>(self, addresses: impl IntoIterator<Item = A>) -> Self {
        addresses.into_iter().fold(self, ClientBuilder::address)
    }

    /// The settings of TLS, in place of those that were given before. If any is set, addresses that do not say whether they have
    /// TLS are dialled by TLS.
    pub fn tls(self, tls: ClientTls) -> Self {
        ClientBuilder { tls, ..self }
    }

    /// The CAs that the client trusts, a PEM file, in place of those of the system.
    pub fn tls_ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.tls.ca = Some(file.into());
        self
    }

    /// The client's certificate, followed by its intermediate CAs, and its key: PEM files.
    pub fn tls_identity(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        (self.tls.cert, self.tls.key) = (Some(cert.into()), Some(key.into()));
        self
    }

    /// The name that the members' certificates must have, if it is not the host of the address.
    pub fn tls_server_name(mut self, name: impl Into<String>) -> Self {
        self.tls.server_name = Some(name.into());
        self
    }

    /// Who the client is; nobody by default.
    pub fn login(self, login: ClientLogin) -> Self {
        ClientBuilder { login, ..self }
    }

    /// A token that every call carries, see [`ClientLogin::token`].
    pub fn token(self, token: impl Into<String>) -> Self {
        self.login(ClientLogin::token(Secret::new(token)))
    }

    /// A user of the catalog with a password, see [`ClientLogin::password`].
    pub fn user(self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.login(ClientLogin::password(name, Secret::new(password)))
    }

    /// Whether tables are read by files where a node on this machine offers that; [`LocalMode::Auto`] by default.
    pub fn local(self, local: LocalMode) -> Self {
        ClientBuilder { local, ..self }
    }

    /// The span to which the spans of all calls belong: a `traceparent` as W3C has it, as in `00-TRACE-SPAN-01`. A call that has one
    /// keeps it.
    pub fn traceparent(self, traceparent: impl Into<String>) -> Self {
        ClientBuilder { traceparent: Some(traceparent.into()), ..self }
    }

    /// The same, as the variable `TRACEPARENT` has it, by which programs are told to which trace they belong. What is not one is
    /// ignored: the variable is not this client's own.
    pub fn traceparent_of_environment(self) -> Self {
        match std::env::var(TRACEPARENT_VARIABLE) {
            Ok(text) if is_traceparent(&text) => self.traceparent(text),
            _ => self,
        }
    }

    /// Prefers nodes at these places, such as those of the program's zone: networks as `10.1.0.0/16`, addresses, hosts, and ends of
    /// hosts as `.zone-a.example`, separated by commas. Of the holders of a part those on this machine are read first, then these,
    /// then the others.
    pub fn prefer(mut self, places: impl AsRef<str>) -> Self {
        self.places.extend(split_addresses(places.as_ref()).map(str::to_string));
        self
    }

    /// Whether nodes may compress what they send, where they find the link to be slower than that; they may by default. It takes time
    /// of this program's processors to decompress, and some memory for each batch.
    pub fn compress(self, compress: bool) -> Self {
        ClientBuilder { stays_plain: !compress, ..self }
    }

    /// Connects. The login is sent with the first call, not yet here.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: no address, or not an address; addresses with and without TLS; a file that cannot be used; settings of
    /// TLS for an address without TLS; the login would go to another machine without TLS, or is malformed; a place or the
    /// `traceparent` is none. UNAVAILABLE: no server answers. UNAUTHENTICATED: one of the sides refuses the other's certificate.
    pub async fn connect(self) -> Result<Client> {
        let (addrs, is_tls) = self.targets()?;
        let traceparent = self.traceparent.as_deref().map(traceparent_header).transpose()?;
        let nearness = Arc::new(Nearness::new(&self.places)?);
        let connector = ClientConnector::new(self.tls, HttpVersions::Http2);
        if is_tls {
            connector.load()?;
        }
        let pool = ConnectionPool::with_settings(&settings::CLIENT);
        let tls_pool = pool.clone().with_connector(Connector::Client(connector));
        let own_pool = if is_tls { &tls_pool } else { &pool };
        let (at, channel) = connect_first(own_pool, &addrs, is_tls).await?;
        let mut others = addrs;
        let address = others.remove(at);
        let mut members = vec![LoginMember { channel: channel.clone(), uri: uri_of(&address, is_tls) }];
        for other in &others {
            members.push(LoginMember { channel: own_pool.channel(other)?, uri: uri_of(other, is_tls) });
        }
        let allow_plaintext_login = self.login.allows_plaintext();
        let session = LoginSession::new(self.login, members)?;
        let (address, others) = (address.into(), others.into());
        let (local, writes, request_id) = (LocalReads::new(self.local).into(), TaskTracker::new(), None);
        Ok(Client {
            channel,
            address,
            others,
            pool,
            tls_pool,
            is_tls,
            session,
            allow_plaintext_login,
            local,
            nearness,
            writes,
            request_id,
            traceparent,
            compress: !self.stays_plain,
        })
    }

    /// `HOST:PORT` of each address, once, and whether they are dialled by TLS.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, see [`ClientBuilder::connect`].
    fn targets(&self) -> Result<(Vec<String>, bool)> {
        let mut targets: Vec<(String, bool)> = Vec::new();
        for address in &self.addresses {
            let (addr, is_tls) = dial_target(address, self.tls.is_set())?;
            self.login.check_target(&addr, is_tls)?;
            if targets.iter().all(|(known, _)| *known != addr) {
                targets.push((addr, is_tls));
            }
        }
        let Some(&(_, is_tls)) = targets.first() else {
            return Err(Error::invalid("no address is given: name a member, as in grpc://127.0.0.1:8815"));
        };
        if let Some((other, _)) = targets.iter().find(|(_, other)| *other != is_tls) {
            let first = &targets[0].0;
            return Err(Error::invalid(format!(
                "of the addresses {first} and {other} one has TLS and the other does not: a client uses TLS for all, or for none"
            )));
        }
        Ok((targets.into_iter().map(|(addr, _)| addr).collect(), is_tls))
    }
}

impl Client {
    /// A client that is not connected yet.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Connects to `grpc://HOST:PORT`, `grpc+tcp://HOST:PORT`, `http://HOST:PORT` or `HOST:PORT`; or by TLS, trusting the CAs of
    /// the system, to `grpc+tls://HOST:PORT` or `https://HOST:PORT`. Several addresses are separated by commas.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it is not such an address. UNAVAILABLE: no server answers there.
    pub async fn connect(address: &str) -> Result<Client> {
        Client::connect_with(address, ClientTls::default()).await
    }

    /// As [`Client::connect`], with settings of TLS. If any is given, an address without a scheme, or with `grpc://`, is
    /// dialled by TLS. A client that connected by TLS uses no location without TLS.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: not an address, a file that cannot be used, or settings of TLS for an address without TLS.
    /// UNAVAILABLE: no server answers there. UNAUTHENTICATED: one of the sides refuses the other's certificate.
    pub async fn connect_with(address: &str, tls: ClientTls) -> Result<Client> {
        Client::connect_as(address, tls, ClientLogin::none()).await
    }

    /// As [`Client::connect_with`], as a user. The client logs in at its first call; every call to every location carries the
    /// credential, except that no location of another machine without TLS is used, unless the login allows it.
    ///
    /// # Errors
    /// Those of [`Client::connect_with`]. INVALID_ARGUMENT: the login would go to another machine without TLS, or is malformed.
    pub async fn connect_as(address: &str, tls: ClientTls, login: ClientLogin) -> Result<Client> {
        Client::builder().address(address).tls(tls).login(login).connect().await
    }

    /// A client of another member of the same cluster, and only of that one, with the same settings and the same session: it does
    /// not log in again.
    ///
    /// # Errors
    /// Those of [`Client::connect_as`]. INVALID_ARGUMENT: this client connected by TLS, and the address is without.
    pub async fn connect_to(&self, address: &str) -> Result<Client> {
        let (addr, is_tls) = dial_target(address, self.is_tls)?;
        if self.session.is_some() {
            login::check_confidential(&addr, is_tls, self.allow_plaintext_login)?;
        }
        let channel = connected(if is_tls { &self.tls_pool } else { &self.pool }, &addr, is_tls).await?;
        Ok(Client { channel, address: addr.into(), others: Arc::default(), is_tls, ..self.clone() })
    }
}

/// # Errors
/// INVALID_ARGUMENT: it is no `traceparent`.
fn traceparent_header(text: &str) -> Result<HeaderValue> {
    let value = HeaderValue::from_str(text).ok().filter(|_| is_traceparent(text));
    value.ok_or_else(|| {
        Error::invalid(format!(
            "the traceparent {text:?} is not of the form that W3C gives it: 00-, 32 hexadecimal digits, -, 16 digits, -01 or -00"
        ))
    })
}

/// A connection of its own to `HOST:PORT`, dialled as a pool dials.
async fn connected(pool: &ConnectionPool, addr: &str, is_tls: bool) -> Result<MemberChannel> {
    let channel = pool.connected_channel(addr).await?;
    channel.map_err(|e| failure::unreachable(&uri_of(addr, is_tls), &e))
}

/// The first connection that one of the addresses accepts, and the index of that address. Each next address is dialled when one
/// before it has failed, or none has accepted for [`DIAL_NEXT_AFTER`].
///
/// # Errors
/// That of the only address; else UNAVAILABLE, or the code that all have, with the errors of all.
async fn connect_first(pool: &ConnectionPool, addrs: &[String], is_tls: bool) -> Result<(usize, MemberChannel)> {
    let mut dialled = 0;
    let mut pending = FuturesUnordered::new();
    let mut failures = Vec::new();
    loop {
        if let Some(addr) = addrs.get(dialled) {
            let at = dialled;
            pending.push(async move { (at, connected(pool, addr, is_tls).await) });
            dialled += 1;
        } else if pending.is_empty() {
            return Err(all_failed(failures));
        }
        let has_more = dialled < addrs.len();
        let next = async {
            match has_more {
                true => tokio::time::sleep(DIAL_NEXT_AFTER).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some((at, outcome)) = pending.next() => match outcome {
                Ok(channel) => return Ok((at, channel)),
                Err(error) => failures.push(error),
            },
            () = next => {}
        }
    }
}

/// What the failures of all addresses say together.
fn all_failed(mut failures: Vec<Error>) -> Error {
    let Some(last) = failures.pop() else { return Error::internal("no address was dialled") };
    if failures.is_empty() {
        return last;
    }
    let code = if failures.iter().all(|error| error.code == last.code) { last.code } else { Code::Unavailable };
    let texts: Vec<String> = failures.into_iter().chain([last]).map(|error| error.message).collect();
    Error { code, message: texts.join("; "), retry_after_ms: None, request_id: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(addresses: &[&str]) -> Result<(Vec<String>, bool)> {
        Client::builder().addresses(addresses).targets()
    }

    #[test]
    fn addresses_are_listed_once_in_their_order() {
        let (addrs, is_tls) = targets(&["grpc://b:1, a:2", "", "grpc+tcp://b:1"]).unwrap();
        assert_eq!((addrs, is_tls), (vec!["b:1".to_string(), "a:2".to_string()], false));
        assert!(targets(&["grpc+tls://b:1", "https://a:2"]).unwrap().1);
        assert!(Client::builder().address("b:1").tls_ca("ca.crt").targets().unwrap().1);
    }

    #[test]
    fn addresses_that_differ_in_tls_are_refused() {
        let error = targets(&["grpc+tls://b:1", "a:2"]).unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.message.contains("a:2"), "{error}");
        for none in [&[][..], &[" , "][..]] {
            assert!(targets(none).unwrap_err().message.contains("no address"));
        }
    }

    #[test]
    fn traceparent_that_is_none_is_refused() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(traceparent_header(good).unwrap(), good);
        for bad in ["", "00-0-0-01", "job-7\n"] {
            let error = traceparent_header(bad).unwrap_err();
            assert!(error.code == Code::InvalidArgument && error.message.contains("W3C"), "{error}");
        }
    }

    #[test]
    fn failures_of_several_addresses_are_told_together() {
        let one = Error::unauthenticated("a: refused");
        assert_eq!(all_failed(vec![one.clone()]), one);
        let both = all_failed(vec![one.clone(), Error::unavailable("b: closed")]);
        assert_eq!((both.code, both.message.as_str()), (Code::Unavailable, "a: refused; b: closed"));
        assert_eq!(all_failed(vec![one.clone(), one]).code, Code::Unauthenticated);
    }
}
