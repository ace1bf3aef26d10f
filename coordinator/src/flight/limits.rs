//! Message limits of the Flight API.

/// The largest request message: actions and descriptors are small.
pub const MAX_REQUEST: usize = 16 << 20;
/// The largest reply message: a FlightInfo of many endpoints with a wide schema.
pub const MAX_REPLY: usize = 64 << 20;
/// The largest ticket.
pub const MAX_TICKET: usize = 8 << 20;
/// All messages of a Handshake, and of an action of a caller that has not identified itself: strangers need no more.
pub const MAX_UNIDENTIFIED: usize = 64 << 10;
