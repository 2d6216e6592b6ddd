//! Rounds: every contender starts from nothing, does the work once, and is
//! stopped; the order is turned round from one round to the next (ABBA), so that
//! what changes slowly on the machine hits all alike.

use std::time::Instant;

use llamero_tests::prompts::Words;
use llamero_tests::random::Random;

use crate::machine::{self, CpuTimes};
use crate::processes::Programs;
use crate::results::Run;
use crate::sides::{Contender, Setup};
use crate::workloads::{self, Context, Seen, Work, cases::Case};

/// Measures a case; `done` is told of each run.
pub async fn case(
    programs: &Programs,
    case: &Case,
    words: &Words,
    random: &mut Random,
    (rounds, is_quick): (usize, bool),
    mut done: impl FnMut(&Run),
) -> Vec<Run> {
    let contenders = case.contenders();
    let mut runs = Vec::new();
    for round in 0..rounds {
        let mut order: Vec<&Contender> = contenders.iter().collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for contender in order {
            let plan = Plan { contender, setup: &case.setup, work: &case.work, round, is_quick };
            // Its own generator: what one contender draws does not change what
            // the next one gets.
            let run = one(programs, &plan, words, Random::new(random.bits())).await;
            done(&run);
            runs.push(run);
        }
    }
    runs
}

struct Plan<'a> {
    contender: &'a Contender,
    setup: &'a Setup,
    work: &'a Work,
    round: usize,
    is_quick: bool,
}

/// One run. What goes wrong is part of the result.
async fn one(programs: &Programs, plan: &Plan<'_>, words: &Words, random: Random) -> Run {
    let Plan { contender, setup, work, round, is_quick } = *plan;
    let mut run = Run { contender: contender.name.clone(), round, ..Run::default() };
    let running = match programs.start(contender, setup).await {
        Ok(running) => running,
        Err(error) => {
            run.failed = 1;
            run.errors = vec![format!("does not start: {error}")];
            return run;
        }
    };
    let (cpu, times, began) = (running.cpu_seconds(), CpuTimes::now(), Instant::now());
    let mut context = Context { running: &running, words, random, is_quick };
    let seen = workloads::run(work, &mut context).await.unwrap_or_else(|error| {
        let mut seen = Seen::default();
        seen.fail(&error);
        seen
    });
    run.seconds = began.elapsed().as_secs_f64();
    run.stolen = times.stolen_since();
    run.cpu_seconds = running.cpu_seconds() - cpu;
    // A process that has died has no memory; JSON has no NaN.
    run.peak_rss_mib = machine::peak_rss_mib(running.id()).max(0.0);
    run.values = seen.values.into_iter().collect();
    run.tokens = seen.tokens;
    run.failed = seen.failed;
    run.errors = seen.errors;
    run
}
