//! A plugin whose own test finds it broken.

use refused_plugins::bindings::exports::llamero::hooks::request_hook::{
    CallContext, HookError, Request, Verdict,
};
use refused_plugins::bindings::exports::llamero::hooks::{lifecycle, request_hook};

struct SelfTestError;

impl lifecycle::Guest for SelfTestError {
    fn describe() -> lifecycle::PluginInfo {
        refused_plugins::info("self-test-error")
    }

    fn configure() -> Result<(), String> {
        Ok(())
    }

    fn self_test() -> Result<(), String> {
        Err("two and two make five".to_owned())
    }
}

impl request_hook::Guest for SelfTestError {
    fn on_request(_context: CallContext, _request: Request) -> Result<Verdict, HookError> {
        Ok(Verdict::Pass)
    }
}

refused_plugins::export!(SelfTestError);
