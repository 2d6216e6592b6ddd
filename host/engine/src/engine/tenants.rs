//! How much each tenant has been given.
//!
//! A tenant is whoever the worker says a job belongs to: an account, a
//! connection, or nobody (the empty name). Every computed token is charged to
//! its tenant, and whoever has had least comes first. This is deficit round
//! robin, told the other way round: an account is counted in turns of
//! [`QUANTUM`] tokens, and jobs whose tenants are in the same turn go by
//! arrival. So a prompt is mostly finished before the next tenant's begins,
//! which gives a better median than slicing all of them.

use std::collections::HashMap;
use std::sync::Arc;

/// Tokens of a turn. Two tenants that both want all they can get are never
/// further apart than this and one step.
pub(crate) const QUANTUM: u64 = 512;
/// Tenants without a job that are remembered, so that debts are not lost by
/// sending one job after the other.
const MAX_IDLE: usize = 1024;

#[derive(Debug, Default)]
struct Account {
    served: u64,
    jobs: usize,
}

/// The books of all tenants.
#[derive(Debug, Default)]
pub(crate) struct Tenants {
    accounts: HashMap<Arc<str>, Account>,
}

impl Tenants {
    /// A job of this tenant has come.
    pub(crate) fn enter(&mut self, tenant: &Arc<str>) {
        // Nobody saves up time in which it wanted nothing, but a turn: who comes
        // now and then is served before those who always want more.
        let active = self.accounts.values().filter(|account| account.jobs > 0);
        let floor = active.map(|a| a.served).min().map(|least| least.saturating_sub(QUANTUM));
        let account = self.accounts.entry(Arc::clone(tenant)).or_default();
        if account.jobs == 0 {
            account.served = account.served.max(floor.unwrap_or(0));
        }
        account.jobs += 1;
    }

    /// A job of this tenant has ended.
    pub(crate) fn leave(&mut self, tenant: &str) {
        if let Some(account) = self.accounts.get_mut(tenant) {
            account.jobs = account.jobs.saturating_sub(1);
        }
        if self.accounts.values().all(|account| account.jobs == 0) {
            // Nobody is ahead of anybody.
            self.accounts.clear();
        } else if self.accounts.values().filter(|account| account.jobs == 0).count() > MAX_IDLE {
            self.accounts.retain(|_, account| account.jobs > 0);
        }
    }

    pub(crate) fn charge(&mut self, tenant: &str, n_tokens: usize) {
        if let Some(account) = self.accounts.get_mut(tenant) {
            account.served = account.served.saturating_add(n_tokens as u64);
        }
    }

    /// The turn the tenant is in; the least goes first.
    pub(crate) fn turn(&self, tenant: &str) -> u64 {
        self.served(tenant) / QUANTUM
    }

    /// Tokens computed for the tenant, since it began to count.
    pub(crate) fn served(&self, tenant: &str) -> u64 {
        self.accounts.get(tenant).map_or(0, |account| account.served)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(n: usize) -> Vec<Arc<str>> {
        (0..n).map(|n| Arc::from(n.to_string())).collect()
    }

    #[test]
    fn a_newcomer_goes_first_but_not_for_ever() {
        let mut tenants = Tenants::default();
        let names = names(2);
        tenants.enter(&names[0]);
        tenants.charge(&names[0], 10_000);
        tenants.enter(&names[1]);
        assert!(tenants.turn(&names[1]) < tenants.turn(&names[0]));
        tenants.charge(&names[1], QUANTUM as usize);
        assert_eq!(tenants.turn(&names[1]), tenants.turn(&names[0]));
    }

    #[test]
    fn debts_outlast_a_job_while_others_wait() {
        let mut tenants = Tenants::default();
        let names = names(2);
        tenants.enter(&names[0]);
        tenants.enter(&names[1]);
        tenants.charge(&names[1], 5_000);
        tenants.leave(&names[1]);
        tenants.enter(&names[1]);
        assert!(tenants.turn(&names[1]) > tenants.turn(&names[0]));
        // Once all have gone, all begin at nothing.
        tenants.leave(&names[1]);
        tenants.leave(&names[0]);
        tenants.enter(&names[1]);
        assert_eq!(tenants.turn(&names[1]), 0);
    }

    #[test]
    fn the_books_are_bounded() {
        let mut tenants = Tenants::default();
        let names = names(5_000);
        tenants.enter(&names[0]);
        for name in &names[1..] {
            tenants.enter(name);
            tenants.leave(name);
            assert!(tenants.accounts.len() <= MAX_IDLE + 2);
        }
    }
}
