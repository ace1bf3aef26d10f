//! Pure: how full a file system may become before the node stops accepting parts.

use std::fmt;

/// A file system's size and free space, as available to this process; bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskSpace {
    /// Used and free space together (as in `df`: neither contains blocks reserved for root).
    pub total: u64,
    /// Free for this process.
    pub free: u64,
}

impl DiskSpace {
    /// Used space in percent; 0 if the file system does not report its size.
    pub fn used_percent(&self) -> f64 {
        match self.total {
            0 => 0.0,
            total => 100.0 * (1.0 - self.free.min(total) as f64 / total as f64),
        }
    }

    /// The space after this many more bytes are written.
    pub fn after(&self, bytes: u64) -> DiskSpace {
        DiskSpace { total: self.total, free: self.free.saturating_sub(bytes) }
    }
}

impl fmt::Display for DiskSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} % used ({} free of {})", self.used_percent(), HumanBytes(self.free), HumanBytes(self.total))
    }
}

/// Formats bytes with powers of ten and two or three digits.
struct HumanBytes(u64);

impl fmt::Display for HumanBytes {
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

/// When the node stops accepting parts, and when it accepts them again. Between the two watermarks the state does not
/// change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Watermarks {
    /// Used space in percent above which the node accepts no new parts.
    pub high: f64,
    /// Used space in percent below which it accepts them again.
    pub low: f64,
}

impl Default for Watermarks {
    fn default() -> Self {
        Watermarks { high: 95.0, low: 90.0 }
    }
}

impl Watermarks {
    /// Whether the disk is full; `was`: whether it was before.
    pub fn is_full(&self, was: bool, space: DiskSpace) -> bool {
        let used = space.used_percent();
        if was { used >= self.low } else { used > self.high }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(used: u64) -> DiskSpace {
        DiskSpace { total: 1000, free: 1000 - used }
    }

    #[test]
    fn full_above_high_and_free_below_low_watermark() {
        let marks = Watermarks { high: 80.0, low: 60.0 };
        let mut full = false;
        let course = [(790, false), (800, false), (801, true), (700, true), (600, true), (599, false), (700, false)];
        for (used, then) in course {
            full = marks.is_full(full, at(used));
            assert_eq!(full, then, "at {used}");
        }
    }

    #[test]
    fn file_system_of_unknown_size_is_never_full() {
        assert!(!Watermarks::default().is_full(false, DiskSpace::default()));
        assert!(!Watermarks::default().is_full(true, DiskSpace::default()));
    }

    #[test]
    fn bytes_to_be_written_count_as_used() {
        assert_eq!(at(100).after(300), at(400));
        assert_eq!(at(100).after(3000), at(1000));
        assert!(Watermarks::default().is_full(false, at(900).after(51)));
    }

    #[test]
    fn space_is_formatted_with_units() {
        let space = DiskSpace { total: 30_000_000_000, free: 1_234_000_000 };
        assert_eq!(space.to_string(), "95.9 % used (1.2 GB free of 30.0 GB)");
        assert_eq!(HumanBytes(999).to_string(), "999 B");
        assert_eq!(HumanBytes(999_600).to_string(), "1.0 MB");
    }
}
