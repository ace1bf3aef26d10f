//! Which lines share the places of the queue: a flood of refused strangers, or of one principal, must not keep the line of an
//! administrator out.

use parking_lot::Mutex;

use super::{AuditEvent, AuditKind};

/// Lines of callers without identity that are written in a second. Who has no credentials would otherwise choose how fast the
/// files of the log are renamed, until the lines of others are gone.
pub(super) const UNIDENTIFIED_PER_SECOND: u32 = 100;

/// Lines that share places of the queue; none takes those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AuditShare {
    /// Of callers without identity.
    Unidentified,
    /// Of principals: reads, writes, logins, and everything that they are refused.
    Identified,
    /// Of administration that was permitted.
    Administration,
}

impl AuditShare {
    pub const ALL: [Self; 3] = [AuditShare::Unidentified, AuditShare::Identified, AuditShare::Administration];

    pub fn of(event: &AuditEvent<'_>) -> Self {
        match event.access.principal() {
            None if !event.access.is_open() => AuditShare::Unidentified,
            _ if event.kind == AuditKind::Admin && !event.is_refusal() => AuditShare::Administration,
            _ => AuditShare::Identified,
        }
    }

    /// Its places in a queue with so many for the lines of principals.
    pub fn places(self, capacity: usize) -> usize {
        match self {
            AuditShare::Unidentified => (capacity / 10).max(1),
            AuditShare::Identified | AuditShare::Administration => capacity,
        }
    }
}

/// Counts the lines of callers without identity in the present second.
#[derive(Default)]
pub(super) struct UnidentifiedRate(Mutex<(u64, u32)>);

impl UnidentifiedRate {
    /// Whether one more line may be written.
    pub fn admits(&self, now_ms: u64) -> bool {
        let mut counted = self.0.lock();
        let second = now_ms / 1000;
        if counted.0 != second {
            *counted = (second, 0);
        }
        let admits = counted.1 < UNIDENTIFIED_PER_SECOND;
        counted.1 += u32::from(admits);
        admits
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::event;
    use super::*;
    use crate::Error;
    use crate::identity::Access;

    #[test]
    fn lines_of_strangers_are_counted_by_the_second() {
        let rate = UnidentifiedRate::default();
        let admitted = |now_ms| (0..1_000).filter(|_| rate.admits(now_ms)).count();
        assert_eq!([5_000, 5_999, 6_000].map(admitted), [UNIDENTIFIED_PER_SECOND as usize, 0, 100]);
    }

    #[test]
    fn refused_administration_has_no_places_of_its_own() {
        let (open, nobody, denied) = (Access::open(), Access::of(&http::Extensions::new()), Error::denied("no"));
        let share = |access: &Access, result| {
            AuditShare::of(&AuditEvent { result, ..event(access, AuditKind::Admin, "drop_table") })
        };
        assert_eq!(share(&open, Ok(())), AuditShare::Administration);
        assert_eq!(share(&open, Err(&denied)), AuditShare::Identified);
        assert_eq!(share(&nobody, Err(&denied)), AuditShare::Unidentified);
    }
}
