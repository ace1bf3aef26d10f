//! Memory and disk of all requests of the HTTP port, of which one caller has half at most.

use std::sync::Arc;

use metrics::gauge;
use volley_common::fair_budget::{BudgetLimits, BudgetShare, FairBudget};
use volley_common::{Error, Result};

/// How long a client should wait that was refused, milliseconds.
const RETRY_MS: u64 = 1000;

/// A budget of bytes.
#[derive(Debug)]
pub(crate) struct HttpBudget {
    kind: BudgetKind,
    taken: FairBudget,
    limits: BudgetLimits,
}

/// What a budget is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BudgetKind {
    Memory,
    Spool,
}

/// What one request has of a budget, until this is dropped.
#[derive(Debug)]
pub(crate) struct RequestShare {
    budget: Arc<HttpBudget>,
    /// None while it is dropped.
    share: Option<BudgetShare>,
}

impl BudgetKind {
    fn setting(self) -> &'static str {
        match self {
            BudgetKind::Memory => "http_memory_bytes",
            BudgetKind::Spool => "http_spool_bytes",
        }
    }

    fn label(self) -> &'static str {
        match self {
            BudgetKind::Memory => "memory",
            BudgetKind::Spool => "spool",
        }
    }
}

impl HttpBudget {
    /// So many bytes.
    pub fn new(kind: BudgetKind, bytes: u64) -> Arc<Self> {
        Arc::new(HttpBudget { kind, taken: FairBudget::default(), limits: BudgetLimits::halved(bytes) })
    }

    /// A share for a request of this caller.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: too much is taken.
    pub fn take(self: &Arc<Self>, owner: &Arc<str>, bytes: u64) -> Result<RequestShare> {
        let share = self.taken.take(Some(owner), bytes, self.limits).map_err(|_| self.refusal(bytes))?;
        self.show();
        Ok(RequestShare { budget: self.clone(), share: Some(share) })
    }

    /// Why a request may not have so many bytes. Without a hint to try again if it never could.
    fn refusal(&self, bytes: u64) -> Error {
        metrics::counter!("volley_http_refused_total", "limit" => self.kind.label()).increment(1);
        let (what, setting) = match self.kind {
            BudgetKind::Memory => ("memory", self.kind.setting()),
            BudgetKind::Spool => ("disk space for bodies", self.kind.setting()),
        };
        let most = self.limits.of_owner;
        if bytes > most {
            return Error::exhausted(format!(
                "a request that takes {bytes} bytes of {what} is too large for the HTTP port of this member, where one caller has {most}, half of `{setting}`: use Flight, or raise it"
            ));
        }
        Error::exhausted(format!(
            "the HTTP port of this member has no {what} for it, because of other requests (`{setting}`, of which one caller has half): try again, ask another member, or use Flight"
        ))
        .retry_after(RETRY_MS)
    }

    fn show(&self) {
        let bytes = self.taken.taken() as f64;
        match self.kind {
            BudgetKind::Memory => gauge!("volley_http_memory_bytes").set(bytes),
            BudgetKind::Spool => gauge!("volley_http_spool_bytes").set(bytes),
        }
    }
}

impl RequestShare {
    /// Takes what is missing to so many bytes.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: too much is taken.
    pub fn raise_to(&self, bytes: u64) -> Result<()> {
        let Some(share) = &self.share else { return Ok(()) };
        share.raise_to(bytes, self.budget.limits).map_err(|_| self.budget.refusal(bytes))?;
        self.budget.show();
        Ok(())
    }
}

impl Drop for RequestShare {
    fn drop(&mut self) {
        self.share = None;
        self.budget.show();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::Code;

    use super::*;

    #[test]
    fn one_caller_has_half_and_gives_it_back() {
        let budget = HttpBudget::new(BudgetKind::Memory, 100);
        let (one, other): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let share = budget.take(&one, 40).unwrap();
        share.raise_to(50).unwrap();
        for (refused, retry_after_ms) in [(share.raise_to(51), None), (budget.take(&one, 1).map(|_| ()), Some(1000))] {
            let refused = refused.unwrap_err();
            assert_eq!((refused.code, refused.retry_after_ms), (Code::ResourceExhausted, retry_after_ms));
            assert!(refused.message.contains("`http_memory_bytes`"), "{refused}");
        }
        let others = budget.take(&other, 50).unwrap();
        drop(share);
        budget.take(&one, 50).unwrap();
        drop(others);
    }
}
