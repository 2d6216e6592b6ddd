//! `[[stream-upper]]`: the output in capital letters, token by token;
//! `[[stream-upper:line]]`, `:sentence`, `:whole` and `:BYTES` in larger pieces.

use test_plugins::Asked;
use test_plugins::request::llamero::hooks::types::{CallContext, HookError, Request};
use test_plugins::stream::exports::llamero::hooks::stream_filter::{
    Chunk, Ending, Granularity, Plan, Rewrite, Tail, Verdict,
};
use test_plugins::stream::exports::llamero::hooks::{request_hook, stream_filter};

struct StreamUpper;

static ASKED: Asked = Asked::new();

impl request_hook::Guest for StreamUpper {
    fn on_request(
        _context: CallContext,
        request: Request,
    ) -> Result<request_hook::Verdict, HookError> {
        ASKED.remember(&request.content, "stream-upper");
        Ok(request_hook::Verdict::Pass)
    }
}

impl stream_filter::Guest for StreamUpper {
    fn open(_context: CallContext) -> Result<Option<Plan>, HookError> {
        Ok(ASKED.argument().map(|argument| Plan {
            granularity: granularity(&argument),
            max_hold_bytes: u32::MAX,
            wants_tokens: false,
        }))
    }

    fn push(chunk: Chunk) -> Result<Verdict, HookError> {
        if chunk.text.chars().any(char::is_lowercase) {
            let emit = chunk.text.to_uppercase();
            return Ok(Verdict::Rewrite(Rewrite { emit, hold: String::new() }));
        }
        Ok(Verdict::Pass)
    }

    fn close(_ending: Ending) -> Result<Tail, HookError> {
        Ok(Tail::Release)
    }
}

fn granularity(argument: &str) -> Granularity {
    match argument {
        "line" => Granularity::Line,
        "sentence" => Granularity::Sentence,
        "whole" => Granularity::Whole,
        bytes => bytes.parse().map_or(Granularity::Token, Granularity::Bytes),
    }
}

test_plugins::export!(stream_plugin: StreamUpper);
