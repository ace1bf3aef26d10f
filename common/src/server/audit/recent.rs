//! The newest lines of the audit log, in memory: for administrators who look at a page, and for logs that go elsewhere than to a file.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// How many are kept. Each has a few kB at most.
const KEPT: usize = 200;

/// The newest lines.
#[derive(Default)]
pub(super) struct RecentLines(Mutex<VecDeque<String>>);

impl RecentLines {
    /// Keeps a line, also one that the disk did not take.
    pub fn push(&self, line: String) {
        let mut lines = self.0.lock();
        while lines.len() >= KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The lines, the newest first.
    pub fn newest_first(&self) -> Vec<String> {
        self.0.lock().iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_lines_are_kept() {
        let lines = RecentLines::default();
        for at in 0..KEPT + 5 {
            lines.push(at.to_string());
        }
        let kept = lines.newest_first();
        assert_eq!((kept.len(), kept[0].as_str(), kept[KEPT - 1].as_str()), (KEPT, "204", "5"));
    }
}
