//! The cost of a program, by place.

use std::collections::BTreeMap;

/// The cost of each place in a program: instructions by function, or bytes copied by call site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CostProfile {
    places: BTreeMap<String, i64>,
}

impl CostProfile {
    /// Adds to the cost of a place.
    pub fn add(&mut self, place: &str, count: i64) {
        match self.places.get_mut(place) {
            Some(sum) => *sum += count,
            None => drop(self.places.insert(place.to_string(), count)),
        }
    }

    /// The cost of the whole program.
    pub fn total(&self) -> i64 {
        self.places.values().sum()
    }

    /// The difference to `base`, place by place; negative where `base` cost more.
    pub fn without(&self, base: &CostProfile) -> CostProfile {
        let mut rest = self.clone();
        base.places.iter().for_each(|(place, count)| rest.add(place, -count));
        rest
    }

    /// Only the places that `keep` accepts.
    pub fn only(mut self, keep: impl Fn(&str) -> bool) -> CostProfile {
        self.places.retain(|place, _| keep(place));
        self
    }

    /// The `count` places that cost most.
    pub fn top(&self, count: usize) -> Vec<(&str, i64)> {
        let mut places: Vec<(&str, i64)> = self.places.iter().map(|(place, did)| (place.as_str(), *did)).collect();
        places.sort_by_key(|(_, did)| std::cmp::Reverse(*did));
        places.truncate(count);
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(places: &[(&str, i64)]) -> CostProfile {
        let mut profile = CostProfile::default();
        places.iter().for_each(|(place, count)| profile.add(place, *count));
        profile
    }

    #[test]
    fn cost_of_an_idle_program_is_subtracted() {
        let all = profile(&[("start", 50), ("serve", 10), ("serve", 60)]);
        let cost = all.without(&profile(&[("start", 45), ("idle", 2)]));
        assert_eq!(cost.total(), 73);
        assert_eq!(cost.top(2), [("serve", 70), ("start", 5)]);
    }
}
