//! Picks the best of tens of thousands of logits.

use std::cmp::Ordering;

use crate::error::GenerationError;

/// Up to this many are collected while scanning; beyond, all are sorted.
const SCAN_LIMIT: usize = 512;

/// Best first; of equals, the smaller token first.
pub(super) fn by_logit(a: &(u32, f32), b: &(u32, f32)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// The token with the greatest logit; of equals the first.
pub(super) fn likeliest(logits: &[f32]) -> Result<u32, GenerationError> {
    let max = greatest(logits)?;
    let index = logits.iter().position(|logit| *logit == max).unwrap_or(0);
    Ok(u32::try_from(index).unwrap_or(0))
}

/// The `k` tokens with the greatest logits, best first; 0 takes all. Masked
/// tokens (minus infinity) are left out.
pub(super) fn top_k(logits: &[f32], k: usize) -> Result<Vec<(u32, f32)>, GenerationError> {
    greatest(logits)?;
    let all = (0u32..).zip(logits.iter().copied());
    let k = if k == 0 { logits.len() } else { k };
    if k > SCAN_LIMIT {
        let mut candidates: Vec<(u32, f32)> = all.filter(|c| c.1 > f32::NEG_INFINITY).collect();
        if k < candidates.len() {
            candidates.select_nth_unstable_by(k, by_logit);
            candidates.truncate(k);
        }
        candidates.sort_unstable_by(by_logit);
        return Ok(candidates);
    }
    // Few tokens get past the worst of the best, so this is one comparison for
    // most of them.
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(k + 1);
    let mut bar = f32::NEG_INFINITY;
    for candidate in all {
        if candidate.1 > bar {
            let at = best.partition_point(|c| by_logit(c, &candidate) == Ordering::Less);
            best.insert(at, candidate);
            if best.len() > k {
                best.pop();
            }
            if best.len() == k {
                bar = best.last().map_or(bar, |c| c.1);
            }
        }
    }
    Ok(best)
}

/// The greatest logit.
fn greatest(logits: &[f32]) -> Result<f32, GenerationError> {
    // Sixteen independent lanes, so that the compiler can use vector
    // instructions.
    let mut max = [f32::NEG_INFINITY; 16];
    let mut nan = [false; 16];
    let chunks = logits.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for lane in 0..16 {
            let value = chunk[lane];
            nan[lane] |= value.is_nan();
            max[lane] = if value > max[lane] { value } else { max[lane] };
        }
    }
    let mut result = f32::NEG_INFINITY;
    for value in max.iter().chain(rest) {
        result = result.max(*value);
    }
    if nan.contains(&true) || rest.iter().any(|value| value.is_nan()) {
        return Err(GenerationError::Sampling(
            "the model computed a logit that is not a number".to_string(),
        ));
    }
    if result == f32::INFINITY {
        return Err(GenerationError::Sampling("the model computed an infinite logit".to_string()));
    }
    if result == f32::NEG_INFINITY {
        return Err(GenerationError::Sampling("no token is allowed".to_string()));
    }
    Ok(result)
}
