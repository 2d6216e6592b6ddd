//! `llamero models`: what a worker offers.

use llamero_protocol::{ModelInfo, ModelOption, encode_response};
use serde_json::Value;

use super::connect;
use crate::args::ModelsArgs;
use crate::exit::{Exit, Failure};
use crate::output;

/// The options that get a column of their own: what a user is most likely to
/// ask about before a first request.
const COLUMNS: [&str; 5] = ["ctx_size", "temperature", "top_k", "top_p", "repeat_penalty"];

/// Runs the command.
///
/// # Errors
/// The failure to print, with its exit code.
pub async fn run(args: ModelsArgs) -> Result<Exit, Failure> {
    let client = connect(&args.connect).await?;
    let response = client.list(args.timeout).await?;
    if let Some(error) = &response.error {
        return Err(Failure::from_worker(error)
            .with_hint("the worker cannot read its folder of models; see its log"));
    }
    let text = if args.json {
        String::from_utf8_lossy(&encode_response(&response)).into_owned()
    } else {
        let models = response.list.map(|list| list.models).unwrap_or_default();
        let Some(first) = models.first() else {
            output::note("the worker offers no models: its folder holds no *.gguf or *.bin file");
            return Ok(Exit::Ok);
        };
        if args.options { options_table(&first.options) } else { models_table(&models) }
    };
    output::line(&text).map_err(anyhow::Error::from)?;
    Ok(Exit::Ok)
}

/// One row a model.
pub fn models_table(models: &[ModelInfo]) -> String {
    let header: Vec<String> = std::iter::once("MODEL".to_owned())
        .chain(COLUMNS.iter().map(|name| name.to_uppercase()))
        .collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut table = output::table(&header);
    for model in models {
        let mut row = vec![model.model.clone()];
        row.extend(COLUMNS.iter().map(|name| {
            model
                .options
                .iter()
                .find(|option| option.name == *name)
                // A list too large for one message carries the options of the
                // first model only.
                .map_or_else(|| "-".to_owned(), |option| show(&option.value))
        }));
        table.add_row(row);
    }
    table.trim_fmt()
}

/// One row an option.
fn options_table(options: &[ModelOption]) -> String {
    let mut table = output::table(&["OPTION", "DEFAULT", "USE"]);
    for option in options {
        let mut about = option.use_text.clone();
        if option.init {
            about.push_str(" (part of loading the model)");
        }
        table.add_row(vec![option.name.clone(), show(&option.value), about]);
    }
    table.trim_fmt()
}

/// A value as a user would type it behind `--option NAME=`.
fn show(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn option(name: &str, value: Value, init: bool) -> ModelOption {
        ModelOption { name: name.to_owned(), value, use_text: format!("About {name}."), init }
    }

    #[test]
    fn models_have_a_row_each() {
        let models = [
            ModelInfo {
                model: "a.gguf".into(),
                options: vec![
                    option("ctx_size", json!(4096), true),
                    option("temperature", json!(0.8), false),
                ],
            },
            ModelInfo { model: "b.gguf".into(), options: Vec::new() },
        ];
        insta::assert_snapshot!(models_table(&models));
    }

    #[test]
    fn options_are_explained() {
        insta::assert_snapshot!(options_table(&[
            option("model", json!(""), true),
            option("stop", json!([]), false),
        ]));
    }
}
