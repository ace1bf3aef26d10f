//! Message limits of the Flight API.

/// The largest request message: actions and descriptors are small.
pub const MAX_REQUEST: usize = 16 << 20;
/// The largest reply message: a FlightInfo of many endpoints with a wide schema.
pub const MAX_REPLY: usize = 64 << 20;
