//! Pure: how full a file system may become before a node takes no more parts.

use std::fmt;

/// A file system's bytes: what this process may use in all, and what of it is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Used and free together (`df` says the same: what is reserved for others is in neither).
    pub total: u64,
    /// Free for this process.
    pub free: u64,
}

impl Space {
    /// What is used, in percent; 0 if the file system does not say how large it is.
    pub fn used_percent(&self) -> f64 {
        match self.total {
            0 => 0.0,
            total => 100.0 * (1.0 - self.free.min(total) as f64 / total as f64),
        }
    }

    /// As it will be when so many bytes more are written.
    pub fn after(&self, bytes: u64) -> Space {
        Space { total: self.total, free: self.free.saturating_sub(bytes) }
    }
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} % used ({} free of {})", self.used_percent(), Bytes(self.free), Bytes(self.total))
    }
}

/// Bytes for people: powers of ten, three digits.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut value, mut unit) = (self.0 as f64, "B");
        for next in ["kB", "MB", "GB", "TB", "PB"] {
            if value < 999.5 {
                break;
            }
            (value, unit) = (value / 1000.0, next);
        }
        let digits = if unit == "B" || value >= 99.95 { 0 } else { 1 };
        write!(f, "{value:.digits$} {unit}")
    }
}

/// Between the two a node goes on as it did: it does not flicker.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Watermarks {
    /// Percent used above which no new parts are taken.
    pub high: f64,
    /// Percent used below which they are taken again.
    pub low: f64,
}

impl Default for Watermarks {
    fn default() -> Self {
        Watermarks { high: 95.0, low: 90.0 }
    }
}

impl Watermarks {
    /// Whether the node is full now; `was`: it was before.
    pub fn is_full(&self, was: bool, space: Space) -> bool {
        let used = space.used_percent();
        if was { used >= self.low } else { used > self.high }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(used: u64) -> Space {
        Space { total: 1000, free: 1000 - used }
    }

    #[test]
    fn a_node_fills_up_at_the_high_mark_and_is_free_again_below_the_low_one() {
        let marks = Watermarks { high: 80.0, low: 60.0 };
        let mut full = false;
        let course = [(790, false), (800, false), (801, true), (700, true), (600, true), (599, false), (700, false)];
        for (used, then) in course {
            full = marks.is_full(full, at(used));
            assert_eq!(full, then, "at {used}");
        }
    }

    #[test]
    fn a_file_system_that_says_nothing_is_never_full() {
        assert!(!Watermarks::default().is_full(false, Space::default()));
        assert!(!Watermarks::default().is_full(true, Space::default()));
    }

    #[test]
    fn what_is_to_be_written_counts() {
        assert_eq!(at(100).after(300), at(400));
        assert_eq!(at(100).after(3000), at(1000));
        assert!(Watermarks::default().is_full(false, at(900).after(51)));
    }

    #[test]
    fn space_is_said_in_words() {
        let space = Space { total: 30_000_000_000, free: 1_234_000_000 };
        assert_eq!(space.to_string(), "95.9 % used (1.2 GB free of 30.0 GB)");
        assert_eq!(Bytes(999).to_string(), "999 B");
        assert_eq!(Bytes(999_600).to_string(), "1.0 MB");
    }
}
