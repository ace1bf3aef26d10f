//! Session options: what a client set, kept in this member's memory under a cookie.

use std::collections::{BTreeMap, HashMap, VecDeque};

use parking_lot::Mutex;
use prost::Message;
use tonic::metadata::MetadataMap;
use volley_common::{Error, Result};

/// The cookie that names a session.
pub const COOKIE: &str = "arrow_flight_session_id";
/// Sessions at once; the oldest goes for a further one.
const MAX_SESSIONS: usize = 1024;
/// Options of a session.
const MAX_OPTIONS: usize = 64;
/// Bytes of one option.
const MAX_OPTION_BYTES: usize = 4096;

/// A value of `Flight.proto`'s SessionOptionValue.
#[derive(Clone, PartialEq, Message)]
pub struct OptionValue {
    /// Unset: the option is to be removed.
    #[prost(oneof = "Value", tags = "1, 2, 3, 4, 5")]
    pub value: Option<Value>,
}

/// The types that an option may have.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Value {
    /// Text.
    #[prost(string, tag = "1")]
    String(String),
    /// Yes or no.
    #[prost(bool, tag = "2")]
    Bool(bool),
    /// A whole number.
    #[prost(sfixed64, tag = "3")]
    Int64(i64),
    /// A number.
    #[prost(double, tag = "4")]
    Double(f64),
    /// Texts.
    #[prost(message, tag = "5")]
    Strings(StringList),
}

/// Several texts.
#[derive(Clone, PartialEq, Message)]
pub struct StringList {
    /// The texts.
    #[prost(string, repeated, tag = "1")]
    pub values: Vec<String>,
}

/// Options by name: SetSessionOptionsRequest and GetSessionOptionsResult have the same form.
#[derive(Clone, PartialEq, Message)]
pub struct OptionMap {
    /// By name.
    #[prost(btree_map = "string, message", tag = "1")]
    pub options: BTreeMap<String, OptionValue>,
}

/// SetSessionOptionsResult: the options that were not taken, and why.
#[derive(Clone, PartialEq, Message)]
pub struct SetResult {
    /// By name.
    #[prost(btree_map = "string, message", tag = "1")]
    pub errors: BTreeMap<String, SetError>,
}

/// Why an option was not taken.
#[derive(Clone, PartialEq, Message)]
pub struct SetError {
    /// 1: a bad name, 2: a bad value.
    #[prost(int32, tag = "1")]
    pub value: i32,
}

/// CloseSessionResult.
#[derive(Clone, PartialEq, Message)]
pub struct CloseResult {
    /// 1: closed.
    #[prost(int32, tag = "1")]
    pub status: i32,
}

const INVALID_NAME: i32 = 1;
const INVALID_VALUE: i32 = 2;
const CLOSED: i32 = 1;

/// All sessions of this member.
#[derive(Default)]
pub struct Sessions(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    sessions: HashMap<String, BTreeMap<String, OptionValue>>,
    /// The oldest first; may name sessions that are closed.
    order: VecDeque<String>,
}

impl Sessions {
    /// Sets options; a client without a session gets one, whose id comes back.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: not the message that it should be.
    pub fn set(&self, id: Option<String>, body: &[u8]) -> Result<(SetResult, Option<String>)> {
        let request = OptionMap::decode(body).map_err(|e| Error::invalid(format!("SetSessionOptions: {e}")))?;
        let mut inner = self.0.lock();
        let known = id.filter(|id| inner.sessions.contains_key(id));
        let made = known.is_none();
        let id = known.unwrap_or_else(|| inner.make());
        let session = inner.sessions.entry(id.clone()).or_default();
        let mut errors = BTreeMap::new();
        for (name, option) in request.options {
            if let Err(value) = set_one(session, &name, option) {
                errors.insert(name, SetError { value });
            }
        }
        Ok((SetResult { errors }, made.then_some(id)))
    }

    /// The session's options; none without a session.
    pub fn get(&self, id: Option<&str>) -> OptionMap {
        let inner = self.0.lock();
        let options = id.and_then(|id| inner.sessions.get(id)).cloned().unwrap_or_default();
        OptionMap { options }
    }

    /// Forgets the session; one that is not there is closed already.
    pub fn close(&self, id: Option<&str>) -> CloseResult {
        if let Some(id) = id {
            self.0.lock().sessions.remove(id);
        }
        CloseResult { status: CLOSED }
    }
}

impl Inner {
    fn make(&mut self) -> String {
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

fn set_one(
    session: &mut BTreeMap<String, OptionValue>,
    name: &str,
    option: OptionValue,
) -> std::result::Result<(), i32> {
    if name.is_empty() || name.len() > MAX_OPTION_BYTES {
        return Err(INVALID_NAME);
    }
    if option.encoded_len() > MAX_OPTION_BYTES || (session.len() >= MAX_OPTIONS && !session.contains_key(name)) {
        return Err(INVALID_VALUE);
    }
    match option.value {
        Some(_) => drop(session.insert(name.to_string(), option)),
        None => drop(session.remove(name)),
    }
    Ok(())
}

/// The session's id out of a call's cookies.
pub fn session_id(metadata: &MetadataMap) -> Option<String> {
    let cookies = metadata.get_all("cookie").iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, id)| id.trim_matches('"').to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn request(name: &str, value: Option<Value>) -> Vec<u8> {
        OptionMap { options: BTreeMap::from([(name.to_string(), OptionValue { value })]) }.encode_to_vec()
    }

    #[test]
    fn options_are_kept_removed_and_closed() {
        let sessions = Sessions::default();
        let (result, id) = sessions.set(None, &request("a", Some(Value::Int64(7)))).unwrap();
        assert!(result.errors.is_empty());
        let id = id.unwrap();
        assert_eq!(sessions.get(Some(&id)).options["a"].value, Some(Value::Int64(7)));
        assert_eq!(sessions.set(Some(id.clone()), &request("a", None)).unwrap().1, None);
        assert!(sessions.get(Some(&id)).options.is_empty());
        assert_eq!(sessions.close(Some(&id)).status, CLOSED);
        assert_eq!(sessions.close(None).status, CLOSED);
    }

    #[test]
    fn bad_names_and_values_are_told_apart() {
        let sessions = Sessions::default();
        let error = |body: Vec<u8>, name: &str| sessions.set(None, &body).unwrap().0.errors[name].value;
        assert_eq!(error(request("", Some(Value::Bool(true))), ""), INVALID_NAME);
        assert_eq!(error(request("big", Some(Value::String("x".repeat(5000)))), "big"), INVALID_VALUE);
        assert!(sessions.set(None, b"\xff\xff").is_err());
    }

    #[test]
    fn the_number_of_sessions_is_bounded() {
        let sessions = Sessions::default();
        let first = sessions.set(None, &request("a", Some(Value::Bool(true)))).unwrap().1.unwrap();
        for _ in 0..MAX_SESSIONS {
            sessions.set(None, &[]).unwrap();
        }
        assert_eq!(sessions.0.lock().sessions.len(), MAX_SESSIONS);
        assert!(sessions.get(Some(&first)).options.is_empty());
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let mut metadata = MetadataMap::new();
        metadata.insert("cookie", "a=b; arrow_flight_session_id=17".parse().unwrap());
        assert_eq!(session_id(&metadata).as_deref(), Some("17"));
        assert_eq!(session_id(&MetadataMap::new()), None);
    }
}
