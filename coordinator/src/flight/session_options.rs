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
    sessions: HashMap<String, BTreeMap<String, SessionOption>>,
    /// Session ids, the oldest first; may contain closed sessions.
    order: VecDeque<String>,
}

impl FlightSessions {
    /// Sets options. A client without a session gets a new one, whose id is returned.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the body is not a valid message.
    pub fn set(&self, id: Option<String>, body: &[u8]) -> Result<(SetSessionResult, Option<String>)> {
        let request = SessionOptionMap::decode(body).map_err(|e| Error::invalid(format!("SetSessionOptions: {e}")))?;
        let mut table = self.0.lock();
        let known = id.filter(|id| table.sessions.contains_key(id));
        let is_new = known.is_none();
        let id = known.unwrap_or_else(|| table.create());
        let session = table.sessions.entry(id.clone()).or_default();
        let mut errors = BTreeMap::new();
        for (name, option) in request.options {
            if let Err(value) = set_option(session, &name, option) {
                errors.insert(name, SetOptionError { value });
            }
        }
        Ok((SetSessionResult { errors }, is_new.then_some(id)))
    }

    /// The session's options; empty without a session.
    pub fn get(&self, id: Option<&str>) -> SessionOptionMap {
        let table = self.0.lock();
        let options = id.and_then(|id| table.sessions.get(id)).cloned().unwrap_or_default();
        SessionOptionMap { options }
    }

    /// Closes a session. An unknown session counts as closed.
    pub fn close(&self, id: Option<&str>) -> CloseSessionResult {
        if let Some(id) = id {
            self.0.lock().sessions.remove(id);
        }
        CloseSessionResult { status: CLOSED }
    }
}

impl SessionTable {
    fn create(&mut self) -> String {
        self.order.retain(|id| self.sessions.contains_key(id));
        while self.sessions.len() >= MAX_SESSIONS {
            let Some(oldest) = self.order.pop_front() else { break };
            self.sessions.remove(&oldest);
        }
        let id = format!("{:032x}", rand::random::<u128>());
        self.order.push_back(id.clone());
        id
    }
}

fn set_option(
    session: &mut BTreeMap<String, SessionOption>,
    name: &str,
    option: SessionOption,
) -> std::result::Result<(), i32> {
    if name.is_empty() || name.len() > MAX_OPTION_BYTES || name == ALWAYS_INVALID {
        return Err(INVALID_NAME);
    }
    if option.encoded_len() > MAX_OPTION_BYTES || (session.len() >= MAX_OPTIONS && !session.contains_key(name)) {
        return Err(INVALID_VALUE);
    }
    match option.value {
        Some(SessionOptionValue::String(ref text)) if text == ALWAYS_INVALID => return Err(INVALID_VALUE),
        Some(_) => drop(session.insert(name.to_string(), option)),
        None => drop(session.remove(name)),
    }
    Ok(())
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
        let (result, id) = sessions.set(None, &request("a", Some(SessionOptionValue::Int64(7)))).unwrap();
        assert!(result.errors.is_empty());
        let id = id.unwrap();
        assert_eq!(sessions.get(Some(&id)).options["a"].value, Some(SessionOptionValue::Int64(7)));
        assert_eq!(sessions.set(Some(id.clone()), &request("a", None)).unwrap().1, None);
        assert!(sessions.get(Some(&id)).options.is_empty());
        assert_eq!(sessions.close(Some(&id)).status, CLOSED);
        assert_eq!(sessions.close(None).status, CLOSED);
    }

    #[test]
    fn invalid_names_and_values_are_distinguished() {
        let sessions = FlightSessions::default();
        let error = |body: Vec<u8>, name: &str| sessions.set(None, &body).unwrap().0.errors[name].value;
        assert_eq!(error(request("", Some(SessionOptionValue::Bool(true))), ""), INVALID_NAME);
        assert_eq!(error(request("big", Some(SessionOptionValue::String("x".repeat(5000)))), "big"), INVALID_VALUE);
        let invalid = SessionOptionValue::String(ALWAYS_INVALID.into());
        assert_eq!(error(request("key_with_invalid_value", Some(invalid)), "key_with_invalid_value"), INVALID_VALUE);
        assert_eq!(error(request(ALWAYS_INVALID, Some(SessionOptionValue::Bool(true))), ALWAYS_INVALID), INVALID_NAME);
        assert!(sessions.set(None, b"\xff\xff").is_err());
    }

    #[test]
    fn number_of_sessions_is_limited() {
        let sessions = FlightSessions::default();
        let first = sessions.set(None, &request("a", Some(SessionOptionValue::Bool(true)))).unwrap().1.unwrap();
        for _ in 0..MAX_SESSIONS {
            sessions.set(None, &[]).unwrap();
        }
        assert_eq!(sessions.0.lock().sessions.len(), MAX_SESSIONS);
        assert!(sessions.get(Some(&first)).options.is_empty());
    }

    #[test]
    fn session_cookie_is_found_among_others() {
        let mut metadata = MetadataMap::new();
        metadata.insert("cookie", "a=b; arrow_flight_session_id=17".parse().unwrap());
        assert_eq!(session_id(&metadata).as_deref(), Some("17"));
        assert_eq!(session_id(&MetadataMap::new()), None);
    }
}
