//! A budget of which one owner has a part at most, so that the others find something when they come.
//!
//! Nothing waits here: what does not fit is refused, and the caller decides what that means. Used where a share is held for as
//! long as a client reads slowly, so that waiting for it could take for ever.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// A number of bytes, or of places. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct FairBudget(Arc<Mutex<TakenBudget>>);

#[derive(Debug, Default)]
struct TakenBudget {
    all: u64,
    /// Only owners that have something.
    by_owner: HashMap<Arc<str>, u64>,
}

/// How much may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetLimits {
    /// By all owners together.
    pub all: u64,
    /// By one of them.
    pub of_owner: u64,
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetScope {
    /// That of all.
    All,
    /// That of one owner.
    Owner,
}

/// What is taken of a budget, until this is dropped.
#[derive(Debug)]
pub struct BudgetShare {
    budget: FairBudget,
    owner: Option<Arc<str>>,
    amount: AtomicU64,
}

impl BudgetScope {
    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            BudgetScope::All => "all",
            BudgetScope::Owner => "principal",
        }
    }
}

impl BudgetLimits {
    /// `all`, of which one owner has half.
    pub fn halved(all: u64) -> Self {
        BudgetLimits { all, of_owner: all.div_ceil(2) }
    }
}

impl FairBudget {
    /// Takes an amount, unless more than the limits would be taken then. `owner`: `None` is nobody in particular, who has no
    /// limit of its own.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn take(
        &self,
        owner: Option<&Arc<str>>,
        amount: u64,
        limits: BudgetLimits,
    ) -> Result<BudgetShare, BudgetScope> {
        self.0.lock().add(owner, amount, limits)?;
        Ok(BudgetShare { budget: self.clone(), owner: owner.cloned(), amount: AtomicU64::new(amount) })
    }

    /// What all owners together have taken.
    pub fn taken(&self) -> u64 {
        self.0.lock().all
    }

    /// Takes the first of these amounts that fits its limits. They are the classes of a share, widest first. Returns the index of
    /// the class, too.
    ///
    /// # Errors
    /// The limit that the last class reaches.
    pub fn take_widest(
        &self,
        owner: Option<&Arc<str>>,
        classes: impl IntoIterator<Item = (u64, BudgetLimits)>,
    ) -> Result<(usize, BudgetShare), BudgetScope> {
        let mut reached = BudgetScope::All;
        for (class, (amount, limits)) in classes.into_iter().enumerate() {
            match self.take(owner, amount, limits) {
                Ok(taken) => return Ok((class, taken)),
                Err(scope) => reached = scope,
            }
        }
        Err(reached)
    }
}

impl TakenBudget {
    fn add(&mut self, owner: Option<&Arc<str>>, amount: u64, limits: BudgetLimits) -> Result<(), BudgetScope> {
        let all = self.all.saturating_add(amount);
        if let Some(owner) = owner {
            let own = self.by_owner.get(owner).copied().unwrap_or(0).saturating_add(amount);
            if own > limits.of_owner {
                return Err(BudgetScope::Owner);
            }
            if all > limits.all {
                return Err(BudgetScope::All);
            }
            self.by_owner.insert(owner.clone(), own);
        } else if all > limits.all {
            return Err(BudgetScope::All);
        }
        self.all = all;
        Ok(())
    }

    fn remove(&mut self, owner: Option<&Arc<str>>, amount: u64) {
        self.all -= amount;
        let Some(owner) = owner else { return };
        if let Some(own) = self.by_owner.get_mut(owner) {
            *own -= amount;
            if *own == 0 {
                self.by_owner.remove(owner);
            }
        }
    }
}

impl BudgetShare {
    /// Takes what is missing to an amount. Without a lock if nothing is.
    ///
    /// # Errors
    /// The limit that is reached: the share stays as it is.
    pub fn raise_to(&self, amount: u64, limits: BudgetLimits) -> Result<(), BudgetScope> {
        if amount <= self.amount.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut taken = self.budget.0.lock();
        // Only changed while the lock is held.
        let missing = amount.saturating_sub(self.amount.load(Ordering::Relaxed));
        taken.add(self.owner.as_ref(), missing, limits)?;
        self.amount.fetch_add(missing, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for BudgetShare {
    fn drop(&mut self) {
        self.budget.0.lock().remove(self.owner.as_ref(), self.amount.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const LIMITS: BudgetLimits = BudgetLimits { all: 10, of_owner: 6 };

    fn owner(name: &str) -> Option<Arc<str>> {
        Some(name.into())
    }

    #[test]
    fn one_owner_leaves_something_for_the_others() {
        let budget = FairBudget::default();
        let take = |name: &str, amount| budget.take(owner(name).as_ref(), amount, LIMITS);
        let first = take("a", 6).unwrap();
        assert_eq!(take("a", 1).err(), Some(BudgetScope::Owner));
        let second = take("b", 4).unwrap();
        assert_eq!(take("c", 1).err(), Some(BudgetScope::All));
        drop(first);
        assert_eq!(take("b", 3).err(), Some(BudgetScope::Owner));
        drop(take("c", 6).unwrap());
        drop(second);
        let taken = budget.0.lock();
        assert!(taken.all == 0 && taken.by_owner.is_empty(), "owners without a share are forgotten: {taken:?}");
    }

    #[test]
    fn nobody_in_particular_is_limited_with_all() {
        let budget = FairBudget::default();
        let share = budget.take(None, 10, LIMITS).unwrap();
        assert_eq!(budget.take(None, 1, LIMITS).err(), Some(BudgetScope::All));
        assert_eq!(budget.take(owner("a").as_ref(), 1, LIMITS).err(), Some(BudgetScope::All));
        drop(share);
        assert!(budget.take(owner("a").as_ref(), 6, LIMITS).is_ok());
    }

    #[test]
    fn widest_class_that_fits_is_taken() {
        let budget = FairBudget::default();
        let classes = [(6, BudgetLimits { all: 6, of_owner: 6 }), (2, LIMITS)];
        let take = |name: &str| budget.take_widest(owner(name).as_ref(), classes);
        let (wide, _wide) = take("a").unwrap();
        assert_eq!(wide, 0);
        assert_eq!(take("a").err(), Some(BudgetScope::Owner));
        let narrow = [take("b").unwrap(), take("c").unwrap()];
        assert!(narrow.iter().all(|(class, _)| *class == 1));
        assert_eq!(take("d").err(), Some(BudgetScope::All));
        assert_eq!(budget.0.lock().all, 10, "a class that does not fit takes nothing");
    }

    #[test]
    fn share_grows_within_the_limits_and_is_given_back_whole() {
        let budget = FairBudget::default();
        let share = budget.take(owner("a").as_ref(), 2, LIMITS).unwrap();
        assert_eq!(share.raise_to(1, LIMITS), Ok(()));
        assert_eq!(share.raise_to(6, LIMITS), Ok(()));
        assert_eq!(share.raise_to(7, LIMITS), Err(BudgetScope::Owner));
        assert_eq!(budget.0.lock().all, 6);
        drop(share);
        assert_eq!(budget.0.lock().all, 0);
        assert_eq!((BudgetLimits::halved(1).of_owner, BudgetLimits::halved(128).of_owner), (1, 64));
    }
}
