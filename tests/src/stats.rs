//! Medians, quantiles, and intervals by resampling.

use crate::random::Random;

/// Resamples for an interval. More change the third digit only.
const RESAMPLES: usize = 10_000;

/// The seed of the resampling: the same figures always give the same interval.
const SEED: u64 = 11_434;

/// The middle value, or the mean of the middle two; `None` without values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    median_of_sorted(&sorted)
}

/// The smallest value that at least the share `q` (0 to 1) of the values does not
/// exceed; `None` without values.
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    // Casts of floats saturate.
    let rank = (sorted.len() as f64 * q).ceil() as usize;
    sorted.get(rank.max(1) - 1).or(sorted.last()).copied()
}

/// The largest value; `None` without values.
pub fn largest(values: &[f64]) -> Option<f64> {
    values.iter().copied().max_by(f64::total_cmp)
}

/// Where the median lies with 95 % probability, by resampling: lower and upper
/// bound. One value is its own interval; `None` without values.
pub fn interval(values: &[f64]) -> Option<(f64, f64)> {
    if values.is_empty() {
        return None;
    }
    let mut random = Random::new(SEED);
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let mut sample: Vec<f64> =
                (0..values.len()).map(|_| values[random.below(values.len())]).collect();
            sample.sort_by(f64::total_cmp);
            median_of_sorted(&sample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let at = |share: f64| medians.get((RESAMPLES as f64 * share) as usize).copied();
    Some((at(0.025)?, at(0.975)?))
}

fn median_of_sorted(sorted: &[f64]) -> Option<f64> {
    let middle = sorted.len() / 2;
    match sorted.len() % 2 {
        1 => sorted.get(middle).copied(),
        _ => Some((sorted.get(middle.checked_sub(1)?)? + sorted.get(middle)?) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.5), Some(50.0));
        assert_eq!(quantile(&values, 0.99), Some(99.0));
        assert_eq!(quantile(&values, 1.0), Some(100.0));
        assert_eq!(quantile(&values, 0.0), Some(1.0));
        assert_eq!(quantile(&[5.0], 0.99), Some(5.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn the_interval_holds_the_median_and_narrows_with_more_values() {
        let spread = |count: u32| -> (f64, f64) {
            let values: Vec<f64> = (0..count).map(|n| f64::from(n % 5)).collect();
            let (low, high) = interval(&values).unwrap_or((f64::NAN, f64::NAN));
            let middle = median(&values).unwrap_or(f64::NAN);
            assert!(low <= middle && middle <= high, "{low} {middle} {high}");
            (low, high)
        };
        let (few, many) = (spread(5), spread(500));
        assert!(many.1 - many.0 < few.1 - few.0, "{few:?} {many:?}");
    }

    #[test]
    fn one_value_is_its_own_interval() {
        assert_eq!(interval(&[2.0]), Some((2.0, 2.0)));
        assert_eq!(interval(&[]), None);
    }
}
