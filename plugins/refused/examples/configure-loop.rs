//! A plugin whose configuration never ends.

use refused_plugins::bindings::exports::llamero::hooks::request_hook::{
    CallContext, HookError, Request, Verdict,
};
use refused_plugins::bindings::exports::llamero::hooks::{lifecycle, request_hook};

struct ConfigureLoop;

impl lifecycle::Guest for ConfigureLoop {
    fn describe() -> lifecycle::PluginInfo {
        refused_plugins::info("configure-loop")
    }

    fn configure() -> Result<(), String> {
        loop {
            // The optimiser must not take a loop without an effect away.
            std::hint::black_box(());
        }
    }

    fn self_test() -> Result<(), String> {
        Ok(())
    }
}

impl request_hook::Guest for ConfigureLoop {
    fn on_request(_context: CallContext, _request: Request) -> Result<Verdict, HookError> {
        Ok(Verdict::Pass)
    }
}

refused_plugins::export!(ConfigureLoop);
