//! Jobs that wait for a slot.
//!
//! Within a tenant they go in the order of arrival; a job that was preempted
//! keeps its place in that order and is therefore the first of its tenant again.
//! Between tenants the one with the fewest running jobs goes first, so that a
//! tenant with many streams cannot keep another one's only request out, and of
//! equals the one that has had least ([`super::tenants`]). How long the queue may
//! get is the handle's business, whether a job fits is [`super::admission`]'s.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// What the queue has to know about a job.
pub(crate) trait Waits {
    fn tenant(&self) -> &Arc<str>;
    /// Grows from job to job; never changes.
    fn arrival(&self) -> u64;
}

/// The queue. No tenant in it is without a job.
#[derive(Debug)]
pub(crate) struct FairQueue<T> {
    tenants: HashMap<Arc<str>, VecDeque<T>>,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { tenants: HashMap::new() }
    }
}

impl<T: Waits> FairQueue<T> {
    pub(crate) fn len(&self) -> usize {
        self.tenants.values().map(VecDeque::len).sum()
    }

    /// Adds a job at its place.
    pub(crate) fn insert(&mut self, job: T) {
        let jobs = self.tenants.entry(Arc::clone(job.tenant())).or_default();
        let at = jobs.partition_point(|other| other.arrival() < job.arrival());
        jobs.insert(at, job);
    }

    /// The tenant whose first job is next. `running` counts a tenant's jobs that
    /// have a slot, `turn` says how much it has had.
    pub(crate) fn next(
        &self,
        running: impl Fn(&str) -> usize,
        turn: impl Fn(&str) -> u64,
    ) -> Option<&T> {
        self.tenants
            .iter()
            .filter_map(|(tenant, jobs)| Some((tenant, jobs.front()?)))
            .min_by_key(|(tenant, job)| (running(tenant), turn(tenant), job.arrival()))
            .map(|(_, job)| job)
    }

    /// Takes the first job of a tenant.
    pub(crate) fn pop(&mut self, tenant: &str) -> Option<T> {
        let jobs = self.tenants.get_mut(tenant)?;
        let job = jobs.pop_front();
        if jobs.is_empty() {
            self.tenants.remove(tenant);
        }
        job
    }

    /// Takes every job for which `gone` holds.
    pub(crate) fn take_if(&mut self, gone: impl Fn(&T) -> bool) -> Vec<T> {
        let mut taken = Vec::new();
        for jobs in self.tenants.values_mut() {
            // Mostly there is nothing to take.
            if jobs.iter().any(&gone) {
                let (out, left): (Vec<T>, Vec<T>) = jobs.drain(..).partition(&gone);
                taken.extend(out);
                jobs.extend(left);
            }
        }
        self.tenants.retain(|_, jobs| !jobs.is_empty());
        taken
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.tenants.values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Job(Arc<str>, u64);

    impl Waits for Job {
        fn tenant(&self) -> &Arc<str> {
            &self.0
        }

        fn arrival(&self) -> u64 {
            self.1
        }
    }

    fn order(mut queue: FairQueue<Job>, turn: impl Fn(&str) -> u64) -> Vec<u64> {
        let mut running: HashMap<Arc<str>, usize> = HashMap::new();
        let mut order = Vec::new();
        while let Some(job) = queue.next(|t| running.get(t).copied().unwrap_or(0), &turn).cloned() {
            order.push(job.1);
            *running.entry(Arc::clone(&job.0)).or_default() += 1;
            assert_eq!(queue.pop(&job.0), Some(job));
        }
        assert_eq!(queue.len(), 0);
        order
    }

    fn queue(jobs: &[(&str, u64)]) -> FairQueue<Job> {
        let mut queue = FairQueue::default();
        for (tenant, arrival) in jobs {
            queue.insert(Job(Arc::from(*tenant), *arrival));
        }
        queue
    }

    #[test]
    fn tenants_take_turns_at_slots() {
        let jobs = [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("", 5), ("b", 6)];
        assert_eq!(order(queue(&jobs), |_| 0), [1, 4, 5, 2, 6, 3]);
        // Who has had less goes first among those with as many slots.
        assert_eq!(order(queue(&jobs), |t| u64::from(t == "a")), [4, 5, 1, 6, 2, 3]);
    }

    #[test]
    fn a_job_that_comes_back_is_first() {
        let mut queue = queue(&[("a", 5), ("a", 7)]);
        queue.insert(Job(Arc::from("a"), 2));
        queue.insert(Job(Arc::from("a"), 6));
        assert_eq!(order(queue, |_| 0), [2, 5, 6, 7]);
    }

    #[test]
    fn jobs_are_taken_from_the_middle() {
        let mut queue = queue(&[("a", 1), ("a", 2), ("a", 3), ("b", 4)]);
        let taken = queue.take_if(|job| job.1 % 2 == 0);
        assert_eq!(taken.len(), 2);
        assert_eq!(queue.iter().count(), 2);
        assert_eq!(order(queue, |_| 0), [1, 3]);
    }
}
