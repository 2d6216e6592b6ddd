//! `[[version]]`: ends the output with ` <REQUEST/FILTER>`, the version that saw the
//! request and the one that filtered the output. Both read it from [`STAMP`]: who
//! changes the digits in the built file has another version of the plugin, with
//! another digest, and need not build it.

use std::sync::{Mutex, PoisonError};

use bindings::exports::llamero::hooks::stream_filter::{
    Chunk, Ending, Granularity, Plan, Tail, Verdict,
};
use bindings::exports::llamero::hooks::{request_hook, stream_filter};
use test_plugins::Asked;
use test_plugins::request::llamero::hooks::types::{CallContext, HookError, Request};

struct Version;

/// Six digits after a text that stands nowhere else in the file.
#[used]
static STAMP: [u8; 16] = *b"version@@=000000";

static ASKED: Asked = Asked::new();

/// The version that saw the request. One instance serves all phases of a job, so a
/// filter that finds none here is in an instance of its own.
static AT_REQUEST: Mutex<Option<String>> = Mutex::new(None);

/// The black box keeps the optimiser from reading the digits at build time.
fn version() -> String {
    String::from_utf8_lossy(&std::hint::black_box(&STAMP)[10..]).into_owned()
}

impl request_hook::Guest for Version {
    fn on_request(
        _context: CallContext,
        request: Request,
    ) -> Result<request_hook::Verdict, HookError> {
        ASKED.remember(&request.content, "version");
        *AT_REQUEST.lock().unwrap_or_else(PoisonError::into_inner) = Some(version());
        Ok(request_hook::Verdict::Pass)
    }
}

impl stream_filter::Guest for Version {
    fn open(_context: CallContext) -> Result<Option<Plan>, HookError> {
        Ok(ASKED.argument().map(|_| Plan {
            granularity: Granularity::Token,
            max_hold_bytes: u32::MAX,
            wants_tokens: false,
        }))
    }

    fn push(_chunk: Chunk) -> Result<Verdict, HookError> {
        Ok(Verdict::Pass)
    }

    fn close(_ending: Ending) -> Result<Tail, HookError> {
        let at_request = AT_REQUEST.lock().unwrap_or_else(PoisonError::into_inner).take();
        let at_request = at_request.unwrap_or_else(|| "none".to_owned());
        Ok(Tail::Replace(format!(" <{at_request}/{}>", version())))
    }
}

test_plugins::plugin!(stream: Version);
