//! Session options: a client sets them, and this member keeps them in memory under a cookie.
//!
//! Statements run at nodes, which keep no sessions: options that they would have to follow are refused, except for the values that
//! always hold.

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

/// The options of every session, and their only values: the catalog and the schema of names without one.
const FIXED: [(&str, &str); 2] = [("catalog", "volley"), ("schema", "default")];
/// Options that would limit the time of statements.
const TIME_LIMITS: [&str; 2] = ["statement_timeout", "statement_timeout_s"];

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
    /// INVALID_ARGUMENT: the body is not a valid message, or names another catalog or schema than that of all sessions.
    /// UNIMPLEMENTED: a limit of time. None of the options is set then.
    pub fn set(&self, owner: &str, id: Option<String>, body: &[u8]) -> Result<(SetSessionResult, Option<String>)> {
        let request = SessionOptionMap::decode(body).map_err(|e| Error::invalid(format!("SetSessionOptions: {e}")))?;
        request.options.iter().try_for_each(|(name, option)| check_supported(name, option))?;
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

    /// What clients are told: what a principal's session has set, and the catalog and the schema that apply. The latter not to
    /// one that has set only other options: Flight's integration tests want these back and no more.
    pub fn current(&self, owner: &str, id: Option<&str>) -> SessionOptionMap {
        let mut current = self.get(owner, id);
        let options = &mut current.options;
        if options.is_empty() || FIXED.iter().any(|(name, _)| options.contains_key(*name)) {
            let fixed = FIXED.map(|(name, value)| (name.to_string(), SessionOptionValue::String(value.into())));
            options.extend(fixed.map(|(name, value)| (name, SessionOption { value: Some(value) })));
        }
        current
    }

    /// What a principal's session has set; empty without a session.
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

/// Checks that an option is not one that statements would have to follow. Without a value it is removed, which changes nothing.
fn check_supported(name: &str, option: &SessionOption) -> Result<()> {
    let Some(value) = &option.value else { return Ok(()) };
    if TIME_LIMITS.contains(&name) {
        return Err(Error::unimplemented(format!(
            "{name} cannot be set for a session, because statements run at nodes, which keep no sessions: give the calls a deadline, as setQueryTimeout of JDBC and adbc.flight.sql.rpc.timeout_seconds.fetch of ADBC do; for all clients the setting statement_timeout_s of the nodes is the limit"
        )));
    }
    let Some((_, fixed)) = FIXED.iter().find(|(fixed, _)| *fixed == name) else { return Ok(()) };
    if matches!(value, SessionOptionValue::String(text) if text == fixed) {
        return Ok(());
    }
    Err(Error::invalid(match name {
        "catalog" => format!("there is only the catalog {fixed:?}: leave the option {name:?} out"),
        _ => format!(
            "the current schema is always {fixed:?}: leave the option {name:?} out, and write the schema before a table's name, as in sales.orders"
        ),
    }))
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
mod tests;
