//! `llamero settings`: the configuration in effect, without secrets, and what
//! llama.cpp was built for.

use llamero_worker::settings::Effective;
use serde_json::{Value, json};

use super::load_worker;
use crate::args::SettingsArgs;
use crate::exit::{Exit, Failure};
use crate::{logging, output};

/// Runs the command.
///
/// # Errors
/// The failure to print, with its exit code; an invalid configuration is one.
pub fn run(args: &SettingsArgs) -> Result<Exit, Failure> {
    let settings = load_worker(&args.worker)?;
    logging::check_filter(&settings.log.filter)?;
    let system_info = llamero_worker::system_info();
    let text = if args.json {
        format!("{:#}", json!({ "settings": settings.effective(), "system_info": system_info }))
    } else {
        format!("{}\n\nllama.cpp: {system_info}", settings_table(settings.effective()))
    };
    output::line(&text).map_err(anyhow::Error::from)?;
    Ok(Exit::Ok)
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
