//! `llamero settings`: the configuration in effect, without secrets, and what
//! llama.cpp computes with.

use llamero_worker::settings::Effective;
use llamero_worker::{Kernels, SystemInfo};
use serde_json::{Value, json};

use super::load_worker;
use crate::args::SettingsArgs;
use crate::exit::{Exit, Failure};
use crate::{logging, output};

/// Runs the command.
///
/// # Errors
/// The failure to print, with its exit code; an invalid configuration is one, and so
/// is a llama.cpp that cannot compute, after the settings were printed.
pub fn run(args: &SettingsArgs) -> Result<Exit, Failure> {
    let settings = load_worker(&args.worker)?;
    logging::check_filter(&settings.log.filter)?;
    let system = llamero_worker::system_info();
    let known = system.as_ref().ok();
    let text = if args.json {
        format!("{:#}", as_json(settings.effective(), known))
    } else {
        let told = known.map(as_text).unwrap_or_default();
        format!("{}{told}", settings_table(settings.effective()))
    };
    output::line(&text).map_err(anyhow::Error::from)?;
    match system {
        Ok(_) => Ok(Exit::Ok),
        Err(error) => Err(Failure::new(Exit::Config, error.to_string())),
    }
}

fn as_json(settings: &[Effective], system: Option<&SystemInfo>) -> Value {
    let features = system.map(|system| &system.features);
    let kernels = system.and_then(|system| system.kernels.as_ref());
    let kernels = kernels.map(|Kernels { variant, file }| {
        json!({ "variant": variant, "file": file.display().to_string() })
    });
    json!({ "settings": settings, "system_info": features, "kernels": kernels })
}

fn as_text(system: &SystemInfo) -> String {
    let kernels = match &system.kernels {
        Some(Kernels { variant, file }) => format!("{variant}, out of {}", file.display()),
        None => "built in".to_owned(),
    };
    format!("\n\nllama.cpp: {}\nkernels:   {kernels}", system.features)
}

fn settings_table(settings: &[Effective]) -> String {
    let mut table = output::table(&["SETTING", "VALUE", "DEFAULT", "ORIGIN", "USE"]);
    for setting in settings {
        table.add_row(vec![
            setting.name.clone(),
            show(&setting.value),
            show(&setting.default),
            setting.origin.clone(),
            setting.use_text.clone(),
        ]);
    }
    table.trim_fmt()
}

/// A value as TOML and the environment take it, so that it can be copied.
fn show(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}
