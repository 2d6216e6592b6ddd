//! `quota`: a request hook that serves so many requests in a window of time for
//! each account, model or subject, and answers further ones with code 6, which
//! clients know as "busy, try again".
//!
//! This file is the glue between the WIT interfaces and `window`, which decides.
//! The counters are in the worker's `state`, each with a time to live of one window
//! from its first request on; so this plugin needs no clock.

mod config;
mod window;

#[allow(
    unsafe_code,
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated code"
)]
mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package llamero:quota;
            world plugin {
                import llamero:hooks/config@0.1.0;
                import llamero:hooks/state@0.1.0;
                export llamero:hooks/lifecycle@0.1.0;
                export llamero:hooks/request-hook@0.1.0;
            }
        ",
        generate_all,
    });

    use super::Plugin;
    export!(Plugin);
}

use std::sync::OnceLock;

use bindings::exports::llamero::hooks::{lifecycle, request_hook};
use bindings::llamero::hooks::types::{CallContext, HookError, Rejection, Request};
use bindings::llamero::hooks::{config as host_config, state};
use request_hook::Verdict;

use config::Config;
use window::Caller;

/// The protocol's code for "worker busy".
const BUSY: u32 = 6;

/// The plugin; its state is the configuration, which is the same for every call
/// of an instance.
struct Plugin;

static CONFIG: OnceLock<Result<Config, String>> = OnceLock::new();

/// The configuration, parsed at the first use: the worker calls `configure`
/// before any request, but nothing here relies on it.
fn config() -> Result<&'static Config, String> {
    CONFIG.get_or_init(|| Config::parse(&host_config::document())).as_ref().map_err(String::clone)
}

impl lifecycle::Guest for Plugin {
    fn describe() -> lifecycle::PluginInfo {
        lifecycle::PluginInfo {
            name: env!("CARGO_PKG_NAME").to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            description: env!("CARGO_PKG_DESCRIPTION").to_owned(),
            config_schema: Some(config::SCHEMA.to_owned()),
        }
    }

    fn configure() -> Result<(), String> {
        config().map(|_| ())
    }

    /// Leaves the counters alone: they outlive the trial.
    fn self_test() -> Result<(), String> {
        window::self_test(config()?)
    }
}

impl request_hook::Guest for Plugin {
    fn on_request(context: CallContext, request: Request) -> Result<Verdict, HookError> {
        let config = config().map_err(HookError::Config)?;
        let caller = Caller {
            account: context.account.as_deref(),
            model: &request.model,
            subject: &context.subject,
        };
        let key = window::key(config, caller);
        let count = state::increment(&key, 1, Some(config.window_s * 1000)).map_err(state_error)?;
        Ok(match window::refusal(config, caller, count) {
            None => Verdict::Pass,
            Some(reason) => Verdict::Reject(Rejection { code: Some(BUSY), reason }),
        })
    }
}

/// A request that cannot be counted is not served, unless the operator's fail
/// policy says otherwise.
fn state_error(error: state::Error) -> HookError {
    match error {
        state::Error::QuotaExceeded => HookError::Unavailable(
            "quota: no room for another counter: raise the limits `state_keys` and \
             `state_bytes`, or shorten `window_s`"
                .to_owned(),
        ),
        state::Error::Unavailable(text) => {
            HookError::Unavailable(format!("quota: the state does not answer: {text}"))
        }
        state::Error::Other(text) => HookError::Internal(format!("quota: state: {text}")),
    }
}
