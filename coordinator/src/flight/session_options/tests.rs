//! Options of sessions, their limits, and what is refused.

use volley_common::Code;

use super::*;

fn request(name: &str, value: Option<SessionOptionValue>) -> Vec<u8> {
    SessionOptionMap { options: BTreeMap::from([(name.to_string(), SessionOption { value })]) }.encode_to_vec()
}

fn text(value: &str) -> Option<SessionOptionValue> {
    Some(SessionOptionValue::String(value.into()))
}

/// The cookie of a new session of `ann` with these options.
fn session(sessions: &FlightSessions, body: &[u8]) -> SessionCookie {
    sessions.set("ann", None, body).unwrap().1.unwrap()
}

#[test]
fn options_can_be_set_removed_and_closed() {
    let sessions = FlightSessions::default();
    let (result, cookie) = sessions.set("ann", None, &request("a", Some(SessionOptionValue::Int64(7)))).unwrap();
    assert!(result.errors.is_empty());
    let cookie = cookie.unwrap();
    assert_eq!(sessions.get("ann", Some(&cookie)).options["a"].value, Some(SessionOptionValue::Int64(7)));
    assert_eq!(sessions.set("ann", Some(&cookie), &request("a", None)).unwrap().1, None);
    assert!(sessions.get("ann", Some(&cookie)).options.is_empty());
    assert_eq!(sessions.close("ann", Some(&cookie)).status, CLOSED);
    assert_eq!(sessions.close("ann", None).status, CLOSED);
}

#[test]
fn invalid_names_and_values_are_distinguished() {
    let sessions = FlightSessions::default();
    let error = |body: Vec<u8>, name: &str| sessions.set("ann", None, &body).unwrap().0.errors[name].value;
    assert_eq!(error(request("", Some(SessionOptionValue::Bool(true))), ""), INVALID_NAME);
    assert_eq!(error(request("big", text(&"x".repeat(5000))), "big"), INVALID_VALUE);
    let invalid = text(ALWAYS_INVALID);
    assert_eq!(error(request("key_with_invalid_value", invalid), "key_with_invalid_value"), INVALID_VALUE);
    assert_eq!(error(request(ALWAYS_INVALID, Some(SessionOptionValue::Bool(true))), ALWAYS_INVALID), INVALID_NAME);
    assert!(sessions.set("ann", None, b"\xff\xff").is_err());
}

/// What a client is told.
fn told(sessions: &FlightSessions, cookie: Option<&SessionCookie>) -> Vec<(String, Option<SessionOptionValue>)> {
    let options = sessions.current("ann", cookie).options.into_iter();
    options.map(|(name, option)| (name, option.value)).collect()
}

fn both() -> [(String, Option<SessionOptionValue>); 2] {
    [("catalog".to_string(), text("volley")), ("schema".to_string(), text("default"))]
}

#[test]
fn catalog_and_schema_are_those_of_every_session() {
    let sessions = FlightSessions::default();
    assert_eq!(told(&sessions, None), both());
    let cookie = session(&sessions, &request("catalog", text("volley")));
    assert_eq!(told(&sessions, Some(&cookie)), both());
    let set = |name: &str, value| {
        let (result, changed) = sessions.set("ann", Some(&cookie), &request(name, value)).unwrap();
        assert!(result.errors.is_empty() && changed.is_none(), "{name}");
    };
    set("schema", text("default"));
    set("a", text("b"));
    assert_eq!(told(&sessions, Some(&cookie)).len(), 3);
    set("schema", None);
    set("catalog", None);
    assert_eq!(told(&sessions, Some(&cookie)), [("a".to_string(), text("b"))]);
    sessions.close("ann", Some(&cookie));
    assert_eq!(told(&sessions, Some(&cookie)), both());
}

#[test]
fn time_limit_is_in_the_cookie_of_its_session() {
    let sessions = FlightSessions::default();
    for (value, back) in [
        (text("1.5 min"), text("90s")),
        (text("20"), text("20s")),
        (Some(SessionOptionValue::Int64(30)), Some(SessionOptionValue::Int64(30))),
        (Some(SessionOptionValue::Double(0.25)), Some(SessionOptionValue::Double(0.25))),
    ] {
        let cookie = session(&sessions, &request("statement_timeout", value));
        let expected = || both().into_iter().chain([("statement_timeout".to_string(), back.clone())]);
        assert!(told(&sessions, Some(&cookie)).into_iter().eq(expected()), "{cookie:?}");
        assert_eq!(sessions.set("ann", Some(&cookie), &request("schema", text("default"))).unwrap().1, None);
        // A member that does not know the session knows the limit, and gives it on.
        let others = FlightSessions::default();
        assert!(told(&others, Some(&cookie)).into_iter().eq(expected()));
        let other = others.set("ann", Some(&cookie), &request("schema", text("default"))).unwrap().1.unwrap();
        assert!(other.id != cookie.id && other.statement_timeout == cookie.statement_timeout);
        for none in [None, text("0"), Some(SessionOptionValue::Int64(0))] {
            let (_, changed) = sessions.set("ann", Some(&cookie), &request("statement_timeout", none)).unwrap();
            assert_eq!(changed, Some(SessionCookie { statement_timeout: None, ..cookie.clone() }));
        }
    }
}

#[test]
fn options_for_statements_are_refused_with_all_others() {
    let sessions = FlightSessions::default();
    let cookie = session(&sessions, &[]);
    for (name, value, remedy) in [
        ("catalog", text("other"), "only the catalog \"volley\""),
        ("schema", text("sales"), "before a table's name"),
        ("schema", Some(SessionOptionValue::Bool(true)), "always \"default\""),
        ("statement_timeout", text("soon"), "as in 30s"),
        ("statement_timeout", Some(SessionOptionValue::Int64(-1)), "as in 30s"),
        ("statement_timeout", Some(SessionOptionValue::Double(f64::NAN)), "as in 30s"),
        ("statement_timeout", Some(SessionOptionValue::Bool(true)), "as in 30s"),
        ("statement_timeout_s", Some(SessionOptionValue::Int64(30)), "is statement_timeout"),
    ] {
        let good = SessionOption { value: text("b") };
        let options = BTreeMap::from([("a".to_string(), good), (name.to_string(), SessionOption { value })]);
        let body = SessionOptionMap { options }.encode_to_vec();
        let error = sessions.set("ann", Some(&cookie), &body).unwrap_err();
        assert!(error.code == Code::InvalidArgument && error.message.contains(remedy), "{name}: {error}");
    }
    sessions.set("ann", Some(&cookie), &request("statement_timeout_s", None)).unwrap();
    assert!(sessions.get("ann", Some(&cookie)).options.is_empty());
}

#[test]
fn number_of_sessions_is_limited() {
    let sessions = FlightSessions::default();
    let first = session(&sessions, &request("a", Some(SessionOptionValue::Bool(true))));
    for _ in 0..MAX_SESSIONS {
        sessions.set("ann", None, &[]).unwrap();
    }
    assert_eq!(sessions.0.lock().sessions.len(), MAX_SESSIONS);
    assert!(sessions.get("ann", Some(&first)).options.is_empty());
}

#[test]
fn sessions_are_those_of_their_principal() {
    let sessions = FlightSessions::default();
    let own = session(&sessions, &request("a", Some(SessionOptionValue::Bool(true))));
    assert!(sessions.get("bob", Some(&own)).options.is_empty() && sessions.get("", Some(&own)).options.is_empty());
    let other = sessions.set("bob", Some(&own), &request("a", None)).unwrap().1;
    assert!(other.is_some_and(|other| other.id != own.id), "a session of its own");
    sessions.close("bob", Some(&own));
    assert_eq!(sessions.get("ann", Some(&own)).options.len(), 1);
}

#[test]
fn memory_of_all_sessions_is_limited() {
    let sessions = FlightSessions::default();
    let strings = || StringList { values: vec![String::new(); MAX_OPTION_BYTES / 2 - 8] };
    let option = || SessionOption { value: Some(SessionOptionValue::Strings(strings())) };
    let options = (0..MAX_OPTIONS).map(|at| (format!("a{at}"), option())).collect();
    let body = SessionOptionMap { options }.encode_to_vec();
    let set = |cookie: Option<&SessionCookie>| sessions.set("ann", cookie, &body).unwrap();
    let first = set(None).1.unwrap();
    let mut newest = first.clone();
    for _ in 0..9 {
        newest = set(None).1.unwrap();
        let table = sessions.0.lock();
        assert_eq!(table.bytes, table.sessions.values().map(|session| session.bytes).sum::<usize>());
        assert!(table.bytes <= MAX_BYTES && table.bytes >= table.sessions.len() * MAX_OPTIONS * 60_000);
    }
    assert!(sessions.get("ann", Some(&first)).options.is_empty(), "the oldest was dropped");
    assert_eq!(set(Some(&newest)).1, None);
    assert_eq!(sessions.get("ann", Some(&newest)).options.len(), MAX_OPTIONS);
    let all = sessions.0.lock().order.clone();
    for (owner, id) in &all {
        sessions.close(owner, Some(&SessionCookie { id: id.clone(), statement_timeout: None }));
    }
    assert_eq!(sessions.0.lock().bytes, 0);
}
