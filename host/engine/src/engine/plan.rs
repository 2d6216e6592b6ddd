//! What goes into the next step.
//!
//! Pure functions of what the slots hold. They know neither tokens nor time:
//! how much of a step prompts may take is [`super::cost`]'s answer, and who has
//! had how much stands in [`super::tenants`].

/// What a slot could contribute to a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) slot: usize,
    /// Tokens not computed yet, at least 1.
    pub(crate) remaining: usize,
    /// Whether the job has begun to generate: its next token goes first.
    pub(crate) generating: bool,
    /// The turn of the tenant that wants it.
    pub(crate) turn: u64,
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
/// by using its graph again. Prompts share the rest in the order of turns, then
/// of arrival.
///
/// A prompt may be named more than once: a job that waits for another one's
/// prefix lends that one its own place. `remaining` then says how far it wants
/// the prompt to get, and the prompt gets as far as the one who wants most.
pub(crate) fn plan(candidates: &[Candidate], n_batch: usize, prefill_budget: usize) -> Vec<Share> {
    let mut shares: Vec<Share> = Vec::with_capacity(candidates.len());
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

    let n_generating = shares.len();
    let mut prompts: Vec<&Candidate> = candidates.iter().filter(|c| !c.generating).collect();
    prompts.sort_unstable_by_key(|c| (c.turn, c.arrival));
    let mut room = room.min(prefill_budget);
    for candidate in prompts {
        let earlier = shares[n_generating..].iter_mut().find(|s| s.slot == candidate.slot);
        let had = earlier.as_ref().map_or(0, |share| share.n_tokens);
        let more = candidate.remaining.saturating_sub(had).min(room);
        if more == 0 {
            continue;
        }
        room -= more;
        match earlier {
            Some(share) => share.n_tokens += more,
            None => shares.push(Share { slot: candidate.slot, n_tokens: more }),
        }
    }
    shares
}

/// Which part of a plan a step computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Part {
    #[default]
    Whole,
    /// Those who generate; the prompts have the next step.
    Generating,
    /// The prompts; those who generate have had the step before.
    Prompts,
}

/// Cuts a plan, whose first `n_generating` shares are of those who generate, to the
/// part that is next. A plan with both in it stays whole up to `n_together` tokens;
/// a larger one becomes two steps, so that `last`, the part of the step before, says
/// whose turn it is. Returns also how many of the shares generate.
pub(crate) fn part(
    mut shares: Vec<Share>,
    n_generating: usize,
    n_together: usize,
    last: Part,
) -> (Vec<Share>, usize, Part) {
    let n_generating = n_generating.min(shares.len());
    let n_tokens: usize = shares.iter().map(|share| share.n_tokens).sum();
    if n_generating == 0 || n_generating == shares.len() || n_tokens <= n_together {
        return (shares, n_generating, Part::Whole);
    }
    if last == Part::Generating {
        shares.drain(..n_generating);
        (shares, 0, Part::Prompts)
    } else {
        shares.truncate(n_generating);
        (shares, n_generating, Part::Generating)
    }
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
                    turn: (slot % 3) as u64,
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
    fn a_large_step_of_both_kinds_is_two() {
        let share = |slot, n_tokens| Share { slot, n_tokens };
        let plan = || vec![share(0, 1), share(2, 1), share(1, 40), share(3, 20)];
        let prompts = || plan().split_off(2);
        assert_eq!(part(plan(), 2, 62, Part::Whole), (plan(), 2, Part::Whole));
        let generating = (plan()[..2].to_vec(), 2, Part::Generating);
        assert_eq!(part(plan(), 2, 61, Part::Whole), generating);
        assert_eq!(part(plan(), 2, 61, Part::Generating), (prompts(), 0, Part::Prompts));
        assert_eq!(part(plan(), 2, 61, Part::Prompts), generating);
        // Nothing to keep apart, whatever the size.
        assert_eq!(part(prompts(), 0, 1, Part::Generating), (prompts(), 0, Part::Whole));
        assert_eq!(part(prompts(), 2, 1, Part::Generating), (prompts(), 2, Part::Whole));
        assert_eq!(part(Vec::new(), 0, 1, Part::Whole), (Vec::new(), 0, Part::Whole));
    }

    fn prompt(slot: usize, remaining: usize, turn: u64, arrival: u64) -> Candidate {
        Candidate { slot, remaining, generating: false, turn, arrival }
    }

    #[test]
    fn prompts_are_served_in_order_of_arrival() {
        let shares = plan(&[prompt(0, 400, 0, 2), prompt(1, 400, 0, 1)], 512, 512);
        assert_eq!(shares, [Share { slot: 1, n_tokens: 400 }, Share { slot: 0, n_tokens: 112 }]);
    }

    #[test]
    fn turns_go_before_arrival() {
        let shares = plan(&[prompt(0, 400, 0, 2), prompt(1, 400, 1, 1)], 512, 512);
        assert_eq!(shares, [Share { slot: 0, n_tokens: 400 }, Share { slot: 1, n_tokens: 112 }]);
    }

    #[test]
    fn a_waiting_job_lends_its_place() {
        // Slot 0 is late itself, but somebody with an earlier turn wants 100 of it.
        let jobs = [prompt(0, 400, 5, 1), prompt(0, 100, 0, 3), prompt(1, 50, 1, 2)];
        let shares = plan(&jobs, 512, 200);
        assert_eq!(shares, [Share { slot: 0, n_tokens: 150 }, Share { slot: 1, n_tokens: 50 }]);
    }
}
