//! Lays a request's options over the worker's defaults and those over the
//! table's, and gives the result its types.
//!
//! Reading configuration files and the environment is `llamero-worker`'s; it
//! hands the values in through [`OptionDefaults`].

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::table::{OPTIONS, OptionSpec, known_option};
use super::{OptionGroup, Options};
use crate::{ErrorBody, ErrorCode, ModelOption, check_model_name};

/// An option that was refused. Displays as `option NAME: REASON` and never
/// contains the value that was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("option {name}: {reason}")]
pub struct OptionError {
    /// The option's name.
    pub name: String,
    /// What a right value would be.
    pub reason: String,
    /// True for options that choose the model: these fail with code 10.
    pub init: bool,
}

impl OptionError {
    pub(super) fn new(spec: &OptionSpec, reason: impl Into<String>) -> Self {
        Self { name: spec.name.to_owned(), reason: reason.into(), init: spec.init }
    }

    pub(super) fn unknown(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            reason: "is not an option of this worker".to_owned(),
            init: false,
        }
    }

    fn named(name: &str, reason: &str) -> Self {
        Self { name: name.to_owned(), reason: reason.to_owned(), init: false }
    }
}

impl From<OptionError> for ErrorBody {
    fn from(error: OptionError) -> Self {
        let code = if error.init { ErrorCode::InvalidModel } else { ErrorCode::PredictionFailed };
        Self::new(code, error.to_string())
    }
}

/// The options of the worker's configuration: defaults of every request.
/// `Default` is an unconfigured worker.
#[derive(Clone, Default, PartialEq)]
pub struct OptionDefaults {
    /// By the table's names, checked, in canonical form, without `null`.
    values: BTreeMap<&'static str, Value>,
}

impl OptionDefaults {
    /// Checks configured options and reports every problem at once. Of a
    /// repeated name the last one counts; `null` leaves the table's default.
    pub fn new<N, I>(configured: I) -> Result<Self, Vec<OptionError>>
    where
        N: AsRef<str>,
        I: IntoIterator<Item = (N, Value)>,
    {
        let mut values = BTreeMap::new();
        let mut errors = Vec::new();
        for (name, value) in configured {
            let Some(spec) = known_option(name.as_ref()) else {
                errors.push(OptionError::unknown(name.as_ref()));
                continue;
            };
            if let Err(error) = check_configured(spec, &value) {
                errors.push(error);
            } else if value.is_null() {
                values.remove(spec.name);
            } else {
                values.insert(spec.name, spec.kind.canonical(&value));
            }
        }
        let defaults = Self { values };
        if errors.is_empty()
            && let Err(error) = resolve(&Options::default(), &defaults, true)
        {
            errors.push(error);
        }
        if errors.is_empty() { Ok(defaults) } else { Err(errors) }
    }

    /// What a request gets that does not set the option: the configured value, or
    /// the table's default.
    pub fn value(&self, spec: &OptionSpec) -> Value {
        self.values.get(spec.name).cloned().unwrap_or_else(|| spec.default.to_value())
    }

    /// True when the configuration sets the option.
    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }
}

impl fmt::Debug for OptionDefaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `instructions` is prompt text, so values stay out of logs here too.
        f.write_str("OptionDefaults ")?;
        f.debug_set().entries(self.values.keys()).finish()
    }
}

fn check_configured(spec: &OptionSpec, value: &Value) -> Result<(), OptionError> {
    spec.check(value)?;
    match value.as_str() {
        Some(name) if spec.name == "model" && !name.is_empty() => {
            check_model_name(name).map_err(|error| OptionError::new(spec, error.error))
        }
        _ => Ok(()),
    }
}

/// Which model a request wants, and with which context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitOptions {
    /// The file name, not yet checked with
    /// [`check_model_name`](crate::check_model_name); nothing: the only listed
    /// model, if there is exactly one.
    pub model: Option<String>,
    /// The context limit of the job, in tokens.
    pub ctx_size: u32,
}

/// Every option of the table, typed and within its range.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedOptions {
    /// The model's file name; nothing when none was named.
    pub model: Option<String>,
    /// Context limit of the job, in tokens; at least 1.
    pub ctx_size: u32,
    /// As set or by default. Samplers want
    /// [`effective_repeat_penalty`](Self::effective_repeat_penalty).
    pub repeat_penalty: f32,
    /// Randomness; 0 or less takes the likeliest token.
    pub temperature: f32,
    /// How many of the likeliest tokens to sample from; 0 or less: all.
    pub top_k: i32,
    /// Probability, 0 to 1, that the tokens sampled from add up to.
    pub top_p: f32,
    /// Without effect; anything but 1 is worth one warning.
    pub tfs_z: f32,
    /// Locally typical sampling, 0 to 1; 1 is off.
    pub typical_p: f32,
    /// Version of mirostat, 1 or 2; 0 is off.
    pub mirostat: u8,
    /// Target entropy of mirostat, 0 to 100.
    pub mirostat_tau: f32,
    /// Learning rate of mirostat, 0 to 100.
    pub mirostat_eta: f32,
    /// Whether the penalties apply to the newline token.
    pub penalize_newline: bool,
    /// Random seed; 0 asks for a new one.
    pub seed: u32,
    /// Subtracted from a logit for each recent occurrence of the token.
    pub frequency_penalty: f32,
    /// Subtracted from a logit once if the token occurred recently.
    pub presence_penalty: f32,
    /// Text kept in the prompt after the system text.
    pub instructions: String,
    /// Texts that end the output; empty ones mean nothing.
    pub stop: Vec<String>,
    /// Most tokens to generate; 0 sets no limit but the context.
    pub max_tokens: u32,
    /// Least probability of a token, 0 to 1, as a share of the likeliest; 0 is off.
    pub min_p: f32,
    /// Recent tokens the penalties look at; 0 none, -1 the whole context. May be
    /// larger than any context.
    pub repeat_last_n: i32,
    /// GBNF the output must match; never together with `json_schema`.
    pub grammar: Option<String>,
    /// Schema the output must match, always an object.
    pub json_schema: Option<Value>,
    /// Added to the logits of tokens, in order of the token ids, each once.
    pub logit_bias: Vec<(u32, f32)>,
    /// Go on after end-of-generation tokens; `max_tokens` is then not 0.
    pub ignore_eos: bool,
    /// Whether control-token text of the client becomes control tokens.
    pub parse_special: bool,
    /// Text between the elements of `input`.
    pub input_separator: String,
    /// Whether equal beginnings of prompts may be shared.
    pub cache_prompt: bool,
    /// Whether the prompt is to be kept for later requests.
    pub cache_pin: bool,
    /// Only requests of the same salt share.
    pub cache_salt: String,
    /// LoRA adapters by file name, with their scales, in order of the names. The
    /// names are such as [`check_model_name`] accepts.
    pub lora: Vec<(String, f32)>,
    /// True when request or configuration set `repeat_penalty`.
    pub repeat_penalty_set: bool,
}

impl ResolvedOptions {
    /// The repeat penalty to sample with. A default that nobody chose would bend
    /// a constrained output (the braces of JSON repeat), so it is off then.
    pub fn effective_repeat_penalty(&self) -> f32 {
        let constrained = self.grammar.is_some() || self.json_schema.is_some();
        if constrained && !self.repeat_penalty_set { 1.0 } else { self.repeat_penalty }
    }
}

impl Default for ResolvedOptions {
    /// The defaults of the table; a test compares the two.
    fn default() -> Self {
        Self {
            model: None,
            ctx_size: 4096,
            repeat_penalty: 1.1,
            temperature: 0.8,
            top_k: 40,
            top_p: 0.9,
            tfs_z: 1.0,
            typical_p: 1.0,
            mirostat: 0,
            mirostat_tau: 5.0,
            mirostat_eta: 0.1,
            penalize_newline: true,
            seed: 0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            instructions: String::new(),
            stop: Vec::new(),
            max_tokens: 0,
            min_p: 0.0,
            repeat_last_n: 64,
            grammar: None,
            json_schema: None,
            logit_bias: Vec::new(),
            ignore_eos: false,
            parse_special: false,
            input_separator: String::new(),
            cache_prompt: true,
            cache_pin: false,
            cache_salt: String::new(),
            lora: Vec::new(),
            repeat_penalty_set: false,
        }
    }
}

/// Below this a positive temperature divides logits beyond what a float holds;
/// the limit it approaches is the likeliest token, which 0 stands for.
const MIN_TEMPERATURE: f32 = 1e-5;

/// Resolves the options of a request.
///
/// `allow_grammar` says whether this request may bring a grammar of its own; see
/// [`grammar_set_by_hook`](super::grammar_set_by_hook) for requests that hooks
/// have changed. A grammar or schema of the request replaces a configured one of
/// either kind; both in the request are refused.
pub fn resolve(
    request: &Options,
    defaults: &OptionDefaults,
    allow_grammar: bool,
) -> Result<ResolvedOptions, OptionError> {
    let mut options = ResolvedOptions::default();
    for spec in OPTIONS {
        if let Some(value) = request.get(spec.name).or_else(|| defaults.values.get(spec.name)) {
            spec.apply(value, &mut options)?;
        }
    }
    let own_grammar = options.grammar.is_some() && request.get("grammar").is_some();
    let own_schema = options.json_schema.is_some() && request.get("json_schema").is_some();
    if own_grammar && !allow_grammar {
        return Err(OptionError::named("grammar", "is not allowed by this worker"));
    }
    if own_grammar && !own_schema {
        options.json_schema = None;
    }
    if own_schema && !own_grammar {
        options.grammar = None;
    }
    if options.grammar.is_some() && options.json_schema.is_some() {
        return Err(OptionError::named("grammar", "cannot be used together with json_schema"));
    }
    if options.ignore_eos && options.max_tokens == 0 {
        return Err(OptionError::named(
            "ignore_eos",
            "needs max_tokens, else the output would not end",
        ));
    }
    if options.temperature > 0.0 && options.temperature < MIN_TEMPERATURE {
        options.temperature = 0.0;
    }
    options.repeat_penalty_set =
        request.get("repeat_penalty").is_some() || defaults.is_set("repeat_penalty");
    Ok(options)
}

/// Which model to load for a request. Only the init options are looked at: the
/// others may still be changed by hooks, which run after the load.
pub fn model_choice(
    request: &Options,
    defaults: &OptionDefaults,
) -> Result<InitOptions, OptionError> {
    let mut options = ResolvedOptions::default();
    for spec in OPTIONS.iter().filter(|spec| spec.init) {
        if let Some(value) = request.get(spec.name).or_else(|| defaults.values.get(spec.name)) {
            spec.apply(value, &mut options)?;
        }
    }
    Ok(InitOptions { model: options.model, ctx_size: options.ctx_size })
}

/// The option entries of `list`: the 13 of a Go worker, then, with `extras`, the
/// others. `grammar` is left out when clients may not set it.
pub fn list_options(
    defaults: &OptionDefaults,
    allow_grammar: bool,
    extras: bool,
) -> Vec<ModelOption> {
    let shown = |spec: &&OptionSpec| {
        (extras || spec.group == OptionGroup::Listed13) && (allow_grammar || spec.name != "grammar")
    };
    let entry = |spec: &OptionSpec| ModelOption {
        name: spec.name.to_owned(),
        value: defaults.value(spec),
        use_text: spec.use_text.to_owned(),
        init: spec.init,
    };
    OPTIONS.iter().filter(shown).map(entry).collect()
}
