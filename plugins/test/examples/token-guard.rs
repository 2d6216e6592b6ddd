//! `[[token-guard:WHAT]]`: has a say in every token of the answer.
//!
//! * `pass`: lets every token pass;
//! * `ban`: never the likeliest token; `only`: always the second likeliest;
//! * `bias`: makes the third likeliest the likeliest;
//! * `force`: the first tokens are those of `configured words`, then it passes;
//! * `end`: ends the text at the fourth call;
//! * `every`: wants to be asked about every third token, and ends the text at the
//!   second call, in place of the sixth token;
//! * `empty`: leaves nothing to choose from; `unknown`: forces a token that no
//!   vocabulary has; `many`: bans 2,000 tokens; `nan`: a bias that is no number;
//!   `greedy`: asks for 65 candidates;
//! * `trap`: panics at the third call; `loop`: never returns from it; `busy`: takes
//!   some milliseconds for each.
//!
//! What it is asked must be in order, or it fails.

use std::sync::atomic::{AtomicU32, Ordering};

use bindings::exports::llamero::hooks::request_hook;
use bindings::exports::llamero::hooks_experimental::token_guard::{
    Candidate, Guest, Plan, TokenBias, Verdict,
};
use bindings::llamero::hooks::tokenizer;
use test_plugins::Asked;
use test_plugins::request::llamero::hooks::types::{CallContext, HookError, Request};

struct TokenGuard;

static ASKED: Asked = Asked::new();
static MODEL: Asked = Asked::new();
static CALLS: AtomicU32 = AtomicU32::new(0);

impl request_hook::Guest for TokenGuard {
    fn on_request(
        _context: CallContext,
        request: Request,
    ) -> Result<request_hook::Verdict, HookError> {
        ASKED.remember(&request.content, "token-guard");
        MODEL.keep(Some(request.model));
        Ok(request_hook::Verdict::Pass)
    }
}

impl Guest for TokenGuard {
    fn open(_context: CallContext) -> Result<Option<Plan>, HookError> {
        Ok(ASKED.argument().map(|what| Plan {
            top_k: if what == "greedy" { 65 } else { 8 },
            every: if what == "every" { 3 } else { 1 },
        }))
    }

    fn next(previous: Option<u32>, candidates: Vec<Candidate>) -> Result<Verdict, HookError> {
        let call = CALLS.fetch_add(1, Ordering::Relaxed);
        let what = ASKED.argument().unwrap_or_default();
        check(call, previous, &candidates).map_err(HookError::Internal)?;
        let token = |n: usize| candidates[n].token;
        Ok(match what.as_str() {
            "ban" => Verdict::Ban(vec![token(0)]),
            "only" => Verdict::Only(vec![token(1)]),
            "bias" => Verdict::Bias(vec![TokenBias { token: token(2), bias: 1000.0 }]),
            "force" if call == 0 => {
                let model = MODEL.argument().unwrap_or_default();
                let tokens = tokenizer::encode(&model, "configured words", false);
                Verdict::Force(tokens.map_err(|error| HookError::Internal(error.to_string()))?)
            }
            "end" if call == 3 => Verdict::End,
            "every" if call == 1 => Verdict::End,
            "empty" => Verdict::Only(Vec::new()),
            "unknown" => Verdict::Force(vec![u32::MAX]),
            "many" => Verdict::Ban(vec![token(0); 2000]),
            "nan" => Verdict::Bias(vec![TokenBias { token: token(0), bias: f32::NAN }]),
            "trap" if call == 2 => panic!("asked to"),
            "loop" if call == 2 => loop {
                std::hint::spin_loop();
            },
            "busy" => {
                for n in 0..3_000_000_u32 {
                    std::hint::black_box(n);
                }
                Verdict::Pass
            }
            _ => Verdict::Pass,
        })
    }
}

fn check(call: u32, previous: Option<u32>, candidates: &[Candidate]) -> Result<(), String> {
    if candidates.len() != 8 {
        return Err(format!("{} candidates", candidates.len()));
    }
    if candidates.windows(2).any(|pair| pair[0].logprob < pair[1].logprob) {
        return Err("the candidates are not in order".to_owned());
    }
    if previous.is_none() && call > 0 {
        return Err(format!("call {call} came after {previous:?}"));
    }
    Ok(())
}

test_plugins::plugin!(guard: TokenGuard);
