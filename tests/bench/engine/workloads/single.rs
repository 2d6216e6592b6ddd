//! One client, one request after another.

use llamero_tests::stats::median;

use super::{Context, Seen, first_texts};
use crate::drivers::Answer;

const OUT: usize = 128;

/// Requests for each length of prompt.
const REQUESTS: usize = 3;

pub async fn run(context: &mut Context<'_>, prompts: &[usize]) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let client = context.running.client("single").await?;
    for &prompt in prompts {
        let mut answers = Vec::new();
        for _ in 0..if context.is_quick { 1 } else { REQUESTS } {
            let request = context.request(prompt, OUT);
            let answer = client.run(&request).await;
            seen.count(&answer);
            answers.push(answer);
        }
        let speeds: Vec<f64> = answers.iter().filter_map(Answer::decode_speed).collect();
        seen.add(format!("first token, {prompt} in (ms)"), median(&first_texts(&answers)));
        seen.add(format!("decode, {prompt} in (tok/s)"), median(&speeds));
    }
    Ok(seen)
}
