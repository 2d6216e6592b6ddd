//! The second picture: the medians themselves, of each figure that has a bar, for
//! all that were measured. Lengths compare within a figure only.

use std::fmt::Write as _;

use llamero_tests::bars::number;
use llamero_tests::stats::median;

use super::{Measured, heading};
use crate::sides::Contender;

const LEFT: f64 = 330.0;
const WIDTH: f64 = 380.0;
const ROW: f64 = 16.0;

/// Between two figures, with the title of the next one.
const TITLE: f64 = 26.0;

/// Draws the picture.
pub fn picture(measured: &[Measured]) -> String {
    let mut body = String::new();
    let mut y = 6.0;
    for (case, outcome) in measured {
        let Some(outcome) = outcome else { continue };
        for (figure, _) in &case.bars {
            let medians: Vec<(&str, f64)> = outcome
                .contenders
                .iter()
                .filter_map(|(name, _)| {
                    Some((name.as_str(), median(&outcome.values(name, figure))?))
                })
                .collect();
            let largest = medians.iter().map(|(_, value)| *value).fold(0.0, f64::max);
            let _ = writeln!(
                body,
                "<text x=\"8\" y=\"{:.0}\" font-weight=\"bold\">{}: {figure}</text>",
                y + 16.0,
                case.id
            );
            y += TITLE;
            for (name, value) in medians {
                let colour = if name == Contender::worker().name { "#4878a8" } else { "#b0b0b0" };
                let share = if largest > 0.0 { value.max(0.0) / largest } else { 0.0 };
                let length = (share * WIDTH).max(1.0);
                let _ = writeln!(
                    body,
                    "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
                     <rect x=\"{LEFT}\" y=\"{:.0}\" width=\"{length:.0}\" height=\"{:.0}\" \
                     fill=\"{colour}\"/><text x=\"{:.0}\" y=\"{:.0}\">{}</text>",
                    LEFT - 8.0,
                    y + 11.0,
                    heading(name).replace('`', ""),
                    y + 2.0,
                    ROW - 4.0,
                    LEFT + length + 5.0,
                    y + 11.0,
                    number(value)
                );
                y += ROW;
            }
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {:.0} {:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n",
        LEFT + WIDTH + 70.0,
        y + 10.0
    )
}
