//! The bars that figures are held to, and when one is passed.
//!
//! A bar is passed when the bound of the 95 % interval of the median passes it,
//! not when the median does: with few rounds luck is not enough.

use crate::stats;

/// What a figure of ours has to reach, mostly against theirs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    /// At most this share of theirs: for times.
    RatioAtMost(f64),
    /// At least this share of theirs: for speeds.
    RatioAtLeast(f64),
    /// At most this much more than theirs, in the unit of the figure.
    ExcessAtMost(f64),
    /// At most this, whatever theirs is.
    AtMost(f64),
    /// At least this, whatever theirs is.
    AtLeast(f64),
}

/// How a figure stands to its bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Verdict {
    /// Median of what is compared: a ratio, a difference, or our figure.
    pub median: f64,
    /// Bounds of its 95 % interval.
    pub interval: (f64, f64),
    /// True if the bar is passed.
    pub is_met: bool,
}

impl Bar {
    /// True if a smaller figure is the better one.
    pub fn is_smaller_better(self) -> bool {
        matches!(self, Self::RatioAtMost(_) | Self::ExcessAtMost(_) | Self::AtMost(_))
    }

    /// True if theirs is needed to judge ours.
    pub fn needs_theirs(self) -> bool {
        !matches!(self, Self::AtMost(_) | Self::AtLeast(_))
    }

    /// What is compared with the bar, for one round.
    pub fn compared(self, ours: f64, theirs: f64) -> f64 {
        match self {
            Self::RatioAtMost(_) | Self::RatioAtLeast(_) => ours / theirs,
            Self::ExcessAtMost(_) => ours - theirs,
            Self::AtMost(_) | Self::AtLeast(_) => ours,
        }
    }

    /// Judges what [`Self::compared`] gave for each round; `None` without rounds.
    pub fn judge(self, compared: &[f64]) -> Option<Verdict> {
        let median = stats::median(compared)?;
        let interval = stats::interval(compared)?;
        let is_met = match self {
            Self::RatioAtMost(bar) | Self::ExcessAtMost(bar) | Self::AtMost(bar) => {
                interval.1 <= bar
            }
            Self::RatioAtLeast(bar) | Self::AtLeast(bar) => interval.0 >= bar,
        };
        Some(Verdict { median, interval, is_met })
    }

    /// The bar in words.
    pub fn text(self) -> String {
        match self {
            Self::RatioAtMost(bar) => format!("≤ {}x", number(bar)),
            Self::RatioAtLeast(bar) => format!("≥ {}x", number(bar)),
            Self::ExcessAtMost(bar) => format!("≤ theirs + {}", number(bar)),
            Self::AtMost(bar) => format!("≤ {}", number(bar)),
            Self::AtLeast(bar) => format!("≥ {}", number(bar)),
        }
    }

    /// What was compared, in words.
    pub fn show(self, compared: f64) -> String {
        match self {
            Self::RatioAtMost(_) | Self::RatioAtLeast(_) => format!("{}x", number(compared)),
            Self::ExcessAtMost(_) if compared >= 0.0 => format!("+{}", number(compared)),
            _ => number(compared),
        }
    }
}

/// A number with three digits, or all of a whole one.
pub fn number(value: f64) -> String {
    let size = value.abs();
    let text = if size >= 99.95 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else if size >= 9.995 {
        format!("{value:.1}")
    } else if size >= 0.9995 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    };
    // No minus before a zero.
    if text.trim_start_matches('-').chars().all(|c| matches!(c, '0' | '.')) {
        "0".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_met(bar: Bar, compared: &[f64]) -> bool {
        bar.judge(compared).is_some_and(|verdict| verdict.is_met)
    }

    #[test]
    fn the_bound_decides_and_not_the_median() {
        let steady = [0.9, 0.9, 0.91, 0.9, 0.89];
        let noisy = [0.5, 0.9, 0.91, 1.4, 1.5];
        assert!(is_met(Bar::RatioAtMost(1.0), &steady));
        assert!(!is_met(Bar::RatioAtMost(1.0), &noisy));
        assert!(!is_met(Bar::RatioAtLeast(1.0), &steady));
        assert!(is_met(Bar::RatioAtLeast(0.85), &steady));
        assert!(!is_met(Bar::RatioAtLeast(0.85), &noisy));
        assert_eq!(Bar::AtMost(1.0).judge(&[]), None);
    }

    #[test]
    fn each_bar_compares_its_own_way() {
        assert_eq!(Bar::RatioAtMost(1.0).compared(1.0, 4.0), 0.25);
        assert_eq!(Bar::ExcessAtMost(10.0).compared(110.0, 104.0), 6.0);
        assert_eq!(Bar::AtMost(20.0).compared(12.0, f64::NAN), 12.0);
        assert!(is_met(Bar::AtMost(0.0), &[0.0]));
        assert!(!is_met(Bar::AtMost(0.0), &[0.0, 1.0]));
        assert!(is_met(Bar::AtLeast(0.95), &[0.96]));
    }

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (20.0, "20"),
            (1.05, "1.05"),
            (0.25, "0.250"),
            (12.34, "12.3"),
            (1234.5, "1234"),
            (-0.0001, "0"),
            (-3.25, "-3.25"),
        ] {
            assert_eq!(number(value), text);
        }
        assert_eq!(Bar::ExcessAtMost(10.0).show(6.0), "+6");
        assert_eq!(Bar::RatioAtMost(0.25).text(), "≤ 0.250x");
    }
}
