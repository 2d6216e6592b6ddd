//! A plugin that finds its configuration unusable.

use refused_plugins::bindings::exports::llamero::hooks::request_hook::{
    CallContext, HookError, Request, Verdict,
};
use refused_plugins::bindings::exports::llamero::hooks::{lifecycle, request_hook};

struct ConfigureError;

impl lifecycle::Guest for ConfigureError {
    fn describe() -> lifecycle::PluginInfo {
        refused_plugins::info("configure-error")
    }

    fn configure() -> Result<(), String> {
        Err("`limit` is missing: set it to a number".to_owned())
    }

    fn self_test() -> Result<(), String> {
        Ok(())
    }
}

impl request_hook::Guest for ConfigureError {
    fn on_request(_context: CallContext, _request: Request) -> Result<Verdict, HookError> {
        Ok(Verdict::Pass)
    }
}

refused_plugins::export!(ConfigureError);
