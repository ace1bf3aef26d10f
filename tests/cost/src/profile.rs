//! What a program cost, place by place.

use std::collections::BTreeMap;

/// How much each place of a program did: instructions by function, or bytes copied by call site.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    places: BTreeMap<String, i64>,
}

impl Profile {
    /// Adds to what a place did.
    pub fn add(&mut self, place: &str, count: i64) {
        match self.places.get_mut(place) {
            Some(sum) => *sum += count,
            None => drop(self.places.insert(place.to_string(), count)),
        }
    }

    /// What the whole program did.
    pub fn total(&self) -> i64 {
        self.places.values().sum()
    }

    /// What is left without what `base` did, place by place; below zero where `base` did more.
    pub fn without(&self, base: &Profile) -> Profile {
        let mut rest = self.clone();
        base.places.iter().for_each(|(place, count)| rest.add(place, -count));
        rest
    }

    /// Without the places that `keep` does not want.
    pub fn only(mut self, keep: impl Fn(&str) -> bool) -> Profile {
        self.places.retain(|place, _| keep(place));
        self
    }

    /// The `count` places that did most.
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

    fn profile(places: &[(&str, i64)]) -> Profile {
        let mut profile = Profile::default();
        places.iter().for_each(|(place, count)| profile.add(place, *count));
        profile
    }

    #[test]
    fn the_cost_of_starting_is_taken_off() {
        let all = profile(&[("start", 50), ("serve", 10), ("serve", 60)]);
        let cost = all.without(&profile(&[("start", 45), ("idle", 2)]));
        assert_eq!(cost.total(), 73);
        assert_eq!(cost.top(2), [("serve", 70), ("start", 5)]);
    }
}
