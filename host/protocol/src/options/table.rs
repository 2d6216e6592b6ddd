//! The option table: every option a request may set, in wire order, with
//! default, type, range and help text. Nothing else in the program lists them.
//!
//! Reading a value by its type is `kind`, laying request over configuration is
//! `resolve`.

use serde_json::{Value, json};

use DefaultValue::{Bool, EmptyList, EmptyObject, Float, Int, Null, Text};

use super::kind::{Kind, MAX_GRAMMAR_BYTES, MAX_SALT_BYTES, MAX_SHIFT};
use super::{OptionError, ResolvedOptions};

/// One row of the table.
pub struct OptionSpec {
    /// The name in requests, in the configuration file, and behind the prefix of
    /// the environment.
    pub name: &'static str,
    /// Help text for people.
    pub use_text: &'static str,
    /// What applies when neither request nor configuration sets it.
    pub default: DefaultValue,
    /// True when the option decides which model is loaded and how. Such an option
    /// is found by its exact name only, and fails with code 10 instead of 7.
    pub init: bool,
    /// Where it comes from.
    pub group: OptionGroup,
    pub(super) kind: Kind,
}

/// Where an option comes from, which decides when `list` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OptionGroup {
    /// One of the 13 that a Go worker lists.
    Listed13,
    /// Accepted by a Go worker, which does not list it.
    Accepted,
    /// Added by Llamero. A Go worker ignores it.
    Extension,
}

/// A default, in a form that a table can hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DefaultValue {
    /// A text.
    Text(&'static str),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// No entries.
    EmptyList,
    /// No members.
    EmptyObject,
    /// Nothing.
    Null,
}

impl DefaultValue {
    /// The default as `list` shows it. Whole numbers are written without a
    /// fraction, as Go does.
    pub fn to_value(self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Int(number) => json!(number),
            Self::Float(number) if number.fract() == 0.0 => json!(number as i64),
            Self::Float(number) => json!(number),
            Self::Bool(value) => json!(value),
            Self::EmptyList => json!([]),
            Self::EmptyObject => json!({}),
            Self::Null => Value::Null,
        }
    }
}

impl OptionSpec {
    /// The type in words, such as `int` or `list of strings`.
    pub fn type_name(&self) -> &'static str {
        self.kind.name()
    }

    /// Checks that `value` has the type and range of this option. `null` is the
    /// default and always right.
    pub fn check(&self, value: &Value) -> Result<(), OptionError> {
        self.apply(value, &mut ResolvedOptions::default())
    }

    pub(super) fn apply(
        &self,
        value: &Value,
        target: &mut ResolvedOptions,
    ) -> Result<(), OptionError> {
        if value.is_null() {
            return Ok(());
        }
        self.kind.apply(value, target).map_err(|reason| OptionError::new(self, reason))
    }

    const fn listed(
        name: &'static str,
        default: DefaultValue,
        kind: Kind,
        use_text: &'static str,
    ) -> Self {
        Self { name, use_text, default, init: false, group: OptionGroup::Listed13, kind }
    }

    const fn init(
        name: &'static str,
        default: DefaultValue,
        kind: Kind,
        use_text: &'static str,
    ) -> Self {
        Self { init: true, ..Self::listed(name, default, kind, use_text) }
    }

    const fn accepted(
        name: &'static str,
        default: DefaultValue,
        kind: Kind,
        use_text: &'static str,
    ) -> Self {
        Self { group: OptionGroup::Accepted, ..Self::listed(name, default, kind, use_text) }
    }

    const fn extension(
        name: &'static str,
        default: DefaultValue,
        kind: Kind,
        use_text: &'static str,
    ) -> Self {
        Self { group: OptionGroup::Extension, ..Self::listed(name, default, kind, use_text) }
    }
}

impl std::fmt::Debug for OptionSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OptionSpec")
            .field("name", &self.name)
            .field("type", &self.type_name())
            .finish_non_exhaustive()
    }
}

/// The row of an option, by the case rule: any case for ordinary options, the
/// exact name for init options. Names without a row have no effect on a
/// prediction and must be dropped before hooks see the options.
pub fn known_option(name: &str) -> Option<&'static OptionSpec> {
    OPTIONS
        .iter()
        .find(|spec| spec.name == name || (!spec.init && spec.name.eq_ignore_ascii_case(name)))
}

const INT_MAX: i64 = i32::MAX as i64;
const INT_MIN: i64 = i32::MIN as i64;

/// Any text; the size of a NATS message bounds it.
const fn text(set: fn(&mut ResolvedOptions, String)) -> Kind {
    Kind::Text { max_bytes: usize::MAX, set }
}

const fn int(min: i64, max: i64, set: fn(&mut ResolvedOptions, i64)) -> Kind {
    Kind::Int { min, max, set }
}

const fn float(min: f32, max: f32, set: fn(&mut ResolvedOptions, f32)) -> Kind {
    Kind::Float { min, max, set }
}

/// The table, in the order of the wire.
///
/// The casts in it cannot lose anything: the range beside each has been checked
/// when the function runs. Ranges that the meaning of an option gives
/// (probabilities, versions, counts) are as narrow as it; the others only keep
/// the sampler's arithmetic finite. So a `repeat_penalty` of 0 is refused: logits are
/// divided by it, which llama.cpp does without a word, so that nothing but tokens seen
/// recently would come. It means "off" nowhere, that is 1.
pub static OPTIONS: &[OptionSpec] = &[
    OptionSpec::init(
        "model",
        Text(""),
        text(|o, v| o.model = Some(v).filter(|name| !name.is_empty())),
        "Name of the model file.",
    ),
    OptionSpec::init(
        "ctx_size",
        Int(4096),
        int(1, INT_MAX, |o, v| o.ctx_size = v as u32),
        "Size of the context, in tokens.",
    ),
    OptionSpec::listed(
        "repeat_penalty",
        Float(1.1),
        float(1e-3, 1e3, |o, v| o.repeat_penalty = v),
        "Penalty on tokens seen recently; 1.0 turns it off, above 1.0 repeats less, 0 is no value.",
    ),
    OptionSpec::listed(
        "temperature",
        Float(0.8),
        float(f32::MIN, f32::MAX, |o, v| o.temperature = v),
        "Randomness of the output; 0 or less takes the likeliest token.",
    ),
    OptionSpec::listed(
        "top_k",
        Int(40),
        int(INT_MIN, INT_MAX, |o, v| o.top_k = v as i32),
        "Sample from the K likeliest tokens only; 0 or less: all.",
    ),
    OptionSpec::listed(
        "top_p",
        Float(0.9),
        float(0.0, 1.0, |o, v| o.top_p = v),
        "Sample from the likeliest tokens whose probabilities add up to P.",
    ),
    OptionSpec::listed(
        "tfs_z",
        Float(1.0),
        float(f32::MIN, f32::MAX, |o, v| o.tfs_z = v),
        "Tail-free sampling; accepted, without effect.",
    ),
    OptionSpec::listed(
        "typical_p",
        Float(1.0),
        float(0.0, 1.0, |o, v| o.typical_p = v),
        "Locally typical sampling; 1 turns it off.",
    ),
    OptionSpec::listed(
        "mirostat",
        Int(0),
        int(0, 2, |o, v| o.mirostat = v as u8),
        "Mirostat sampling: 0 off, 1 first version, 2 second version.",
    ),
    OptionSpec::listed(
        "mirostat_tau",
        Float(5.0),
        float(0.0, 100.0, |o, v| o.mirostat_tau = v),
        "Mirostat target entropy; unused when mirostat is 0.",
    ),
    OptionSpec::listed(
        "mirostat_eta",
        Float(0.1),
        float(0.0, 100.0, |o, v| o.mirostat_eta = v),
        "Mirostat learning rate; unused when mirostat is 0.",
    ),
    OptionSpec::listed(
        "penalize_newline",
        Bool(true),
        Kind::Bool { set: |o, v| o.penalize_newline = v },
        "Whether the penalties apply to the newline token.",
    ),
    OptionSpec::listed(
        "seed",
        Int(0),
        int(0, u32::MAX as i64, |o, v| o.seed = v as u32),
        "Random seed; 0 draws a new one for each request.",
    ),
    OptionSpec::accepted(
        "frequency_penalty",
        Float(0.0),
        float(-MAX_SHIFT, MAX_SHIFT, |o, v| o.frequency_penalty = v),
        "Subtracted from a token's logit for each time it was seen recently; 0 turns it off.",
    ),
    OptionSpec::accepted(
        "presence_penalty",
        Float(0.0),
        float(-MAX_SHIFT, MAX_SHIFT, |o, v| o.presence_penalty = v),
        "Subtracted from a token's logit once if it was seen recently; 0 turns it off.",
    ),
    OptionSpec::accepted(
        "instructions",
        Text(""),
        text(|o, v| o.instructions = v),
        "Text kept at the beginning of the prompt, after the system text.",
    ),
    OptionSpec::accepted(
        "stop",
        EmptyList,
        Kind::Strings { set: |o, v| o.stop = v },
        "Texts that end the output when they would appear in it.",
    ),
    OptionSpec::extension(
        "max_tokens",
        Int(0),
        int(0, INT_MAX, |o, v| o.max_tokens = v as u32),
        "Most tokens to generate; 0 sets no limit but the context.",
    ),
    OptionSpec::extension(
        "min_p",
        Float(0.0),
        float(0.0, 1.0, |o, v| o.min_p = v),
        "Drop tokens less likely than this share of the likeliest; 0 turns it off.",
    ),
    OptionSpec::extension(
        "repeat_last_n",
        Int(64),
        int(-1, INT_MAX, |o, v| o.repeat_last_n = v as i32),
        "How many recent tokens the penalties look at; 0 none, -1 the whole context.",
    ),
    OptionSpec::extension(
        "grammar",
        Text(""),
        Kind::Text {
            max_bytes: MAX_GRAMMAR_BYTES,
            set: |o, v| o.grammar = Some(v).filter(|text| !text.is_empty()),
        },
        "GBNF grammar the output must match.",
    ),
    OptionSpec::extension(
        "json_schema",
        Null,
        Kind::Schema { set: |o, v| o.json_schema = v },
        "JSON schema the output must match; not together with grammar.",
    ),
    OptionSpec::extension(
        "logit_bias",
        EmptyObject,
        Kind::Biases { set: |o, v| o.logit_bias = v },
        "Numbers added to the logits of tokens, by token id.",
    ),
    OptionSpec::extension(
        "ignore_eos",
        Bool(false),
        Kind::Bool { set: |o, v| o.ignore_eos = v },
        "Go on after end-of-generation tokens; needs max_tokens.",
    ),
    OptionSpec::extension(
        "parse_special",
        Bool(false),
        Kind::Bool { set: |o, v| o.parse_special = v },
        "Let control-token text in system, instructions and input become control tokens.",
    ),
    OptionSpec::extension(
        "input_separator",
        Text(""),
        text(|o, v| o.input_separator = v),
        "Text put between the elements of input.",
    ),
    OptionSpec::extension(
        "cache_prompt",
        Bool(true),
        Kind::Bool { set: |o, v| o.cache_prompt = v },
        "Share the beginning of the prompt with other requests instead of computing it again.",
    ),
    OptionSpec::extension(
        "cache_pin",
        Bool(false),
        Kind::Bool { set: |o, v| o.cache_pin = v },
        "Keep this prompt in the prefix cache before all that is not pinned.",
    ),
    OptionSpec::extension(
        "cache_salt",
        Text(""),
        Kind::Text { max_bytes: MAX_SALT_BYTES, set: |o, v| o.cache_salt = v },
        "Share prompts only with requests of the same salt (and account).",
    ),
    OptionSpec::extension(
        "lora",
        EmptyObject,
        Kind::Adapters { set: |o, v| o.lora = v },
        "LoRA adapters of the models folder: a file name, or file names with their scales.",
    ),
];
