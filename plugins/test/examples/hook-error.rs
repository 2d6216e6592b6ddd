//! `[[hook-error]]`: the error `internal`; `[[hook-error:config]]` and
//! `[[hook-error:unavailable]]`: the other two. The text must reach the operator's
//! log and never the client.

use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};

struct HookErrorPlugin;

impl Guest for HookErrorPlugin {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        let text = "the cause is for the log only".to_owned();
        match test_plugins::argument(&request.content, "hook-error").as_deref() {
            None => Ok(Verdict::Pass),
            Some("config") => Err(HookError::Config(text)),
            Some("unavailable") => Err(HookError::Unavailable(text)),
            Some(_) => Err(HookError::Internal(text)),
        }
    }
}

test_plugins::export!(request_plugin: HookErrorPlugin);
