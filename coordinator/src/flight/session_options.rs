//! Session options: a client sets them, and this member keeps them in memory under a cookie.
//!
//! Statements run at nodes, which keep no sessions. So the time limit of statements is in the cookie itself, and holds at every
//! member, also at one that does not know the session. Other options that statements would have to follow are refused, except for
//! the values that always hold.

use std::collections::{BTreeMap, HashMap, VecDeque};

use parking_lot::Mutex;
use prost::Message;
use volley_common::session_cookie::{SessionCookie, StatementTimeout, TimeoutForm};
use volley_common::{Error, Result};

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
/// The option that limits the time of statements.
const STATEMENT_TIMEOUT: &str = "statement_timeout";
/// What it might be taken for: the name of the setting of nodes.
const TIMEOUT_SETTING: &str = "statement_timeout_s";

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
    /// Sets options for a principal, whose client has sent this cookie. Returns the cookie that it gets: if it has no session, or
    /// sets another time limit.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the body is not a valid message, or names another catalog or schema than that of all sessions, or a time
    /// limit that is none. None of the options is set then.
    pub fn set(
        &self,
        owner: &str,
        cookie: Option<&SessionCookie>,
        body: &[u8],
    ) -> Result<(SetSessionResult, Option<SessionCookie>)> {
        let mut request =
            SessionOptionMap::decode(body).map_err(|e| Error::invalid(format!("SetSessionOptions: {e}")))?;
        request.options.iter().try_for_each(|(name, option)| check_supported(name, option))?;
        let before = cookie.and_then(|cookie| cookie.statement_timeout);
        let statement_timeout = match request.options.remove(STATEMENT_TIMEOUT) {
            Some(option) => timeout_of(&option)?,
            None => before,
        };
        let mut table = self.0.lock();
        let known = cookie.map(|cookie| (owner.to_string(), cookie.id.clone()));
        let known = known.filter(|key| table.sessions.contains_key(key));
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
        let is_changed = is_new || statement_timeout != before;
        let cookie = is_changed.then_some(SessionCookie { id: key.1, statement_timeout });
        Ok((SetSessionResult { errors }, cookie))
    }

    /// What a client with this cookie is told: what its session has set, and the catalog and the schema that apply. The latter not
    /// to one that has set only other options: Flight's integration tests want these back and no more.
    pub fn current(&self, owner: &str, cookie: Option<&SessionCookie>) -> SessionOptionMap {
        let mut current = self.get(owner, cookie);
        let options = &mut current.options;
        if options.is_empty() || FIXED.iter().any(|(name, _)| options.contains_key(*name)) {
            let fixed = FIXED.map(|(name, value)| (name.to_string(), SessionOptionValue::String(value.into())));
            options.extend(fixed.map(|(name, value)| (name, SessionOption { value: Some(value) })));
        }
        if let Some(timeout) = cookie.and_then(|cookie| cookie.statement_timeout) {
            options.insert(STATEMENT_TIMEOUT.into(), SessionOption { value: Some(timeout_value(timeout)) });
        }
        current
    }

    /// What a principal's session has set, without its time limit; empty without a session.
    pub fn get(&self, owner: &str, cookie: Option<&SessionCookie>) -> SessionOptionMap {
        let table = self.0.lock();
        let session = cookie.and_then(|cookie| table.sessions.get(&(owner.to_string(), cookie.id.clone())));
        SessionOptionMap { options: session.map(|session| session.options.clone()).unwrap_or_default() }
    }

    /// Closes a principal's session. An unknown session counts as closed.
    pub fn close(&self, owner: &str, cookie: Option<&SessionCookie>) -> CloseSessionResult {
        if let Some(cookie) = cookie {
            self.0.lock().take(&(owner.to_string(), cookie.id.clone()));
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

/// The time limit that an option sets. Without a value it is removed.
fn timeout_of(option: &SessionOption) -> Result<Option<StatementTimeout>> {
    match &option.value {
        None => Ok(None),
        Some(SessionOptionValue::String(text)) => StatementTimeout::of_text(text),
        Some(SessionOptionValue::Int64(seconds)) => StatementTimeout::of_seconds(*seconds as f64, TimeoutForm::Integer),
        Some(SessionOptionValue::Double(seconds)) => StatementTimeout::of_seconds(*seconds, TimeoutForm::Double),
        Some(SessionOptionValue::Bool(_) | SessionOptionValue::Strings(_)) => Err(Error::invalid(format!(
            "the option {STATEMENT_TIMEOUT} is a number of seconds, or a text with a unit as in 30s"
        ))),
    }
}

/// A time limit as it was set.
fn timeout_value(timeout: StatementTimeout) -> SessionOptionValue {
    match timeout.form {
        TimeoutForm::Text => SessionOptionValue::String(timeout.to_text()),
        // A client that made the cookie itself may have a fraction of a second in it.
        TimeoutForm::Integer => SessionOptionValue::Int64(timeout.ms.div_ceil(1000) as i64),
        TimeoutForm::Double => SessionOptionValue::Double(timeout.duration().as_secs_f64()),
    }
}

/// Checks that an option is not one that statements would have to follow, and cannot. Without a value it is removed, which changes
/// nothing.
fn check_supported(name: &str, option: &SessionOption) -> Result<()> {
    let Some(value) = &option.value else { return Ok(()) };
    if name == TIMEOUT_SETTING {
        return Err(Error::invalid(format!(
            "{name} is the setting of the nodes, which limits all statements: the option of a session is {STATEMENT_TIMEOUT}"
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
