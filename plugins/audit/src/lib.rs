//! `audit`: an observer that writes one structured log line for every job, however
//! it ended, and keeps counters and histograms of them.
//!
//! This file is the glue between the WIT interfaces and `record`, which decides
//! what is said of a job. It never sees what a client sent or got.

mod config;
mod record;

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
            package llamero:audit;
            world plugin {
                import llamero:hooks/call@0.1.0;
                import llamero:hooks/config@0.1.0;
                import llamero:hooks/log@0.1.0;
                import llamero:hooks/metrics@0.1.0;
                export llamero:hooks/lifecycle@0.1.0;
                export llamero:hooks/observer@0.1.0;
            }
        ",
        generate_all,
    });

    use super::Plugin;
    export!(Plugin);
}

use std::sync::OnceLock;

use bindings::exports::llamero::hooks::{lifecycle, observer};
use bindings::llamero::hooks::types::CallContext;
use bindings::llamero::hooks::{call, config as host_config, log, metrics};

use config::{Config, Level};
use record::Pair;

/// The plugin; its state is the configuration, which is the same for every call
/// of an instance.
struct Plugin;

static CONFIG: OnceLock<Result<Config, String>> = OnceLock::new();

/// The configuration, parsed at the first use: the worker calls `configure`
/// before any job, but nothing here relies on it.
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

    /// There is nothing that could be tried without a job.
    fn self_test() -> Result<(), String> {
        config().map(|_| ())
    }
}

impl observer::Guest for Plugin {
    fn on_complete(context: CallContext, summary: observer::Summary) {
        // Refused by `configure`, so that it never comes to this.
        let Ok(config) = config() else { return };
        let model = call::model();
        write(config, &context, &model, &summary);
        measure(&record::labels(config, &context, &model), &summary);
    }
}

fn write(config: &Config, context: &CallContext, model: &str, summary: &observer::Summary) {
    let level = match config.level {
        Level::Off => return,
        Level::Debug => log::Level::Debug,
        Level::Info => log::Level::Info,
        Level::Warn => log::Level::Warn,
    };
    if !log::enabled(level) {
        return;
    }
    let fields: Vec<log::Field> = record::fields(config, context, model, summary)
        .into_iter()
        .map(|(key, value)| log::Field { key: key.to_owned(), value })
        .collect();
    log::write(level, "job", &fields);
}

fn measure(labels: &[Pair], summary: &observer::Summary) {
    let with = |more: Option<(&str, &str)>| -> Vec<metrics::Label> {
        let own = labels.iter().map(|(key, value)| (*key, value.as_str()));
        own.chain(more)
            .map(|(key, value)| metrics::Label { key: key.to_owned(), value: value.to_owned() })
            .collect()
    };
    metrics::counter_add("jobs", 1, &with(Some(("outcome", record::outcome(&summary.outcome)))));
    let usage = summary.usage;
    for (kind, tokens) in [
        ("prompt", usage.prompt_tokens),
        ("cached", usage.cached_tokens),
        ("completion", usage.completion_tokens),
    ] {
        if tokens > 0 {
            metrics::counter_add("tokens", u64::from(tokens), &with(Some(("kind", kind))));
        }
    }
    metrics::histogram_record("queue_ms", in_ms(summary.queue_us), &with(None));
    metrics::histogram_record("total_ms", in_ms(summary.total_us), &with(None));
    if let Some(first) = summary.first_token_us {
        metrics::histogram_record("first_token_ms", in_ms(first), &with(None));
    }
}

#[allow(clippy::cast_precision_loss, reason = "no job takes 285 years")]
fn in_ms(microseconds: u64) -> f64 {
    microseconds as f64 / 1000.0
}
