//! A plugin that traps while it is configured.

use refused_plugins::bindings::exports::llamero::hooks::request_hook::{
    CallContext, HookError, Request, Verdict,
};
use refused_plugins::bindings::exports::llamero::hooks::{lifecycle, request_hook};

struct ConfigureTrap;

impl lifecycle::Guest for ConfigureTrap {
    fn describe() -> lifecycle::PluginInfo {
        refused_plugins::info("configure-trap")
    }

    #[allow(clippy::panic, reason = "panicking is what this plugin is for")]
    fn configure() -> Result<(), String> {
        panic!("cannot be configured");
    }

    fn self_test() -> Result<(), String> {
        Ok(())
    }
}

impl request_hook::Guest for ConfigureTrap {
    fn on_request(_context: CallContext, _request: Request) -> Result<Verdict, HookError> {
        Ok(Verdict::Pass)
    }
}

refused_plugins::export!(ConfigureTrap);
