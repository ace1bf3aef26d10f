#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| text.to_string()).collect()
}

fn of(listen: &[&str], advertise: &[&str]) -> Result<Vec<Listener>> {
    listeners(&texts(listen), &texts(advertise), true)
}

#[test]
fn listeners_have_names_and_addresses_of_their_own() {
    let both = of(&["internal=10.0.0.1:8815", "external=0.0.0.0:9815"], &["external=grpc+tcp://v.example:80"]).unwrap();
    let at = |at: usize| both[at].reachable_at("127.0.0.1:7".parse().unwrap()).unwrap();
    assert_eq!((both[0].name.as_str(), at(0).as_str()), ("internal", "10.0.0.1:8815"));
    assert_eq!((both[1].name.as_str(), at(1).as_str()), ("external", "v.example:80"));
    let only = of(&["0.0.0.0:0"], &["h:0"]).unwrap();
    assert_eq!(only[0].reachable_at("127.0.0.1:7".parse().unwrap()).unwrap(), "h:7");
    assert_eq!(of(&["x=0.0.0.0:0"], &["h:0"]).unwrap()[0].advertise.as_deref(), Some("h:0"), "there is only one");
}

#[test]
fn what_is_wrong_with_listeners_is_said() {
    let wrong = |listen: &[&str], advertise: &[&str], words: &[&str]| {
        let message = of(listen, advertise).unwrap_err().message;
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    wrong(&[], &[], &["--listen", "HOST:PORT"]);
    wrong(&["a:1", "b:1"], &[], &["NAME=a:1", "every member"]);
    wrong(&["x=a:1", "b:1"], &[], &["NAME=b:1"]);
    wrong(&["a:1", "x=b:1"], &[], &["NAME=a:1"]);
    wrong(&["x=a:1", "x=b:1"], &[], &["\"x\"", "twice"]);
    for reserved in ["direct", "proxy", "single"] {
        wrong(&[&format!("{reserved}=a:1")], &[], &[reserved, "way of answering"]);
    }
    wrong(&["a b=c:1"], &[], &["letters"]);
    wrong(&["x=nowhere"], &[], &["no port"]);
    wrong(&["x=0.0.0.0:1", "y=h:1"], &[], &["--advertise x=", "0.0.0.0:1"]);
    wrong(&["x=h:1", "y=h:2"], &["h:1"], &["NAME=h:1", "x, y"]);
    wrong(&["x=h:1"], &["z=h:1"], &["\"z\"", "x"]);
    wrong(&["x=h:1"], &["x=h:1", "x=h:2"], &["twice"]);
    wrong(&["x=h:1"], &["x=grpc://0.0.0.0:1"], &["0.0.0.0:1"]);
    assert!(listeners(&texts(&["x=0.0.0.0:1"]), &texts(&["h:1"]), false).unwrap_err().message.contains("--insecure"));
}

#[test]
fn a_port_that_is_forwarded_from_loopback_may_be_told() {
    let published = of(&["0.0.0.0:8815"], &["grpc+tcp://127.0.0.1:8815"]).unwrap();
    assert_eq!(published[0].reachable_at("0.0.0.0:8815".parse().unwrap()).unwrap(), "127.0.0.1:8815");
}

#[test]
fn addresses_come_out_of_uris() {
    for (uri, addr) in [("grpc+tcp://n1:8816", "n1:8816"), ("grpc://[::1]:8816/", "[::1]:8816"), ("n1:8816", "n1:8816")]
    {
        assert_eq!(host_port(uri), addr);
    }
}

#[test]
fn addresses_that_nobody_can_dial_are_refused() {
    assert_eq!(check_advertise("grpc+tcp://h:1").unwrap(), "h:1");
    assert_eq!(check_advertise("[fe80::1]:8815").unwrap(), "[fe80::1]:8815");
    for bad in ["0.0.0.0:1", "grpc://[::]:1", "http://h:1", "h", "h:x", ":1", "::1:5", "grpc+tcp://h:1/x", "a b:1", ""]
    {
        assert!(check_advertise(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_bound_port_fills_port_zero() {
    let bound: SocketAddr = "127.0.0.1:4242".parse().unwrap();
    let at = |listen, advertise| reachable_at("--advertise", listen, advertise, bound);
    assert_eq!(at("127.0.0.1:0", None).unwrap(), "127.0.0.1:4242");
    assert_eq!(at("[::1]:0", None).unwrap(), "[::1]:4242");
    assert_eq!(at("0.0.0.0:0", Some("grpc+tcp://h:0")).unwrap(), "h:4242");
    assert_eq!(at("0.0.0.0:0", Some("h:80")).unwrap(), "h:80");
    assert!(at("0.0.0.0:0", None).unwrap_err().message.contains("--advertise"));
}

#[test]
fn only_loopback_needs_no_leave() {
    for addr in ["127.0.0.1:1", "[::1]:1", "localhost:0"] {
        check_listen("--listen", addr, false).unwrap();
    }
    for addr in ["0.0.0.0:1", "[::]:1", "10.0.0.7:1", "example.org:1"] {
        let error = check_listen("--listen", addr, false).unwrap_err();
        assert!(error.message.contains("--insecure") && error.message.contains(addr), "{error}");
        check_listen("--listen", addr, true).unwrap();
    }
}
