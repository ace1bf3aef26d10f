//! Handshakes over memory.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rcgen::ExtendedKeyUsagePurpose;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::TlsConnector;

use super::client::ClientConnector;
use super::peers::{PeerFiles, check_own_identity};
use super::pem::TlsFile;
use super::server::{HttpVersions, ListenerFiles};
use super::testing::{TestCa, TestCertificate, credulous_client, write};
use super::*;

/// Files of a test.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    fn peer_files(&self, name: &str, cas: &[&TestCa], cert: &TestCertificate) -> PeerFiles {
        let cas: String = cas.iter().map(|ca| ca.pem()).collect();
        let ca = write(self.0.path(), &format!("{name}-ca.crt"), &cas);
        let (cert, key) = cert.write(self.0.path(), name);
        PeerFiles { ca, cert, key }
    }

    fn peers(&self, mode: PeerTlsMode, ca: &TestCa, member: &str) -> Arc<PeerTls> {
        let files = self.peer_files(&member.replace('/', "-"), &[ca], &ca.issue_member(member));
        Arc::new(PeerTls::load(mode, &files, |_| Ok(())).unwrap())
    }

    fn listener(&self, ca: &TestCa, client_ca: Option<&TestCa>, auth: ClientAuth) -> ListenerTls {
        let (cert, key) = ca.issue_server(&["localhost"]).write(self.0.path(), "server");
        let files = ListenerFiles {
            cert: TlsFile::new("tls_cert", cert),
            key: TlsFile::new("tls_key", key),
            client_ca: client_ca.map(|ca| TlsFile::new("tls_client_ca", ca.write(self.0.path(), "clients"))),
        };
        ListenerTls::for_clients(Some(files), auth, HttpVersions::Http2, None).unwrap()
    }

    fn client(&self, ca: &TestCa, cert: Option<&TestCertificate>) -> ClientConnector {
        let (cert, key) = cert.map(|cert| cert.write(self.0.path(), "client")).unzip();
        let ca = Some(ca.write(self.0.path(), "trusted"));
        ClientConnector::new(ClientTls { ca, cert, key, server_name: None }, HttpVersions::Http2)
    }
}

/// Runs both sides of a handshake, and sends a byte each way. Returns what each side says.
async fn shake<C: AsyncReadExt + AsyncWriteExt + Unpin>(
    listener: &ListenerTls,
    connect: impl AsyncFnOnce(DuplexStream) -> io::Result<C>,
) -> (Result<Caller, String>, Result<(), String>) {
    let (near, far) = duplex(64 << 10);
    let server = async {
        let (mut stream, caller) = listener.accept(far, Duration::from_secs(10)).await.map_err(|e| e.to_string())?;
        let byte = stream.read_u8().await.map_err(|e| e.to_string())?;
        stream.write_u8(byte).await.map_err(|e| e.to_string())?;
        Ok(caller)
    };
    let client = async {
        let in_words = |e: io::Error| super::failure::explained(e).to_string();
        let mut stream = connect(near).await.map_err(in_words)?;
        stream.write_u8(7).await.map_err(in_words)?;
        stream.read_u8().await.map(|byte| assert_eq!(byte, 7)).map_err(in_words)
    };
    tokio::join!(server, client)
}

fn member(uri: &str) -> Caller {
    Caller::Member(Arc::new(uri.parse().unwrap()))
}

#[tokio::test]
async fn members_know_each_other_by_their_certificates() {
    let (folder, ca) = (Folder::new(), TestCa::new("ca"));
    let server = ListenerTls::for_members(Some(folder.peers(PeerTlsMode::Require, &ca, "coordinator/1")));
    assert!(!server.accepts_plaintext());
    let node = folder.peers(PeerTlsMode::Require, &ca, "node/a");
    let expect = |role| {
        let node = node.clone();
        async move |stream| node.connect(stream, role).await
    };
    let (caller, done) = shake(&server, expect(Some(MemberRole::Coordinator))).await;
    assert_eq!((caller, done), (Ok(member("volley://node/a")), Ok(())));
    assert!(shake(&server, expect(None)).await.1.is_ok());
    let (_, refused) = shake(&server, expect(Some(MemberRole::Node))).await;
    assert!(refused.unwrap_err().contains("names volley://coordinator/1, and a node is expected"));
}

#[tokio::test]
async fn member_of_another_ca_is_not_dialled() {
    let (folder, ca, other) = (Folder::new(), TestCa::new("ca"), TestCa::new("other"));
    let server = ListenerTls::for_members(Some(folder.peers(PeerTlsMode::Prefer, &ca, "node/a")));
    assert!(server.accepts_plaintext());
    let foreign = folder.peers(PeerTlsMode::Require, &other, "node/b");
    let (_, done) = shake(&server, async |stream| foreign.connect(stream, None).await).await;
    assert!(done.unwrap_err().contains("not signed by a CA that this side trusts"));
}

/// The clients accept every server, so that the servers' own checks refuse them.
#[tokio::test]
async fn caller_that_proves_no_member_is_refused_members_tls() {
    let (folder, ca, other) = (Folder::new(), TestCa::new("ca"), TestCa::new("other"));
    let peers = folder.peers(PeerTlsMode::Require, &ca, "node/a");
    let flight =
        ListenerTls::for_clients(None, ClientAuth::Optional, HttpVersions::Http2, Some(peers.clone())).unwrap();
    let user = ca.issue_named("ann", &["volley://user/ann"]);
    let (server, foreign) = (ca.issue_server(&["localhost"]), other.issue_member("node/b"));
    let member = ca.issue_member("node/b");
    for listener in [&ListenerTls::for_members(Some(peers)), &flight] {
        let caller = async |own: Option<&TestCertificate>| {
            let client = TlsConnector::from(Arc::new(credulous_client(own)));
            let name = ServerName::try_from(MEMBER_SNI).unwrap();
            shake(listener, async |stream| client.connect(name, stream).await).await.0
        };
        for (own, why) in [
            (None, "it presented no certificate"),
            (Some(&user), "\"volley://user/ann\" names no member"),
            (Some(&server), "no member's"),
            (Some(&foreign), "not signed by a CA that this side trusts"),
        ] {
            let refusal = caller(own).await.unwrap_err();
            assert!(refusal.contains(why), "{refusal}");
        }
        assert!(caller(Some(&member)).await.is_ok());
    }
}

#[tokio::test]
async fn client_certificate_becomes_the_caller() {
    let (folder, ca, users) = (Folder::new(), TestCa::new("ca"), TestCa::new("users"));
    let ann = users.issue_named("x", &["volley://user/ann"]);
    let of_another_ca = ca.issue_named("bob", &[]);
    for (auth, without) in [(ClientAuth::Optional, Some(Caller::Anonymous)), (ClientAuth::Required, None)] {
        let server = folder.listener(&ca, Some(&users), auth);
        let client = folder.client(&ca, Some(&ann));
        let (caller, done) = shake(&server, async |stream| client.connect(stream, "localhost:1").await).await;
        assert_eq!(caller, Ok(Caller::Client(Arc::new(ClientIdentity::of_certificate(ann.der()).unwrap()))));
        assert_eq!(done, Ok(()));
        let client = folder.client(&ca, None);
        let (caller, done) = shake(&server, async |stream| client.connect(stream, "localhost:1").await).await;
        assert_eq!(caller.ok(), without);
        if without.is_none() {
            assert!(done.unwrap_err().contains("demands a client certificate"));
        }
        let client = folder.client(&ca, Some(&of_another_ca));
        let (caller, _) = shake(&server, async |stream| client.connect(stream, "localhost:1").await).await;
        assert!(caller.unwrap_err().contains("not signed by a CA"), "{auth:?}");
    }
}

#[tokio::test]
async fn server_of_another_name_or_ca_is_refused() {
    let (folder, ca, other) = (Folder::new(), TestCa::new("ca"), TestCa::new("other"));
    let server = folder.listener(&ca, None, ClientAuth::Optional);
    for (trusted, addr, why) in [
        (&ca, "elsewhere:1", "is not for elsewhere, but for"),
        (&ca, "127.0.0.1:1", "is not for 127.0.0.1"),
        (&other, "localhost:1", "not signed by a CA"),
    ] {
        let client = folder.client(trusted, None);
        let (_, done) = shake(&server, async |stream| client.connect(stream, addr).await).await;
        let text = done.unwrap_err();
        assert!(text.contains(why), "{addr}: {text}");
    }
}

#[tokio::test]
async fn flight_listener_takes_members_by_their_server_name() {
    let (folder, ca) = (Folder::new(), TestCa::new("ca"));
    let peers = folder.peers(PeerTlsMode::Require, &ca, "node/a");
    let server = ListenerTls::for_clients(None, ClientAuth::Optional, HttpVersions::Http2, Some(peers)).unwrap();
    assert!(server.accepts_plaintext(), "clients have no TLS");
    let other = folder.peers(PeerTlsMode::Require, &ca, "node/b");
    let (caller, _) = shake(&server, async |stream| other.connect(stream, Some(MemberRole::Node)).await).await;
    assert_eq!(caller, Ok(member("volley://node/b")));
    let client = folder.client(&ca, None);
    let (caller, done) = shake(&server, async |stream| client.connect(stream, "localhost:1").await).await;
    assert!(caller.unwrap_err().contains("for members only"));
    assert!(done.unwrap_err().contains("for members only"));
}

#[tokio::test]
async fn server_without_tls_is_named_in_the_error() {
    let (folder, ca) = (Folder::new(), TestCa::new("ca"));
    let client = folder.client(&ca, None);
    let (near, mut far) = duplex(1024);
    let plaintext = async {
        far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        far
    };
    let (connected, _far) = tokio::join!(client.connect(near, "localhost:1"), plaintext);
    assert!(connected.unwrap_err().to_string().contains("may have no TLS"));
}

#[tokio::test]
async fn slow_handshake_ends_at_its_deadline() {
    let (folder, ca) = (Folder::new(), TestCa::new("ca"));
    let server = folder.listener(&ca, None, ClientAuth::Optional);
    let (mut near, far) = duplex(1024);
    near.write_all(&[0x16, 3, 1]).await.unwrap();
    let error = server.accept(far, Duration::from_millis(20)).await.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn two_cas_are_trusted_during_a_rotation() {
    let (folder, old, new) = (Folder::new(), TestCa::new("old"), TestCa::new("new"));
    let files = folder.peer_files("both", &[&old, &new], &old.issue_member("node/a"));
    let rotating = Arc::new(PeerTls::load(PeerTlsMode::Require, &files, |_| Ok(())).unwrap());
    let server = ListenerTls::for_members(Some(rotating.clone()));
    let by_new = folder.peer_files("by-new", &[&old, &new], &new.issue_member("node/b"));
    let by_new = PeerTls::load(PeerTlsMode::Require, &by_new, |_| Ok(())).unwrap();
    let (caller, done) = shake(&server, async |stream| by_new.connect(stream, None).await).await;
    assert_eq!((caller, done), (Ok(member("volley://node/b")), Ok(())));
    // The files change; the next handshake uses them.
    folder.peer_files("both", &[&new], &new.issue_member("node/a"));
    rotating.poll();
    let by_old = folder.peer_files("by-old", &[&old, &new], &old.issue_member("node/c"));
    let by_old = PeerTls::load(PeerTlsMode::Require, &by_old, |_| Ok(())).unwrap();
    let (caller, _) = shake(&server, async |stream| by_old.connect(stream, None).await).await;
    assert!(caller.unwrap_err().contains("not signed by a CA"));
}

#[test]
fn renewed_peer_certificate_of_another_name_is_not_used() {
    let (folder, ca) = (Folder::new(), TestCa::new("ca"));
    let files = folder.peer_files("own", &[&ca], &ca.issue_member("node/a"));
    let is_node = |found: &MemberIdentity| check_own_identity(found, MemberRole::Node, None);
    let own = PeerTls::load(PeerTlsMode::Require, &files, is_node).unwrap();
    let before = own.keys().current();
    folder.peer_files("own", &[&ca], &ca.issue_member("node/b"));
    (0..2).for_each(|_| own.poll());
    let failure = own.failure().unwrap();
    assert!(
        failure.contains("began as volley://node/a") && failure.contains("restart it to change its name"),
        "{failure}"
    );
    assert!(Arc::ptr_eq(&before, &own.keys().current()), "the old certificate stays in use");
    folder.peer_files("own", &[&ca], &ca.issue_member("node/a"));
    own.poll();
    assert_eq!(own.failure(), None);
    assert!(!Arc::ptr_eq(&before, &own.keys().current()));
}

#[test]
fn unusable_peer_certificate_is_refused_at_the_start() {
    let (folder, ca, other) = (Folder::new(), TestCa::new("ca"), TestCa::new("other"));
    let load = |ca: &TestCa, cert: &TestCertificate| {
        let files = folder.peer_files("own", &[ca], cert);
        let is_own = |found: &MemberIdentity| check_own_identity(found, MemberRole::Coordinator, Some(2));
        PeerTls::load(PeerTlsMode::Require, &files, is_own).map(drop)
    };
    assert_eq!(load(&ca, &ca.issue_member("coordinator/2")), Ok(()));
    for (cert, why) in [
        (ca.issue_member("coordinator/3"), "this member is volley://coordinator/2"),
        (ca.issue_member("node/2"), "this member is volley://coordinator/2"),
        (ca.issue_server(&["host"]), "no member's"),
        (other.issue_member("coordinator/2"), "is not signed by a CA of --peer-ca"),
        (ca.issue_member_for("coordinator/2", ExtendedKeyUsagePurpose::ServerAuth), "both serverAuth and clientAuth"),
        (ca.issue_member_for("coordinator/2", ExtendedKeyUsagePurpose::ClientAuth), "both serverAuth and clientAuth"),
    ] {
        let text = load(&ca, &cert).unwrap_err().message;
        assert!(text.contains("--peer-cert") && text.contains(why), "{text}");
    }
}

/// How reading ends for a client whose server goes away after the handshake, and has sent `sent` before.
async fn end_of_client(sent: &[u8]) -> Option<io::Error> {
    let (folder, ca) = (Folder::new(), TestCa::new("ca"));
    let listener = folder.listener(&ca, Some(&ca), ClientAuth::Required);
    let client = folder.client(&ca, Some(&ca.issue_named("ann", &[])));
    let (near, far) = duplex(64 << 10);
    let server = async {
        let (mut stream, _) = listener.accept(far, Duration::from_secs(10)).await.unwrap();
        stream.write_all(sent).await.unwrap();
        stream.flush().await.unwrap();
    };
    let (stream, ()) = tokio::join!(client.connect(near, "localhost:1"), server);
    let mut stream = MaybeTls::tls(stream.unwrap()).with_end_hint(client.refusal_hint());
    loop {
        match stream.read_u8().await {
            Ok(_) => {}
            Err(error) => return Some(error).filter(|error| error.kind() == io::ErrorKind::ConnectionAborted),
        }
    }
}

#[tokio::test]
async fn end_right_after_the_handshake_names_the_client_certificate() {
    let text = end_of_client(b"").await.unwrap().to_string();
    assert!(text.contains("may refuse the certificate of --tls-cert") && text.contains("--tls-client-ca"), "{text}");
    assert!(end_of_client(b"settings").await.is_none(), "the server has accepted the certificate");
}
