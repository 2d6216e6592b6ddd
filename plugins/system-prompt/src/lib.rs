//! `system-prompt`: a request hook that adds the operator's system text to every
//! request, whether it is a completion or a chat.
//!
//! This file is the glue between the WIT interfaces and the logic in `combine`.
//! It does not keep a client from asking the model to ignore the system text: no
//! text in a prompt can.

mod combine;
mod config;

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
            package llamero:system-prompt;
            world plugin {
                import llamero:hooks/config@0.1.0;
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
use bindings::llamero::hooks::config as host_config;
use bindings::llamero::hooks::types::{CallContext, HookError, OptionValue, Request};
use request_hook::{Patch, Verdict};

use config::{Config, Position};

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

    fn self_test() -> Result<(), String> {
        combine::self_test(config()?)
    }
}

impl request_hook::Guest for Plugin {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        let config = config().map_err(HookError::Config)?;
        let Some(content) = combine::with_system(config, request.content) else {
            return Ok(Verdict::Pass);
        };
        Ok(Verdict::Patch(Patch {
            model: None,
            content: Some(content),
            options: dropped_options(config, &request.options),
        }))
    }
}

/// The option `instructions` is text that the worker keeps as it keeps the system
/// text. Replacing the one and leaving the other would let a client have its own
/// system text after all.
fn dropped_options(config: &Config, options: &[OptionValue]) -> Vec<OptionValue> {
    let drops = config.position == Position::Replace;
    options
        .iter()
        .filter(|option| drops && option.name == "instructions")
        .map(|option| OptionValue { name: option.name.clone(), json: "null".to_owned() })
        .collect()
}
