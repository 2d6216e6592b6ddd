//! Answers that have to match a JSON schema, against answers that need not, on
//! the same side.

use llamero_tests::stats::median;
use serde_json::json;

use super::{Context, Seen, first_texts, throughput};

const PROMPT: usize = 64;
const OUT: usize = 128;

/// Items of the array that the schema asks for: with two tokens each, the least
/// there can be, the answer's length ends it before it is complete.
const ITEMS: usize = 100;

pub async fn run(context: &mut Context<'_>, clients: usize) -> Result<Seen, String> {
    let mut seen = Seen::default();
    let schema = json!({"type": "array", "items": {"type": "integer"}, "minItems": ITEMS});
    let mut speeds = Vec::new();
    for (name, schema) in [("without", None), ("with", Some(schema))] {
        let requests = (0..clients).map(|_| {
            let request = context.request(PROMPT, OUT);
            crate::drivers::Request { schema: schema.clone(), ..request }
        });
        let requests = requests.collect();
        let answers = context.at_once(requests).await?;
        answers.iter().for_each(|answer| seen.count(answer));
        let speed = throughput(&answers);
        seen.add(format!("{name} schema (tok/s)"), speed);
        seen.add(format!("{name} schema, first token p50 (ms)"), median(&first_texts(&answers)));
        speeds.extend(speed);
    }
    if let [without, with] = speeds[..] {
        seen.add("with schema / without", Some(with / without));
    }
    Ok(seen)
}
