//! The limits of options that are durations.

use crate::{Error, Result};

/// The shortest retention that a client can give a table, seconds. It is the lifetime of the table's tickets, too.
pub const MIN_RETENTION_S: u64 = 10;
/// The longest retention, seconds: a hundred years. Clients can represent the expiry of a ticket that lasts this long.
pub const MAX_RETENTION_S: u64 = 100 * 365 * 24 * 3600;
/// The longest time after which a table expires, seconds: a hundred years, as a retention.
pub const MAX_TTL_S: u64 = MAX_RETENTION_S;

/// Checks a client's retention, in seconds.
///
/// # Errors
/// INVALID_ARGUMENT: shorter than a read needs, or longer than a hundred years.
pub fn check_retention(seconds: u64) -> Result<()> {
    match seconds {
        0..MIN_RETENTION_S => Err(Error::invalid(format!(
            "option \"retention_s\" is {seconds}, and must be at least {MIN_RETENTION_S}: the tickets of the table last as long, and a read needs some seconds"
        ))),
        MIN_RETENTION_S..=MAX_RETENTION_S => Ok(()),
        _ => Err(Error::invalid(format!(
            "option \"retention_s\" is {seconds}, and must be at most {MAX_RETENTION_S}, a hundred years"
        ))),
    }
}

/// Checks the time after which a client's table expires, in seconds. A short one loses nothing at once: the drop can be undone.
///
/// # Errors
/// INVALID_ARGUMENT: longer than a hundred years.
pub fn check_ttl(seconds: u64) -> Result<()> {
    match seconds {
        0..=MAX_TTL_S => Ok(()),
        _ => Err(Error::invalid(format!(
            "option \"ttl_s\" is {seconds}, and must be at most {MAX_TTL_S}, a hundred years; 0 is a table that does not expire"
        ))),
    }
}
