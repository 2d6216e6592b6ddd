//! A plugin that imports an interface that no host has, so that it cannot be
//! linked whatever it is granted.

use refused_plugins::bindings::exports::llamero::hooks::request_hook::{
    CallContext, HookError, Request, Verdict,
};
use refused_plugins::bindings::exports::llamero::hooks::{lifecycle, request_hook};
use refused_plugins::bindings::llamero::refused::nowhere;

struct UnknownImport;

impl lifecycle::Guest for UnknownImport {
    fn describe() -> lifecycle::PluginInfo {
        refused_plugins::info("unknown-import")
    }

    fn configure() -> Result<(), String> {
        nowhere::go();
        Ok(())
    }

    fn self_test() -> Result<(), String> {
        Ok(())
    }
}

impl request_hook::Guest for UnknownImport {
    fn on_request(_context: CallContext, _request: Request) -> Result<Verdict, HookError> {
        Ok(Verdict::Pass)
    }
}

refused_plugins::export!(UnknownImport);
