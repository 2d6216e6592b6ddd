//! The picture: for each bar that compares, by which factor Llamero is better than
//! the default llama-server, on a logarithmic scale.

use std::fmt::Write as _;

use llamero_tests::bars::{Bar, number};

use super::{Measured, judged};

const LEFT: f64 = 330.0;
const WIDTH: f64 = 460.0;
const ROW: f64 = 22.0;
const TOP: f64 = 30.0;

/// One line of the picture; above 1 is better.
struct Row {
    label: String,
    middle: f64,
    low: f64,
    high: f64,
    bar: f64,
    is_met: bool,
}

/// Draws the picture.
pub fn picture(measured: &[Measured]) -> String {
    let rows = rows(measured);
    let all = rows.iter().flat_map(|row| [row.low, row.high, row.bar]).chain([1.0]);
    let powers: Vec<f64> = all.filter(|value| *value > 0.0).map(f64::log2).collect();
    let first = powers.iter().copied().fold(-1.0, f64::min).floor();
    let last = powers.iter().copied().fold(1.0, f64::max).ceil();
    let x = |factor: f64| {
        LEFT + (factor.max(f64::MIN_POSITIVE).log2().clamp(first, last) - first) * WIDTH
            / (last - first)
    };
    let bottom = TOP + ROW * rows.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0} {:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{:.0}\" y=\"16\">times better than the default llama-server; the thin line is \
         the bar</text>\n",
        LEFT + WIDTH + 60.0,
        bottom + 30.0,
        LEFT
    );
    let mut power = first;
    while power <= last {
        let at = x(power.exp2());
        let colour = if power == 0.0 { "#888" } else { "#ddd" };
        let _ = write!(
            svg,
            "<path d=\"M{at:.0} {TOP}V{bottom:.0}\" stroke=\"{colour}\"/>\n\
             <text x=\"{at:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{}x</text>\n",
            bottom + 18.0,
            number(power.exp2())
        );
        power += 1.0;
    }
    for (n, row) in rows.iter().enumerate() {
        let y = TOP + ROW * (n as f64 + 0.5);
        let colour = if row.is_met { "#4878a8" } else { "#c8663c" };
        let _ = write!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\n\
             <path d=\"M{:.0} {:.0}V{:.0}\" stroke=\"black\"/>\n\
             <path d=\"M{:.0} {y:.0}H{:.0}\" stroke=\"{colour}\" stroke-width=\"3\"/>\n\
             <circle cx=\"{:.0}\" cy=\"{y:.0}\" r=\"5\" fill=\"{colour}\"/>\n",
            LEFT - 8.0,
            y + 4.0,
            row.label,
            x(row.bar),
            y - 8.0,
            y + 8.0,
            x(row.low),
            x(row.high),
            x(row.middle),
        );
    }
    svg + "</svg>\n"
}

fn rows(measured: &[Measured]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (case, outcome) in measured {
        let Some(outcome) = outcome else { continue };
        for judged in judged::of(case, outcome) {
            let Some(verdict) = judged.default else { continue };
            let (low, high) = verdict.interval;
            // For times the ratio is turned round, so that more is better for all.
            let (bar, [middle, low, high]) = match judged.bar {
                Bar::RatioAtLeast(bar) => (bar, [verdict.median, low, high]),
                Bar::RatioAtMost(bar) => {
                    (1.0 / bar, [verdict.median, high, low].map(|ratio| 1.0 / ratio))
                }
                _ => continue,
            };
            let label = format!("{}: {}", case.id, judged.figure);
            rows.push(Row { label, middle, low, high, bar, is_met: verdict.is_met });
        }
    }
    rows
}
