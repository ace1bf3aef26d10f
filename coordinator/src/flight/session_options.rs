//! Session options: a client sets them, and this member keeps them in memory under a cookie.

use std::collections::{BTreeMap, HashMap, VecDeque};

use parking_lot::Mutex;
use prost::Message;
use tonic::metadata::MetadataMap;
use volley_common::{Error, Result};

/// The cookie with the session's id.
pub const COOKIE: &str = "arrow_flight_session_id";
/// Maximum number of sessions at a time; the oldest is dropped for a further one.
const MAX_SESSIONS: usize = 1024;
/// Maximum number of options of a session.
const MAX_OPTIONS: usize = 64;
/// Maximum bytes of one option.
const MAX_OPTION_BYTES: usize = 4096;
/// Maximum bytes of all sessions; the oldest are dropped for further options.
const MAX_BYTES: usize = 16 << 20;
/// What an option and a session need beside their text, about.
const OPTION_OVERHEAD: usize = 128;
const SESSION_OVERHEAD: usize = 512;
/// What a string of a list needs beside its text: encoded it may have two bytes.
const STRING_OVERHEAD: usize = 48;

/// `SessionOptionValue` of `Flight.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct SessionOption {
    /// Unset: the option is removed.
    #[prost(oneof = "SessionOptionValue", tags = "1, 2, 3, 4, 5")]
    pub value: Option<SessionOptionValue>,
}

/// The value of an option.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum SessionOptionValue {
    /// A string.
    #[prost(string, tag = "1")]
    String(String),
    /// A boolean.
    #[prost(bool, tag = "2")]
    Bool(bool),
    /// An integer.
    #[prost(sfixed64, tag = "3")]
    Int64(i64),
    /// A floating-point number.
    #[prost(double, tag = "4")]
    Double(f64),
    /// A list of strings.
    #[prost(message, tag = "5")]
    Strings(StringList),
}

/// A list of strings.
#[derive(Clone, PartialEq, Message)]
pub struct StringList {
    /// The strings.
    #[prost(string, repeated, tag = "1")]
    pub values: Vec<String>,
}

/// Options by name: the form of both `SetSessionOptionsRequest` and `GetSessionOptionsResult`.
#[derive(Clone, PartialEq, Message)]
pub struct SessionOptionMap {
    /// Options by name.
    #[prost(btree_map = "string, message", tag = "1")]
    pub options: BTreeMap<String, SessionOption>,
}

/// `SetSessionOptionsResult`: the options that were rejected.
#[derive(Clone, PartialEq, Message)]
pub struct SetSessionResult {
    /// Errors by option name.
    #[prost(btree_map = "string, message", tag = "1")]
    pub errors: BTreeMap<String, SetOptionError>,
}

/// Why an option was rejected.
#[derive(Clone, PartialEq, Message)]
pub struct SetOptionError {
    /// 1: invalid name, 2: invalid value.
    #[prost(int32, tag = "1")]
    pub value: i32,
}

/// `CloseSessionResult`.
#[derive(Clone, PartialEq, Message)]
pub struct CloseSessionResult {
    /// 1: closed.
    #[prost(int32, tag = "1")]
    pub status: i32,
}

const INVALID_NAME: i32 = 1;
const INVALID_VALUE: i32 = 2;
const CLOSED: i32 = 1;
/// A name and a value that no server accepts, by which Flight's integration tests check that errors are reported.
const ALWAYS_INVALID: &str = "lol_invalid";

/// All sessions of this member.
#[derive(Default)]
pub struct FlightSessions(Mutex<SessionTable>);

#[derive(Default)]
struct SessionTable {
    sessions: HashMap<SessionKey, SessionOptions>,
    /// The sessions, the oldest first; may contain closed sessions.
    order: VecDeque<SessionKey>,
    /// Of all sessions.
    bytes: usize,
}

/// The principal (empty: none) and the session's id: nobody uses the session of another.
type SessionKey = (String, String);

struct SessionOptions {
    options: BTreeMap<String, SessionOption>,
    /// Approximate memory use.
    bytes: usize,
}

impl FlightSessions {
    /// Sets options for a principal. A client without a session gets a new one, whose id is returned.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the body is not a valid message.
    pub fn set(&self, owner: &str, id: Option<String>, body: &[u8]) -> Result<(SetSessionResult, Option<String>)> {
        let request = SessionOptionMap::decode(body).map_err(|e| Error::invalid(format!("SetSessionOptions: {e}")))?;
        let mut table = self.0.lock();
        let known = id.map(|id| (owner.to_string(), id)).filter(|key| table.sessions.contains_key(key));
        let is_new = known.is_none();
        let key = known.unwrap_or_else(|| table.create(owner));
        let mut session = table.take(&key).unwrap_or_else(|| SessionOptions::new(&key));
        let mut errors = BTreeMap::new();
        for (name, option) in request.options {
            if let Err(value) = session.set_option(&name, option) {
                errors.insert(name, SetOptionError { value });
            }
        }
        table.put(key.clone(), session);
        Ok((SetSessionResult { errors }, is_new.then_some(key.1)))
    }

    /// The options of a principal's session; empty without a session.
    pub fn get(&self, owner: &str, id: Option<&str>) -> SessionOptionMap {
        let table = self.0.lock();
        let session = id.and_then(|id| table.sessions.get(&(owner.to_string(), id.to_string())));
        SessionOptionMap { options: session.map(|session| session.options.clone()).unwrap_or_default() }
    }

    /// Closes a principal's session. An unknown session counts as closed.
    pub fn close(&self, owner: &str, id: Option<&str>) -> CloseSessionResult {
        if let Some(id) = id {
            self.0.lock().take(&(owner.to_string(), id.to_string()));
        }
        CloseSessionResult { status: CLOSED }
    }
}

impl SessionTable {
    /// Names a new session.
    fn create(&mut self, owner: &str) -> SessionKey {
        self.order.retain(|key| self.sessions.contains_key(key));
        let key = (owner.to_string(), format!("{:032x}", rand::random::<u128>()));
        self.order.push_back(key.clone());
        key
    }

    fn take(&mut self, key: &SessionKey) -> Option<SessionOptions> {
        let session = self.sessions.remove(key)?;
        self.bytes -= session.bytes;
        Some(session)
    }

    /// Inserts a session, and drops the oldest others that there is no room for.
    fn put(&mut self, key: SessionKey, session: SessionOptions) {
        let mut kept = VecDeque::new();
        while self.sessions.len() >= MAX_SESSIONS || self.bytes + session.bytes > MAX_BYTES {
            let Some(oldest) = self.order.pop_front() else { break };
            match oldest == key {
                true => kept.push_back(oldest),
                false => drop(self.take(&oldest)),
            }
        }
        kept.into_iter().for_each(|key| self.order.push_front(key));
        self.bytes += session.bytes;
        self.sessions.insert(key, session);
    }
}

impl SessionOptions {
    fn new((owner, id): &SessionKey) -> Self {
        SessionOptions { options: BTreeMap::new(), bytes: SESSION_OVERHEAD + 2 * (owner.len() + id.len()) }
    }

    fn set_option(&mut self, name: &str, option: SessionOption) -> std::result::Result<(), i32> {
        if name.is_empty() || name.len() > MAX_OPTION_BYTES || name == ALWAYS_INVALID {
            return Err(INVALID_NAME);
        }
        let is_full = self.options.len() >= MAX_OPTIONS && !self.options.contains_key(name);
        if option.encoded_len() > MAX_OPTION_BYTES || is_full {
            return Err(INVALID_VALUE);
        }
        if matches!(&option.value, Some(SessionOptionValue::String(text)) if text == ALWAYS_INVALID) {
            return Err(INVALID_VALUE);
        }
        if let Some(old) = self.options.remove(name) {
            self.bytes -= option_bytes(name, &old);
        }
        if option.value.is_some() {
            self.bytes += option_bytes(name, &option);
            self.options.insert(name.to_string(), option);
        }
        Ok(())
    }
}

/// The approximate memory use of an option.
fn option_bytes(name: &str, option: &SessionOption) -> usize {
    let strings = match &option.value {
        Some(SessionOptionValue::Strings(list)) => list.values.len() * STRING_OVERHEAD,
        _ => 0,
    };
    OPTION_OVERHEAD + name.len() + option.encoded_len() + strings
}

/// The session's id from the cookies of a call.
pub fn session_id(metadata: &MetadataMap) -> Option<String> {
    let cookies = metadata.get_all("cookie").iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, id)| id.trim_matches('"').to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
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
}
