//! What goes into the next step.
//!
//! A pure function of what the slots hold. It knows neither tokens nor time.

/// What a slot could contribute to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) slot: usize,
    /// Tokens not computed yet, at least 1.
    pub(crate) remaining: usize,
    /// Whether the job has begun to generate: its next token goes first.
    pub(crate) generating: bool,
    /// Grows from job to job in the order of arrival.
    pub(crate) arrival: u64,
}

/// How many tokens of a slot are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) slot: usize,
    pub(crate) n_tokens: usize,
}

/// Fills a step of at most `n_batch` tokens, of which at most `prefill_budget`
/// belong to prompts.
///
/// Generating jobs come first and in the order of their slots: a step that only
/// generates then has the same shape as the one before, which llama.cpp rewards
/// by using its graph again. Prompts share the rest in the order of arrival.
pub(crate) fn plan(candidates: &[Candidate], n_batch: usize, prefill_budget: usize) -> Vec<Share> {
    let mut shares = Vec::with_capacity(candidates.len());
    let mut room = n_batch;

    let mut generating: Vec<&Candidate> = candidates.iter().filter(|c| c.generating).collect();
    generating.sort_unstable_by_key(|c| c.slot);
    for candidate in generating {
        let n_tokens = candidate.remaining.min(room);
        if n_tokens > 0 {
            shares.push(Share { slot: candidate.slot, n_tokens });
            room -= n_tokens;
        }
    }

    let mut prompts: Vec<&Candidate> = candidates.iter().filter(|c| !c.generating).collect();
    prompts.sort_unstable_by_key(|c| c.arrival);
    let mut room = room.min(prefill_budget);
    for candidate in prompts {
        let n_tokens = candidate.remaining.min(room);
        if n_tokens > 0 {
            shares.push(Share { slot: candidate.slot, n_tokens });
            room -= n_tokens;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate() -> impl Strategy<Value = (usize, bool)> {
        (1usize..2000, any::<bool>())
            .prop_map(|(n, generating)| (if generating { 1 } else { n }, generating))
    }

    proptest! {
        #[test]
        fn plans_are_fair_and_fit(
            jobs in prop::collection::vec(candidate(), 0..32),
            n_batch in 32usize..600,
            budget in 1usize..600,
        ) {
            let candidates: Vec<Candidate> = jobs
                .iter()
                .enumerate()
                .map(|(slot, (remaining, generating))| Candidate {
                    slot,
                    remaining: *remaining,
                    generating: *generating,
                    arrival: (jobs.len() - slot) as u64,
                })
                .collect();
            let shares = plan(&candidates, n_batch, budget);
            let total: usize = shares.iter().map(|s| s.n_tokens).sum();
            prop_assert!(total <= n_batch);
            let mut seen = std::collections::HashSet::new();
            for share in &shares {
                prop_assert!(seen.insert(share.slot), "slot planned twice");
                prop_assert!(share.n_tokens >= 1);
                prop_assert!(share.n_tokens <= candidates[share.slot].remaining);
            }
            // Nobody who generates is left out: there are fewer than n_batch.
            for candidate in candidates.iter().filter(|c| c.generating) {
                prop_assert!(seen.contains(&candidate.slot));
            }
            let prompts: usize = shares
                .iter()
                .filter(|s| !candidates[s.slot].generating)
                .map(|s| s.n_tokens)
                .sum();
            prop_assert!(prompts <= budget);
            // Work there is, work is done; a prompt is only cut for want of room.
            prop_assert_eq!(shares.is_empty(), candidates.is_empty());
            let decode = total - prompts;
            let cut = candidates.iter().any(|c| {
                !c.generating
                    && shares.iter().find(|s| s.slot == c.slot).map_or(0, |s| s.n_tokens) < c.remaining
            });
            if cut {
                prop_assert_eq!(prompts, budget.min(n_batch - decode));
            }
        }
    }

    #[test]
    fn prompts_are_served_in_order_of_arrival() {
        let prompt =
            |slot, remaining, arrival| Candidate { slot, remaining, generating: false, arrival };
        let shares = plan(&[prompt(0, 400, 2), prompt(1, 400, 1)], 512, 512);
        assert_eq!(shares, [Share { slot: 1, n_tokens: 400 }, Share { slot: 0, n_tokens: 112 }]);
    }
}
