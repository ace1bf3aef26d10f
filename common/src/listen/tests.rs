#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;

fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| text.to_string()).collect()
}

fn parse(listen: &[&str], advertise: &[&str]) -> Result<Vec<ListenerConfig>> {
    listeners(&strings(listen), &strings(advertise), |_| true)
}

#[test]
fn listeners_have_their_own_names_and_addresses() {
    let two =
        parse(&["internal=10.0.0.1:8815", "external=0.0.0.0:9815"], &["external=grpc+tcp://v.example:80"]).unwrap();
    let at = |at: usize| two[at].reachable_at("127.0.0.1:7".parse().unwrap()).unwrap();
    assert_eq!((two[0].name.as_str(), at(0).as_str()), ("internal", "10.0.0.1:8815"));
    assert_eq!((two[1].name.as_str(), at(1).as_str()), ("external", "v.example:80"));
    let only = parse(&["0.0.0.0:0"], &["h:0"]).unwrap();
    assert_eq!(only[0].reachable_at("127.0.0.1:7".parse().unwrap()).unwrap(), "h:7");
    assert_eq!(parse(&["x=0.0.0.0:0"], &["h:0"]).unwrap()[0].advertise.as_deref(), Some("h:0"), "there is only one");
}

#[test]
fn bad_listeners_are_refused_with_the_reason() {
    let refused = |listen: &[&str], advertise: &[&str], words: &[&str]| {
        let message = parse(listen, advertise).unwrap_err().message;
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    refused(&[], &[], &["--listen", "HOST:PORT"]);
    refused(&["a:1", "b:1"], &[], &["NAME=a:1", "every member"]);
    refused(&["x=a:1", "b:1"], &[], &["NAME=b:1"]);
    refused(&["a:1", "x=b:1"], &[], &["NAME=a:1"]);
    refused(&["x=a:1", "x=b:1"], &[], &["\"x\"", "twice"]);
    for reserved in ["direct", "proxy", "single"] {
        refused(&[&format!("{reserved}=a:1")], &[], &[reserved, "reserved"]);
    }
    refused(&["http=a:1"], &[], &["\"http\"", "HTTP port", "choose another name"]);
    refused(&["a b=c:1"], &[], &["letters"]);
    refused(&["x=nowhere"], &[], &["no port"]);
    refused(&["x=0.0.0.0:1", "y=h:1"], &[], &["--advertise x=", "0.0.0.0:1"]);
    refused(&["x=h:1", "y=h:2"], &["h:1"], &["NAME=h:1", "x, y"]);
    refused(&["x=h:1"], &["z=h:1"], &["\"z\"", "x"]);
    refused(&["x=h:1"], &["x=h:1", "x=h:2"], &["twice"]);
    refused(&["x=h:1"], &["x=grpc://0.0.0.0:1"], &["0.0.0.0:1"]);
    assert!(
        listeners(&strings(&["x=0.0.0.0:1"]), &strings(&["h:1"]), |_| false)
            .unwrap_err()
            .message
            .contains("--insecure")
    );
}

#[test]
fn loopback_can_be_advertised_for_a_forwarded_port() {
    let published = parse(&["0.0.0.0:8815"], &["grpc+tcp://127.0.0.1:8815"]).unwrap();
    assert_eq!(published[0].reachable_at("0.0.0.0:8815".parse().unwrap()).unwrap(), "127.0.0.1:8815");
}

#[test]
fn host_port_of_a_uri_drops_scheme_and_path() {
    for (uri, addr) in [("grpc+tcp://n1:8816", "n1:8816"), ("grpc://[::1]:8816/", "[::1]:8816"), ("n1:8816", "n1:8816")]
    {
        assert_eq!(host_port(uri), addr);
    }
}

#[test]
fn advertise_refuses_addresses_that_cannot_be_dialled() {
    assert_eq!(check_advertise("grpc+tcp://h:1").unwrap(), "h:1");
    assert_eq!(check_advertise("[fe80::1]:8815").unwrap(), "[fe80::1]:8815");
    for bad in ["0.0.0.0:1", "grpc://[::]:1", "http://h:1", "h", "h:x", ":1", "::1:5", "grpc+tcp://h:1/x", "a b:1", ""]
    {
        let error = check_advertise(bad).unwrap_err();
        assert!(!error.message.contains("advertised"), "it may be that of a peer: {error}");
    }
}

#[test]
fn port_zero_is_replaced_by_the_bound_port() {
    let bound: SocketAddr = "127.0.0.1:4242".parse().unwrap();
    let at = |listen, advertise| reachable_at("--advertise", listen, advertise, bound);
    assert_eq!(at("127.0.0.1:0", None).unwrap(), "127.0.0.1:4242");
    assert_eq!(at("[::1]:0", None).unwrap(), "[::1]:4242");
    assert_eq!(at("0.0.0.0:0", Some("grpc+tcp://h:0")).unwrap(), "h:4242");
    assert_eq!(at("0.0.0.0:0", Some("h:80")).unwrap(), "h:80");
    assert!(at("0.0.0.0:0", None).unwrap_err().message.contains("--advertise"));
}

#[test]
fn only_loopback_is_allowed_without_insecure() {
    for addr in ["127.0.0.1:1", "[::1]:1", "localhost:0"] {
        check_listen("--listen", addr, false).unwrap();
    }
    for addr in ["0.0.0.0:1", "[::]:1", "10.0.0.7:1", "example.org:1"] {
        let error = check_listen("--listen", addr, false).unwrap_err();
        assert!(error.message.contains("--insecure") && error.message.contains(addr), "{error}");
        assert!(error.message.contains("--tls-cert") && error.message.contains("passwords"), "{error}");
        assert_eq!(error.message.contains("is \"example.org\" right?"), addr == "example.org:1", "{error}");
        assert!(check_listen("--peer-listen", addr, false).unwrap_err().message.contains("--peer-cert"));
        check_listen("--listen", addr, true).unwrap();
    }
}
