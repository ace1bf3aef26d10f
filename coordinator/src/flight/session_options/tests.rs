//! Options of sessions, their limits, and what is refused.

use volley_common::Code;

use super::*;

fn request(name: &str, value: Option<SessionOptionValue>) -> Vec<u8> {
    SessionOptionMap { options: BTreeMap::from([(name.to_string(), SessionOption { value })]) }.encode_to_vec()
}

#[test]
fn options_can_be_set_removed_and_closed() {
    let sessions = FlightSessions::default();
    let (result, id) = sessions.set("ann", None, &request("a", Some(SessionOptionValue::Int64(7)))).unwrap();
    assert!(result.errors.is_empty());
    let id = id.unwrap();
    assert_eq!(sessions.get("ann", Some(&id)).options["a"].value, Some(SessionOptionValue::Int64(7)));
    assert_eq!(sessions.set("ann", Some(id.clone()), &request("a", None)).unwrap().1, None);
    assert!(sessions.get("ann", Some(&id)).options.is_empty());
    assert_eq!(sessions.close("ann", Some(&id)).status, CLOSED);
    assert_eq!(sessions.close("ann", None).status, CLOSED);
}

#[test]
fn invalid_names_and_values_are_distinguished() {
    let sessions = FlightSessions::default();
    let error = |body: Vec<u8>, name: &str| sessions.set("ann", None, &body).unwrap().0.errors[name].value;
    assert_eq!(error(request("", Some(SessionOptionValue::Bool(true))), ""), INVALID_NAME);
    assert_eq!(error(request("big", Some(SessionOptionValue::String("x".repeat(5000)))), "big"), INVALID_VALUE);
    let invalid = SessionOptionValue::String(ALWAYS_INVALID.into());
    assert_eq!(error(request("key_with_invalid_value", Some(invalid)), "key_with_invalid_value"), INVALID_VALUE);
    assert_eq!(error(request(ALWAYS_INVALID, Some(SessionOptionValue::Bool(true))), ALWAYS_INVALID), INVALID_NAME);
    assert!(sessions.set("ann", None, b"\xff\xff").is_err());
}

#[test]
fn catalog_and_schema_are_those_of_every_session() {
    let sessions = FlightSessions::default();
    let text = |value: &str| Some(SessionOptionValue::String(value.into()));
    let told = |id: Option<&str>| {
        let options = sessions.current("ann", id).options.into_iter();
        options.map(|(name, option)| (name, option.value)).collect::<Vec<_>>()
    };
    let both = || [("catalog".to_string(), text("volley")), ("schema".to_string(), text("default"))];
    assert_eq!(told(None), both());
    let id = sessions.set("ann", None, &request("catalog", text("volley"))).unwrap().1.unwrap();
    assert_eq!(told(Some(&id)), both());
    let set = |name: &str, value| {
        let (result, created) = sessions.set("ann", Some(id.clone()), &request(name, value)).unwrap();
        assert!(result.errors.is_empty() && created.is_none(), "{name}");
    };
    set("schema", text("default"));
    set("a", text("b"));
    assert_eq!(told(Some(&id)).len(), 3);
    set("schema", None);
    set("catalog", None);
    assert_eq!(told(Some(&id)), [("a".to_string(), text("b"))]);
    sessions.close("ann", Some(&id));
    assert_eq!(told(Some(&id)), both());
}

#[test]
fn options_for_statements_are_refused_with_all_others() {
    let sessions = FlightSessions::default();
    let text = |value: &str| Some(SessionOptionValue::String(value.into()));
    let id = sessions.set("ann", None, &[]).unwrap().1;
    for (name, value, code, remedy) in [
        ("catalog", text("other"), Code::InvalidArgument, "only the catalog \"volley\""),
        ("schema", text("sales"), Code::InvalidArgument, "before a table's name"),
        ("schema", Some(SessionOptionValue::Bool(true)), Code::InvalidArgument, "always \"default\""),
        ("statement_timeout", text("30s"), Code::Unimplemented, "a deadline"),
        ("statement_timeout_s", Some(SessionOptionValue::Int64(30)), Code::Unimplemented, "a deadline"),
    ] {
        let good = SessionOption { value: text("b") };
        let options = BTreeMap::from([("a".to_string(), good), (name.to_string(), SessionOption { value })]);
        let body = SessionOptionMap { options }.encode_to_vec();
        let error = sessions.set("ann", id.clone(), &body).unwrap_err();
        assert!(error.code == code && error.message.contains(remedy), "{name}: {error}");
    }
    sessions.set("ann", id.clone(), &request("statement_timeout", None)).unwrap();
    assert!(sessions.get("ann", id.as_deref()).options.is_empty());
}

#[test]
fn number_of_sessions_is_limited() {
    let sessions = FlightSessions::default();
    let first = sessions.set("ann", None, &request("a", Some(SessionOptionValue::Bool(true)))).unwrap().1.unwrap();
    for _ in 0..MAX_SESSIONS {
        sessions.set("ann", None, &[]).unwrap();
    }
    assert_eq!(sessions.0.lock().sessions.len(), MAX_SESSIONS);
    assert!(sessions.get("ann", Some(&first)).options.is_empty());
}

#[test]
fn sessions_are_those_of_their_principal() {
    let sessions = FlightSessions::default();
    let id = sessions.set("ann", None, &request("a", Some(SessionOptionValue::Bool(true)))).unwrap().1.unwrap();
    assert!(sessions.get("bob", Some(&id)).options.is_empty() && sessions.get("", Some(&id)).options.is_empty());
    let other = sessions.set("bob", Some(id.clone()), &request("a", None)).unwrap().1;
    assert!(other.is_some_and(|other| other != id), "a session of its own");
    sessions.close("bob", Some(&id));
    assert_eq!(sessions.get("ann", Some(&id)).options.len(), 1);
}

#[test]
fn memory_of_all_sessions_is_limited() {
    let sessions = FlightSessions::default();
    let strings = || StringList { values: vec![String::new(); MAX_OPTION_BYTES / 2 - 8] };
    let option = || SessionOption { value: Some(SessionOptionValue::Strings(strings())) };
    let options = (0..MAX_OPTIONS).map(|at| (format!("a{at}"), option())).collect();
    let body = SessionOptionMap { options }.encode_to_vec();
    let set = |id: Option<&String>| sessions.set("ann", id.cloned(), &body).unwrap();
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
        sessions.close(owner, Some(id));
    }
    assert_eq!(sessions.0.lock().bytes, 0);
}

#[test]
fn session_cookie_is_found_among_others() {
    let mut metadata = MetadataMap::new();
    metadata.insert("cookie", "a=b; arrow_flight_session_id=17".parse().unwrap());
    assert_eq!(session_id(&metadata).as_deref(), Some("17"));
    assert_eq!(session_id(&MetadataMap::new()), None);
}
