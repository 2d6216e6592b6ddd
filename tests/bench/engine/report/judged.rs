//! Bars applied to results: against the default llama-server, and against the
//! best of all ways in which it was run.

use llamero_tests::bars::{Bar, Verdict};
use llamero_tests::stats::median;

use crate::results::Outcome;
use crate::sides::Contender;
use crate::workloads::cases::Case;

/// One bar of a case with what was measured.
pub struct Judged {
    /// The figure.
    pub figure: &'static str,
    /// Its bar.
    pub bar: Bar,
    /// Against the first llama-server of the case, or ours alone.
    pub default: Option<Verdict>,
    /// The llama-server with the best median of this figure, and against it;
    /// `None` where there is one only.
    pub best: Option<(String, Verdict)>,
}

/// All bars of a case.
pub fn of(case: &Case, outcome: &Outcome) -> Vec<Judged> {
    case.bars.iter().map(|&(figure, bar)| judge(case, outcome, figure, bar)).collect()
}

fn judge(case: &Case, outcome: &Outcome, figure: &'static str, bar: Bar) -> Judged {
    let ours = outcome.figures(&Contender::worker().name, figure);
    if !bar.needs_theirs() {
        let values: Vec<f64> = ours.values().map(|&ours| bar.compared(ours, f64::NAN)).collect();
        return Judged { figure, bar, default: bar.judge(&values), best: None };
    }
    // Compared within a round: what slowed the machine down hit both.
    let against = |server: &Contender| {
        let theirs = outcome.figures(&server.name, figure);
        let pairs: Vec<f64> = ours
            .iter()
            .filter_map(|(round, &ours)| Some(bar.compared(ours, *theirs.get(round)?)))
            .collect();
        bar.judge(&pairs)
    };
    let default = case.servers.first().and_then(&against);
    let best = best(case, outcome, figure, bar)
        .filter(|_| case.servers.len() > 1)
        .and_then(|server| Some((server.name.clone(), against(server)?)));
    Judged { figure, bar, default, best }
}

fn best<'a>(case: &'a Case, outcome: &Outcome, figure: &str, bar: Bar) -> Option<&'a Contender> {
    let measured = case.servers.iter().filter_map(|server| {
        let middle = median(&outcome.values(&server.name, figure))?;
        // The larger one is the better one from here on.
        Some((if bar.is_smaller_better() { -middle } else { middle }, server))
    });
    measured.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, server)| server)
}
