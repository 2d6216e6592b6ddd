//! The token guard of one job: its plan, its verdicts on candidates, and what its
//! failure means.
//!
//! It runs in the pipeline's task because its plugin may be a stage, too, and an
//! instance does one thing at a time. What a verdict does to the next token is the
//! engine's business; here it is only checked for what can be said without a
//! vocabulary.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::Instrument;

use super::stage::End;
use crate::bindings::experimental::{candidates_to_wit, plan_from_wit, verdict_from_wit};
use crate::calls::{JobState, failure, invalid, missing, returned_error};
use crate::classify::{CallError, Stage as CallStage};
use crate::data::{Candidate, Change, GuardPlan, GuardVerdict, Verdict};
use crate::error::{Failure, Phase};
use crate::instance::{Allowance, guard, settle};
use crate::policy::Mode;
use crate::watch::Watch;

/// Most candidates that a guard can ask for.
pub(crate) const MAX_TOP_K: u32 = 64;
/// Most entries of a verdict's list.
const MAX_ENTRIES: usize = 1024;

/// A plugin that has a say in the tokens of one job.
pub(crate) struct Guard {
    place: usize,
    plan: GuardPlan,
    /// Gone once it has ended, in whichever way: then every token passes.
    watch: Option<Watch>,
    shadow: bool,
    changed: bool,
    wall: Duration,
    cpu: Duration,
}

impl Guard {
    pub(crate) fn plan(&self) -> GuardPlan {
        self.plan
    }
}

impl JobState {
    /// Opens the guard of this job: the first plugin of the chain that has one and
    /// gives a plan.
    pub(crate) async fn open_guard(&mut self) -> Result<Option<Guard>, Failure> {
        let chain = Arc::clone(&self.chain);
        for (place, plugin) in chain.plugins.iter().enumerate() {
            if !self.calls(plugin, Phase::Token) {
                continue;
            }
            let watch = Watch::start(plugin, Phase::Token, &self.shared);
            let span = watch.span.clone();
            let began = Instant::now();
            let opened = self.call_guard_open(place, &watch).instrument(span).await;
            let cpu = self.cpu(place);
            match opened {
                Ok(Some(plan)) => {
                    return Ok(Some(Guard {
                        place,
                        plan,
                        watch: Some(watch),
                        shadow: plugin.shared.policy.mode == Mode::Shadow,
                        changed: false,
                        wall: began.elapsed(),
                        cpu,
                    }));
                }
                Ok(None) => {
                    watch.settle(&self.shared, Verdict::Pass, cpu, None);
                }
                Err(error) => {
                    watch.settle(&self.shared, Verdict::Failed, cpu, Some(&error));
                    self.drop_instance(place);
                    if !self.lets_pass(plugin, Phase::Token, error.kind) {
                        return Err(failure(&plugin.info.id, Phase::Token, error));
                    }
                    plugin.shared.stats.skipped(Phase::Token);
                }
            }
        }
        Ok(None)
    }

    /// Asks the guard about the next token.
    pub(crate) async fn judge(
        &mut self,
        guard: &mut Guard,
        previous: Option<u32>,
        candidates: &[Candidate],
    ) -> Result<GuardVerdict, End> {
        if guard.watch.is_none() {
            return Ok(GuardVerdict::Pass);
        }
        let began = Instant::now();
        let judged = Box::pin(self.call_guard_next(guard, previous, candidates)).await;
        guard.wall += began.elapsed();
        guard.cpu += self.cpu(guard.place);
        let chain = Arc::clone(&self.chain);
        let plugin = &chain.plugins[guard.place];
        plugin.shared.stats.pushed(began.elapsed());
        match judged {
            Ok(verdict) => {
                if let Some(watch) = &mut guard.watch {
                    watch.proved();
                }
                guard.changed |= verdict != GuardVerdict::Pass;
                Ok(if guard.shadow { GuardVerdict::Pass } else { verdict })
            }
            Err(error) => {
                self.settle_guard(guard, Verdict::Failed, Some(&error));
                self.drop_instance(guard.place);
                if self.lets_pass(plugin, Phase::Token, error.kind) {
                    plugin.shared.stats.skipped(Phase::Token);
                    return Ok(GuardVerdict::Pass);
                }
                Err(End::Failed(failure(&plugin.info.id, Phase::Token, error)))
            }
        }
    }

    /// The tokens are over.
    pub(crate) fn end_guard(&mut self, guard: &mut Guard) {
        let verdict = if guard.changed { Verdict::Replace } else { Verdict::Pass };
        self.settle_guard(guard, verdict, None);
    }

    fn settle_guard(&mut self, guard: &mut Guard, verdict: Verdict, error: Option<&CallError>) {
        let Some(watch) = guard.watch.take() else {
            return;
        };
        watch.settle_after(&self.shared, verdict, guard.wall, guard.cpu, error);
        self.shared.add_change(Change {
            plugin: self.chain.plugins[guard.place].info.id.clone(),
            phase: Phase::Token,
            verdict,
            shadow: guard.shadow,
            fields: Vec::new(),
            wall: guard.wall,
        });
    }

    async fn call_guard_open(
        &mut self,
        place: usize,
        watch: &Watch,
    ) -> Result<Option<GuardPlan>, CallError> {
        let chain = Arc::clone(&self.chain);
        let entry = self.enter(place, watch, Allowance::Call).await?;
        let context = self.context(&entry);
        let shared = Arc::clone(&self.shared);
        let instance = self.instance(place)?;
        let Some(guest) = &instance.guard else {
            return Err(missing(Phase::Token));
        };
        let call = guest.call_open(&mut instance.store, &context);
        let ended = guard(&chain.host, &shared, &entry.clock, entry.budget, call).await;
        let plan = match settle(&instance.store, CallStage::Call, ended)? {
            Ok(plan) => plan.map(plan_from_wit),
            Err(error) => return Err(returned_error(instance, error)),
        };
        plan.map(|plan| check_plan(plan).map_err(invalid)).transpose()
    }

    async fn call_guard_next(
        &mut self,
        of_job: &Guard,
        previous: Option<u32>,
        candidates: &[Candidate],
    ) -> Result<GuardVerdict, CallError> {
        let chain = Arc::clone(&self.chain);
        let Some(watch) = &of_job.watch else {
            return Err(missing(Phase::Token));
        };
        let given = candidates_to_wit(candidates);
        let entry = self.enter(of_job.place, watch, Allowance::Push).await?;
        let shared = Arc::clone(&self.shared);
        let instance = self.instance(of_job.place)?;
        let Some(guest) = &instance.guard else {
            return Err(missing(Phase::Token));
        };
        let call = guest.call_next(&mut instance.store, previous, &given);
        let ended = guard(&chain.host, &shared, &entry.clock, entry.budget, call).await;
        match settle(&instance.store, CallStage::Call, ended)? {
            Ok(verdict) => check_verdict(verdict_from_wit(verdict)).map_err(invalid),
            Err(error) => Err(returned_error(instance, error)),
        }
    }
}

fn check_plan(plan: GuardPlan) -> Result<GuardPlan, String> {
    if !(1..=MAX_TOP_K).contains(&plan.top_k) {
        return Err(format!("`top-k` is {}, and must be 1 to {MAX_TOP_K}", plan.top_k));
    }
    if plan.every == 0 {
        return Err("`every` is 0, and must be at least 1".to_owned());
    }
    Ok(plan)
}

fn check_verdict(verdict: GuardVerdict) -> Result<GuardVerdict, String> {
    let entries = match &verdict {
        GuardVerdict::Pass | GuardVerdict::End => 0,
        GuardVerdict::Ban(tokens) | GuardVerdict::Only(tokens) => tokens.len(),
        GuardVerdict::Force(tokens) if tokens.is_empty() => {
            return Err("`force` names no token".to_owned());
        }
        GuardVerdict::Force(tokens) => tokens.len(),
        GuardVerdict::Bias(biases) => {
            if let Some((token, bias)) = biases.iter().find(|(_, bias)| !bias.is_finite()) {
                return Err(format!("the bias of token {token} is {bias}, and must be finite"));
            }
            biases.len()
        }
    };
    if entries > MAX_ENTRIES {
        return Err(format!("the verdict has {entries} entries, the most is {MAX_ENTRIES}"));
    }
    Ok(verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_and_verdicts_have_bounds() {
        let plan = |top_k, every| check_plan(GuardPlan { top_k, every });
        assert!(plan(1, 1).is_ok() && plan(64, 1000).is_ok());
        assert!(plan(0, 1).is_err() && plan(65, 1).is_err() && plan(5, 0).is_err());

        assert!(check_verdict(GuardVerdict::Ban(vec![7; 1024])).is_ok());
        assert!(check_verdict(GuardVerdict::Ban(vec![7; 1025])).is_err());
        assert!(check_verdict(GuardVerdict::Force(Vec::new())).is_err());
        for bias in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(check_verdict(GuardVerdict::Bias(vec![(1, 0.5), (2, bias)])).is_err());
        }
    }
}
