//! The report as Markdown: first whether the sides give the same text, then the
//! bars, then all figures of each case.

use std::fmt::Write as _;

use llamero_tests::bars::{Verdict, number};
use llamero_tests::stats::median;

use super::{FIGURES, Measured, RATIOS, heading, judged};
use crate::probe::instruction_sets;
use crate::results::{Conditions, Outcome, Run};
use crate::workloads::{Work, cases::Case};

/// Runs in which other machines took more than this share of the CPU time are
/// marked.
const STOLEN: f64 = 0.02;

pub fn report(measured: &[Measured]) -> String {
    let outcomes: Vec<&Outcome> = measured.iter().filter_map(|(_, o)| o.as_ref()).collect();
    if outcomes.is_empty() {
        return "Not measured yet.\n".to_owned();
    }
    let mut text = gate(&outcomes);
    text += &conditions(&outcomes);
    text += &bars(measured);
    let _ = write!(
        text,
        "\nA ratio is Llamero's figure divided by llama-server's, in the same round; in brackets \
         stands the 95 % interval of its median. A bar is met when the whole interval is within \
         it.\n\n![Ratios to the default llama-server]({RATIOS})\n\n![The medians]({FIGURES})\n"
    );
    for (case, outcome) in measured {
        text += &format!("\n## {}: {}\n\n", case.id, case.title);
        match outcome {
            Some(outcome) => text += &details(case, outcome),
            None => text += "Not measured yet.\n",
        }
    }
    text
}

/// The first line: whether what is compared is the same work at all.
fn gate(outcomes: &[&Outcome]) -> String {
    let worst = outcomes.iter().map(|outcome| outcome.conditions.gate);
    let worst = worst.min_by(|a, b| {
        let share = |gate: &(usize, usize)| gate.1 as f64 / gate.0.max(1) as f64;
        share(a).total_cmp(&share(b))
    });
    let mut text = match worst {
        Some((prompts, equal)) if prompts > 0 && prompts == equal => format!(
            "Both sides gave the same greedy text for {equal} of {prompts} prompts, one request \
             at a time.\n"
        ),
        Some((prompts, equal)) => format!(
            "**The sides do not do the same work: they gave the same greedy text for {equal} of \
             {prompts} prompts only, one request at a time.**\n"
        ),
        None => String::new(),
    };
    for outcome in outcomes {
        let Conditions { worker_info, server_info, .. } = &outcome.conditions;
        if instruction_sets(worker_info) != instruction_sets(server_info) {
            let case = &outcome.case;
            let _ = writeln!(text, "**{case}: the sides were built for other instruction sets.**");
        }
    }
    text
}

/// When, where and with what: once for all cases that have it in common.
fn conditions(outcomes: &[&Outcome]) -> String {
    let undated = |outcome: &Outcome| {
        let conditions = outcome.conditions.clone();
        Conditions { date: String::new(), gate: (0, 0), ..conditions }
    };
    let mut groups: Vec<(Conditions, Vec<&Outcome>)> = Vec::new();
    for outcome in outcomes {
        let conditions = undated(outcome);
        match groups.iter_mut().find(|(known, _)| *known == conditions) {
            Some((_, members)) => members.push(outcome),
            None => groups.push((conditions, vec![outcome])),
        }
    }
    let mut text = String::new();
    for (conditions, members) in groups {
        let cases: Vec<&str> = members.iter().map(|outcome| outcome.case.as_str()).collect();
        let dates = members.iter().map(|outcome| outcome.conditions.date.as_str());
        let (first, last) = (dates.clone().min(), dates.max());
        let Conditions { commit, machine, tools, threads, worker_info, server_info, .. } =
            conditions;
        let _ = write!(
            text,
            "\n{}: {} to {} UTC, commit {commit}, {machine}; {tools}; {threads} threads each.\n\n\
             ```text\nLlamero       {}\nllama-server  {}\n```\n",
            cases.join(", "),
            first.unwrap_or_default(),
            last.unwrap_or_default(),
            instruction_sets(&worker_info),
            instruction_sets(&server_info),
        );
    }
    text
}

fn bars(measured: &[Measured]) -> String {
    let mut text = "\n| case | figure | bar | against the default | | against the best | |\n\
                    |---|---|---:|---:|---|---:|---|\n"
        .to_owned();
    for (case, outcome) in measured {
        let Some(outcome) = outcome else {
            for (figure, bar) in &case.bars {
                let _ = writeln!(
                    text,
                    "| {} | {figure} | {} | not measured | | | |",
                    case.id,
                    bar.text()
                );
            }
            continue;
        };
        for judged in judged::of(case, outcome) {
            let show = |verdict: &Verdict| {
                let (low, high) = verdict.interval;
                let [middle, low, high] = [verdict.median, low, high].map(|v| judged.bar.show(v));
                let met = if verdict.is_met { "met" } else { "**missed**" };
                if low == high {
                    format!("{middle} | {met}")
                } else {
                    format!("{middle} ({low} to {high}) | {met}")
                }
            };
            let default = judged.default.as_ref().map_or("not measured | ".to_owned(), show);
            let best = judged.best.as_ref().map_or(" | ".to_owned(), |(name, verdict)| {
                format!("{}, `{name}`", show(verdict).replace(" | ", ", ")).replacen(", ", " | ", 1)
            });
            let _ = writeln!(
                text,
                "| {} | {} | {} | {default} | {best} |",
                case.id,
                judged.figure,
                judged.bar.text()
            );
        }
    }
    text
}

fn details(case: &Case, outcome: &Outcome) -> String {
    let mut text = String::from("```sh\n");
    for (_, command) in &outcome.contenders {
        let _ = writeln!(text, "{command}");
    }
    text += "```\n\n|";
    for (name, _) in &outcome.contenders {
        let _ = write!(text, " | {}", heading(name));
    }
    text += " |\n|---";
    text += &"|---:".repeat(outcome.contenders.len());
    text += "|\n";
    for figure in figures(outcome) {
        row(&mut text, outcome, figure, |runs| {
            let values: Vec<f64> =
                runs.iter().filter_map(|run| run.values.get(figure)).copied().collect();
            spread(&values)
        });
    }
    row(&mut text, outcome, "CPU seconds per 1,000 tokens", |runs| {
        let values: Vec<f64> = runs
            .iter()
            .filter(|run| run.tokens > 0)
            .map(|run| run.cpu_seconds * 1_000.0 / run.tokens as f64)
            .collect();
        spread(&values)
    });
    row(&mut text, outcome, "RSS at most (MiB)", |runs| {
        let values: Vec<f64> = runs.iter().map(|run| run.peak_rss_mib).collect();
        spread(&values)
    });
    row(&mut text, outcome, "failed requests", |runs| {
        runs.iter().map(|run| run.failed).sum::<u64>().to_string()
    });
    row(&mut text, outcome, "runs; of these with over 2 % CPU steal", |runs| {
        let marked = runs.iter().filter(|run| run.stolen > STOLEN).count();
        format!("{}; {marked}", runs.len())
    });
    let mut errors: Vec<String> = Vec::new();
    for run in &outcome.runs {
        for error in &run.errors {
            let first = error.lines().next().unwrap_or_default();
            let line = format!("- {}: {first}\n", heading(&run.contender));
            if !errors.contains(&line) {
                errors.push(line);
            }
        }
    }
    if !errors.is_empty() {
        let _ = write!(text, "\nFailures:\n\n{}", errors.concat());
    }
    if matches!(case.work, Work::Swap { .. }) {
        text += "\nllama-server keeps one model in a process, so there is nothing to compare.\n";
    }
    text
}

/// The names of all figures, in the order of the alphabet.
fn figures(outcome: &Outcome) -> Vec<&str> {
    let mut names: Vec<&str> =
        outcome.runs.iter().flat_map(|run| run.values.keys()).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn row(text: &mut String, outcome: &Outcome, name: &str, cell: impl Fn(&[&Run]) -> String) {
    let _ = write!(text, "| {name}");
    for (contender, _) in &outcome.contenders {
        let runs: Vec<&Run> =
            outcome.runs.iter().filter(|run| run.contender == *contender).collect();
        let _ = write!(text, " | {}", cell(&runs));
    }
    text.push_str(" |\n");
}

/// The median, and where the values lie.
fn spread(values: &[f64]) -> String {
    let Some(middle) = median(values) else { return String::new() };
    let smallest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if values.len() == 1 {
        return number(middle);
    }
    format!("{} ({} to {})", number(middle), number(smallest), number(largest))
}
