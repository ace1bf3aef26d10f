//! The time that a leader gives commands.

/// The clock of a leader. It follows the system clock, and never goes back: neither when the system clock is set back, nor
/// when the leader before had a later one. Then it runs at half speed until the system clock has caught up, so that leases
/// still end.
#[derive(Debug, Default)]
pub struct LeaderClock {
    /// The system clock and the stamp from which the clock runs at half speed.
    ahead: Option<(u64, u64)>,
    last: u64,
}

impl LeaderClock {
    /// The time of a new command, milliseconds since 1970: `system` is the system clock, `applied` the catalog's time.
    pub fn stamp(&mut self, system: u64, applied: u64) -> u64 {
        let floor = self.last.max(applied);
        if system >= floor {
            self.ahead = None;
            self.last = system;
            return system;
        }
        let slow = self.ahead.map(|(since, from)| from.saturating_add(system.saturating_sub(since) / 2));
        self.last = match slow.filter(|slow| *slow >= floor) {
            Some(slow) => slow,
            None => {
                self.ahead = Some((system, floor));
                floor
            }
        };
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_follows_the_system_clock() {
        let mut clock = LeaderClock::default();
        assert_eq!([(5, 0), (5, 5), (9, 5)].map(|(system, applied)| clock.stamp(system, applied)), [5, 5, 9]);
    }

    #[test]
    fn clock_behind_runs_slowly_until_it_has_caught_up() {
        let mut clock = LeaderClock::default();
        // The leader before was 30 s ahead.
        let mut last = clock.stamp(1_000, 31_000);
        assert_eq!(last, 31_000);
        for system in 1_001..=61_000 {
            let stamp = clock.stamp(system, last);
            assert!(stamp >= last && stamp <= last + 1, "{stamp} after {last}");
            last = stamp;
        }
        assert_eq!((last, clock.stamp(61_001, last)), (61_000, 61_001));
    }

    #[test]
    fn system_clock_that_is_set_back_does_not_turn_time_back() {
        let mut clock = LeaderClock::default();
        assert_eq!(clock.stamp(10_000, 0), 10_000);
        assert_eq!(clock.stamp(4_000, 0), 10_000);
        assert_eq!(clock.stamp(4_100, 0), 10_050);
        assert_eq!(clock.stamp(3_000, 0), 10_050, "set back again");
        assert_eq!(clock.stamp(20_000, 0), 20_000);
    }
}
