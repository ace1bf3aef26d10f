//! The values that rows refer to, when several rows may refer to the same ones.

/// Ranges of a sequence of values that are kept, without overlaps. The kept values are moved together, in their order.
#[derive(Debug, Default)]
pub(super) struct UsedRanges {
    /// Start, end, and where the range starts among the kept values.
    ranges: Vec<(u64, u64, u64)>,
    total: u64,
}

impl UsedRanges {
    /// The union of ranges, each a start and a length; empty ones do not count.
    pub(super) fn of(ranges: impl Iterator<Item = (u64, u64)>) -> Self {
        let mut sorted: Vec<(u64, u64)> =
            ranges.filter(|(_, length)| *length > 0).map(|(start, length)| (start, start + length)).collect();
        // As a rule they are sorted already, which costs one pass.
        sorted.sort_unstable();
        let mut used = UsedRanges::default();
        for (start, end) in sorted {
            match used.ranges.last_mut() {
                Some((_, last, _)) if start <= *last => {
                    used.total += end.saturating_sub(*last);
                    *last = end.max(*last);
                }
                _ => {
                    used.ranges.push((start, end, used.total));
                    used.total += end - start;
                }
            }
        }
        used
    }

    /// How many values are kept.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The kept ranges, as start and end, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        self.ranges.iter().map(|(start, end, _)| (*start, *end))
    }

    /// Where a value that is kept is among the kept ones.
    pub(super) fn moved(&self, at: u64) -> u64 {
        let after = self.ranges.partition_point(|(start, _, _)| *start <= at);
        let (start, _, moved) = self.ranges[after - 1];
        moved + (at - start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_ranges_are_kept_once() {
        let used = UsedRanges::of([(10, 5), (0, 2), (12, 8), (3, 0), (2, 1), (10, 5)].into_iter());
        assert_eq!(used.iter().collect::<Vec<_>>(), [(0, 3), (10, 20)]);
        assert_eq!(used.total(), 13);
        assert_eq!([0, 2, 10, 19].map(|at| used.moved(at)), [0, 2, 3, 12]);
    }
}
