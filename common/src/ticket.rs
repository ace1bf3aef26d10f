//! Signed tickets: a magic, the HMAC of the body, the body. Every member has the cluster's key, so it verifies a ticket
//! without a call to another member; only members can sign one.
//!
//! While the cluster changes its key, members accept the next one or former ones too. A ticket does not say which key signed it:
//! there are few, and each is tried.
//!
//! Tickets with a filter or a query have a magic of their own. Earlier versions, which know neither field, would send all rows of the
//! table; so they find no ticket in such bytes, and refuse them. The HMAC covers the magic: one kind is never taken for the other.
//!
//! The assertions by which members say on whose behalf they call each other have the same layout, with another magic, which
//! the HMAC covers: no ticket, which clients hold, is ever an assertion.

use hmac::{Hmac, KeyInit, Mac};
use prost::Message;
use sha2::Sha256;

use crate::wire::cluster::{Assertion, Ticket};
use crate::{Error, Result, clock};

/// The first bytes of a signed ticket. No table name begins with them: they contain a control character.
pub const MAGIC: &[u8; 8] = b"\x01VOLLEY1";
/// The first bytes of a signed ticket with a filter or a query.
pub const SQL_MAGIC: &[u8; 8] = b"\x01VOLLEY2";
/// The first bytes of a signed assertion.
const ASSERTION_MAGIC: &[u8; 8] = b"\x01VOLLEYA";
const MAC_BYTES: usize = 32;
/// The largest message with a ticket, signed or a table's name, that members read from clients, bytes.
pub const MAX_TICKET: usize = 8 << 20;

/// The cluster's ticket key, and those that are accepted besides.
#[derive(Clone)]
pub struct TicketKey {
    signing: KeyedStates,
    accepted: Vec<KeyedStates>,
}

/// A key (HMAC-SHA256, 32 bytes) as its states after the magics.
#[derive(Clone)]
struct KeyedStates {
    tickets: Hmac<Sha256>,
    sql_tickets: Hmac<Sha256>,
    assertions: Hmac<Sha256>,
}

impl KeyedStates {
    fn new(key: &[u8]) -> Self {
        let after = |magic: &[u8]| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
            mac.update(magic);
            mac
        };
        KeyedStates { tickets: after(MAGIC), sql_tickets: after(SQL_MAGIC), assertions: after(ASSERTION_MAGIC) }
    }

    fn ticket_mac(&self, kind: TicketKind, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = match kind {
            TicketKind::Plain => self.tickets.clone(),
            TicketKind::Sql => self.sql_tickets.clone(),
        };
        mac.update(body);
        mac
    }

    fn assertion_mac(&self, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.assertions.clone();
        mac.update(body);
        mac
    }
}

/// What a ticket needs of the members that redeem it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TicketKind {
    /// Nothing that is not in every version.
    Plain,
    /// That they know filters and queries.
    Sql,
}

impl TicketKind {
    fn of(ticket: &Ticket) -> Self {
        if ticket.filter.is_empty() && ticket.query.is_none() { TicketKind::Plain } else { TicketKind::Sql }
    }

    fn magic(self) -> &'static [u8; 8] {
        match self {
            TicketKind::Plain => MAGIC,
            TicketKind::Sql => SQL_MAGIC,
        }
    }

    /// The kind of signed bytes, and what follows the magic.
    fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let kinds = [TicketKind::Plain, TicketKind::Sql];
        kinds.into_iter().find_map(|kind| Some((kind, bytes.strip_prefix(kind.magic().as_slice())?)))
    }
}

impl TicketKey {
    /// Creates the key from the bytes in the catalog.
    pub fn new(key: &[u8]) -> Self {
        TicketKey { signing: KeyedStates::new(key), accepted: Vec::new() }
    }

    /// The same key, which signs; what one of `others` signed is accepted, too.
    pub fn accepting<'a>(mut self, others: impl IntoIterator<Item = &'a [u8]>) -> Self {
        self.accepted.extend(others.into_iter().map(KeyedStates::new));
        self
    }

    /// Whether one of the keys is that of `mac`, which each of them makes as `make` says.
    fn is_signed(&self, mac: &[u8], make: impl Fn(&KeyedStates) -> Hmac<Sha256>) -> bool {
        let mut keys = std::iter::once(&self.signing).chain(&self.accepted);
        keys.any(|key| make(key).verify_slice(mac).is_ok())
    }

    /// The bytes of a signed ticket.
    pub fn sign(&self, ticket: &Ticket) -> Vec<u8> {
        self.signer(ticket).ticket(&[])
    }

    /// A signer for tickets that have all fields of `common` and differ in others, but neither in the filter nor in the query.
    pub fn signer(&self, common: &Ticket) -> TicketSigner {
        let (kind, head) = (TicketKind::of(common), common.encode_to_vec());
        TicketSigner { kind, mac: self.signing.ticket_mac(kind, &head), head }
    }

    /// Verifies the signature and the expiry (against `now_ms`) of bytes that begin with [`MAGIC`] or [`SQL_MAGIC`]; returns the
    /// ticket.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: not a ticket, or damaged. PERMISSION_DENIED: signed by a key that is not accepted.
    /// NOT_FOUND: expired.
    pub fn verify(&self, bytes: &[u8], now_ms: u64) -> Result<Ticket> {
        let (kind, rest) = TicketKind::split(bytes).ok_or_else(|| Error::invalid("this is not a Volley ticket"))?;
        if rest.len() < MAC_BYTES {
            return Err(Error::invalid("the ticket is truncated"));
        }
        let (mac, body) = rest.split_at(MAC_BYTES);
        if !self.is_signed(mac, |key| key.ticket_mac(kind, body)) {
            return Err(Error::denied(
                "the ticket's signature is not this cluster's: it was altered, another cluster signed it, or this one has changed its keys since; call get_flight_info again",
            ));
        }
        let ticket = Ticket::decode(body).map_err(|e| Error::invalid(format!("the ticket cannot be read: {e}")))?;
        if ticket.expires_ms <= now_ms {
            let subject = ticket.subject();
            return Err(Error::not_found(format!("the ticket for {subject} has expired: call get_flight_info again")));
        }
        Ok(ticket)
    }

    /// The bytes of a signed assertion.
    pub fn sign_assertion(&self, assertion: &Assertion) -> Vec<u8> {
        let body = assertion.encode_to_vec();
        let mut out = Vec::with_capacity(ASSERTION_MAGIC.len() + MAC_BYTES + body.len());
        out.extend_from_slice(ASSERTION_MAGIC);
        out.extend_from_slice(&self.signing.assertion_mac(&body).finalize().into_bytes());
        out.extend_from_slice(&body);
        out
    }

    /// Verifies the signature and the expiry (against `now_ms`) of a signed assertion. Its path is for the caller to check.
    ///
    /// # Errors
    /// UNAUTHENTICATED: not an assertion, signed by a key that is not accepted, or expired.
    pub fn verify_assertion(&self, bytes: &[u8], now_ms: u64) -> Result<Assertion> {
        let malformed = || Error::unauthenticated("the assertion of a member is malformed");
        let rest = bytes.strip_prefix(ASSERTION_MAGIC.as_slice()).ok_or_else(malformed)?;
        let (mac, body) = rest.split_at_checked(MAC_BYTES).ok_or_else(malformed)?;
        if !self.is_signed(mac, |key| key.assertion_mac(body)) {
            return Err(Error::unauthenticated(
                "the assertion's signature is not this cluster's: only members may say on whose behalf they call",
            ));
        }
        let assertion = Assertion::decode(body).map_err(|_| malformed())?;
        if assertion.expires_ms <= now_ms {
            return Err(Error::unauthenticated(format!(
                "the assertion of a member expired {} ago: call again; if this repeats, compare the clocks of the members",
                clock::span(now_ms - assertion.expires_ms)
            )));
        }
        Ok(assertion)
    }
}

/// Signs the tickets of one response: their common fields are encoded and hashed once.
pub struct TicketSigner {
    kind: TicketKind,
    /// The state after the magic and the head.
    mac: Hmac<Sha256>,
    /// The common fields, encoded.
    head: Vec<u8>,
}

impl TicketSigner {
    /// The bytes of the ticket whose other fields are `tail`, an encoded [`Ticket`].
    pub fn ticket(&self, tail: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.ticket_len(tail));
        self.write(tail, &mut out);
        out
    }

    /// The number of bytes that [`TicketSigner::write`] appends.
    pub fn ticket_len(&self, tail: &[u8]) -> usize {
        self.kind.magic().len() + MAC_BYTES + self.head.len() + tail.len()
    }

    /// Appends the bytes of [`TicketSigner::ticket`] to `out`.
    pub fn write(&self, tail: &[u8], out: &mut Vec<u8>) {
        let mut mac = self.mac.clone();
        mac.update(tail);
        out.extend_from_slice(self.kind.magic());
        out.extend_from_slice(&mac.finalize().into_bytes());
        out.extend_from_slice(&self.head);
        out.extend_from_slice(tail);
    }
}

/// Whether the bytes begin as a signed ticket; otherwise they are a table's name or JSON.
pub fn is_signed(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC) || bytes.starts_with(SQL_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;
    use crate::wire::cluster::{Query, TableVersion, TicketPart};

    fn ticket() -> Ticket {
        Ticket { table: vec!["a".into()], version: 3, expires_ms: 1000, ..Ticket::default() }
    }

    #[test]
    fn signed_ticket_verifies_until_it_expires() {
        let key = TicketKey::new(&[7; 32]);
        let bytes = key.sign(&ticket());
        assert!(is_signed(&bytes));
        assert_eq!(key.verify(&bytes, 999).unwrap(), ticket());
        assert_eq!(key.verify(&bytes, 1000).unwrap_err().code, Code::NotFound);
    }

    #[test]
    fn signer_gives_the_same_bytes_as_sign() {
        let key = TicketKey::new(&[7; 32]);
        let signer = key.signer(&ticket());
        let part = |rows| TicketPart { rows, holders: vec![1, 2], ..TicketPart::default() };
        for rows in 0..3 {
            let tail = Ticket { parts: vec![part(rows), part(9)], limit: Some(rows), ..Ticket::default() };
            let tail = tail.encode_to_vec();
            let bytes = signer.ticket(&tail);
            assert_eq!(bytes.len(), signer.ticket_len(&tail));
            let whole = Ticket { parts: vec![part(rows), part(9)], limit: Some(rows), ..ticket() };
            assert_eq!(key.verify(&bytes, 0).unwrap(), whole);
            assert_eq!(bytes, key.sign(&whole));
        }
    }

    #[test]
    fn forged_altered_or_malformed_ticket_is_rejected() {
        let key = TicketKey::new(&[7; 32]);
        let bytes = key.sign(&ticket());
        for at in MAGIC.len()..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(key.verify(&changed, 0).unwrap_err().code, Code::PermissionDenied, "byte {at}");
        }
        let other = TicketKey::new(&[8; 32]).sign(&ticket());
        assert_eq!(key.verify(&other, 0).unwrap_err().code, Code::PermissionDenied);
        for garbage in [&b"x"[..], b"", b"\x01VOLLEY1short"] {
            assert_eq!(key.verify(garbage, 0).unwrap_err().code, Code::InvalidArgument);
        }
    }

    fn sql_tickets() -> [Ticket; 2] {
        let filtered = Ticket { filter: "a > 1".into(), ..ticket() };
        [filtered, Ticket { table: Vec::new(), query: Some(Query::default()), ..ticket() }]
    }

    /// An earlier version would send all rows.
    #[test]
    fn filter_or_query_is_no_ticket_of_an_earlier_version() {
        let key = TicketKey::new(&[7; 32]);
        assert!(key.sign(&ticket()).starts_with(MAGIC), "without either, every version redeems it");
        for ticket in sql_tickets() {
            let mut bytes = key.sign(&ticket);
            assert!(is_signed(&bytes) && bytes.starts_with(SQL_MAGIC) && !bytes.starts_with(MAGIC));
            assert_eq!(key.verify(&bytes, 0).unwrap(), ticket);
            bytes[..MAGIC.len()].copy_from_slice(MAGIC);
            assert_eq!(key.verify(&bytes, 0).unwrap_err().code, Code::PermissionDenied, "the magic is signed");
        }
    }

    #[test]
    fn signer_of_filtered_tickets_signs_their_parts() {
        let key = TicketKey::new(&[7; 32]);
        let [common, _] = sql_tickets();
        let tail = Ticket { parts: vec![TicketPart { rows: 9, ..TicketPart::default() }], ..Ticket::default() };
        let (signer, encoded) = (key.signer(&common), tail.encode_to_vec());
        let bytes = signer.ticket(&encoded);
        assert_eq!(bytes.len(), signer.ticket_len(&encoded));
        assert!(bytes.starts_with(SQL_MAGIC));
        assert_eq!(key.verify(&bytes, 0).unwrap(), Ticket { parts: tail.parts, ..common });
    }

    #[test]
    fn expired_ticket_of_a_query_names_its_tables() {
        let table = |name: &str| TableVersion { table: vec![name.into()], version: Some(1) };
        let tables = vec![table("a"), table("b")];
        let ticket = Ticket { query: Some(Query { tables, ..Query::default() }), expires_ms: 1, ..Ticket::default() };
        let key = TicketKey::new(&[7; 32]);
        let error = key.verify(&key.sign(&ticket), 1).unwrap_err();
        assert!(error.code == Code::NotFound && error.message.contains("a query of \"a\", \"b\""), "{error}");
    }

    fn assertion() -> Assertion {
        Assertion { principal: "ann".into(), path: "/x".into(), expires_ms: 1000, ..Assertion::default() }
    }

    #[test]
    fn signed_assertion_verifies_until_it_expires() {
        let key = TicketKey::new(&[7; 32]);
        let bytes = key.sign_assertion(&assertion());
        assert_eq!(key.verify_assertion(&bytes, 999).unwrap(), assertion());
        let error = key.verify_assertion(&bytes, 1000).unwrap_err();
        assert_eq!(error.code, Code::Unauthenticated);
        assert!(error.message.contains("clocks"), "{error}");
    }

    #[test]
    fn forged_altered_or_malformed_assertion_is_refused() {
        let key = TicketKey::new(&[7; 32]);
        let refused =
            |bytes: &[u8]| assert_eq!(key.verify_assertion(bytes, 0).unwrap_err().code, Code::Unauthenticated);
        let bytes = key.sign_assertion(&assertion());
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            refused(&changed);
            refused(&bytes[..at]);
        }
        refused(&TicketKey::new(&[8; 32]).sign_assertion(&assertion()));
    }

    #[test]
    fn other_keys_are_accepted_and_do_not_sign() {
        let (next, former) = ([8; 32], [6; 32]);
        let key = TicketKey::new(&[7; 32]).accepting([&next[..], &former[..]]);
        for accepted in [[7; 32], next, former].map(|bytes| TicketKey::new(&bytes)) {
            assert_eq!(key.verify(&accepted.sign(&ticket()), 0).unwrap(), ticket());
            assert_eq!(key.verify_assertion(&accepted.sign_assertion(&assertion()), 0).unwrap(), assertion());
        }
        let alone = TicketKey::new(&[7; 32]);
        alone.verify(&key.sign(&ticket()), 0).unwrap();
        alone.verify_assertion(&key.sign_assertion(&assertion()), 0).unwrap();
        let unknown = TicketKey::new(&[5; 32]);
        assert_eq!(key.verify(&unknown.sign(&ticket()), 0).unwrap_err().code, Code::PermissionDenied);
        let error = key.verify_assertion(&unknown.sign_assertion(&assertion()), 0).unwrap_err();
        assert_eq!(error.code, Code::Unauthenticated);
        let mut altered = TicketKey::new(&former).sign(&ticket());
        *altered.last_mut().unwrap() ^= 1;
        assert_eq!(key.verify(&altered, 0).unwrap_err().code, Code::PermissionDenied);
    }

    #[test]
    fn ticket_is_no_assertion_even_with_its_magic() {
        let key = TicketKey::new(&[7; 32]);
        // The field is the expiry of an assertion.
        let mut bytes = key.sign(&Ticket { version: 1 << 40, ..Ticket::default() });
        assert_eq!(key.verify_assertion(&bytes, 0).unwrap_err().code, Code::Unauthenticated);
        bytes[..ASSERTION_MAGIC.len()].copy_from_slice(ASSERTION_MAGIC);
        assert_eq!(key.verify_assertion(&bytes, 0).unwrap_err().code, Code::Unauthenticated);
        let mut bytes = key.sign_assertion(&assertion());
        bytes[..MAGIC.len()].copy_from_slice(MAGIC);
        assert_eq!(key.verify(&bytes, 0).unwrap_err().code, Code::PermissionDenied);
    }
}
