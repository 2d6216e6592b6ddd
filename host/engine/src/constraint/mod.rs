//! What an output must match, and how that is kept.
//!
//! Both kinds of constraint end in one matcher of llguidance, which parses in
//! polynomial time and has limits of its own; llama.cpp's grammar code is never
//! given a client's grammar. [`gbnf`] reads grammars, [`gbnf_check`] refuses
//! costly ones, [`lark`] rewrites the rest; [`schema_check`] refuses costly schemas;
//! and [`matcher`] is what sampling asks. Whether a client may set a constraint at all is the worker's decision.

mod gbnf;
mod gbnf_check;
mod lark;
pub(crate) mod matcher;
mod schema_check;

use std::fmt;
use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::TokEnv;
use llguidance::{Matcher, ParserFactory};

use crate::config::ConstraintLimits;
use crate::error::ConstraintError;
use crate::vocabulary::Vocabulary;
use matcher::OutputMatcher;

/// Room on the stack for compiling: rules and schemas nest.
const COMPILE_STACK: usize = 64 * 1024 * 1024;

/// White space between the parts of JSON. Small models that run out of ideas
/// would go on with it for ever if it had no end.
const WHITESPACE: &str = r"[ \n\r\t]{1,64}";

/// A rule for the output, as a client writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Constraint {
    /// A grammar in llama.cpp's GBNF; the start rule is `root`.
    Grammar(String),
    /// A JSON schema, as JSON text.
    JsonSchema(String),
}

/// A constraint that is ready for use by one model. Clones are cheap, and every
/// job that takes one begins at the start.
#[derive(Clone)]
pub struct CompiledConstraint {
    matcher: Arc<Matcher>,
    /// The model it was compiled for; also keeps its vocabulary.
    vocabulary: Arc<Vocabulary>,
}

impl CompiledConstraint {
    /// A matcher at the start, independent of all others.
    pub(crate) fn start(&self) -> OutputMatcher {
        OutputMatcher::new(self.matcher.deep_clone())
    }

    /// Whether it was compiled for the model with this vocabulary.
    pub(crate) fn is_for(&self, vocabulary: &Arc<Vocabulary>) -> bool {
        Arc::ptr_eq(&self.vocabulary, vocabulary)
    }
}

impl fmt::Debug for CompiledConstraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledConstraint").finish_non_exhaustive()
    }
}

/// Compiles constraints for one model.
pub(crate) struct Compiler {
    factory: ParserFactory,
    limits: ConstraintLimits,
}

impl fmt::Debug for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiler").finish_non_exhaustive()
    }
}

impl Compiler {
    /// Takes hundreds of milliseconds for a large vocabulary; do it once.
    pub(crate) fn new(env: &TokEnv, limits: &ConstraintLimits) -> Result<Self, String> {
        let mut factory = ParserFactory::new_simple(env).map_err(|e| e.to_string())?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            max_grammar_size: limits.max_symbols,
            step_max_items: limits.max_step_items,
            // The texts of errors go to clients: no grammar, no output in them.
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(Self { factory, limits: limits.clone() })
    }

    /// Compiles on a thread of its own, whose stack is large enough.
    pub(crate) fn compile(
        &self,
        vocabulary: &Arc<Vocabulary>,
        constraint: &Constraint,
    ) -> Result<CompiledConstraint, ConstraintError> {
        let failed = |text: String| match constraint {
            Constraint::Grammar(_) => ConstraintError::Grammar(text),
            Constraint::JsonSchema(_) => ConstraintError::Schema(text),
        };
        std::thread::scope(|scope| {
            std::thread::Builder::new()
                .name("llamero-compile".to_string())
                .stack_size(COMPILE_STACK)
                .spawn_scoped(scope, || self.compile_here(vocabulary, constraint))
                .map_err(|e| failed(format!("no thread to compile on: {e}")))?
                .join()
                .unwrap_or_else(|_| Err(failed("the compiler failed".to_string())))
        })
    }

    fn compile_here(
        &self,
        vocabulary: &Arc<Vocabulary>,
        constraint: &Constraint,
    ) -> Result<CompiledConstraint, ConstraintError> {
        let top = match constraint {
            Constraint::Grammar(text) => {
                let grammar = gbnf::parse(text, &self.limits)?;
                let lark = lark::write(&grammar, vocabulary.n_vocab(), |token| {
                    vocabulary.token_by_text(token)
                })
                .map_err(ConstraintError::Grammar)?;
                TopLevelGrammar::from_lark(lark)
            }
            Constraint::JsonSchema(text) => {
                TopLevelGrammar::from_json_schema(self.read_schema(text)?)
            }
        };
        let failed = |text: String| {
            let text = first_line(&text);
            match constraint {
                Constraint::Grammar(_) => ConstraintError::Grammar(text),
                Constraint::JsonSchema(_) => ConstraintError::Schema(text),
            }
        };
        let mut parser = self.factory.create_parser(top).map_err(|e| failed(e.to_string()))?;
        parser.start_without_prompt();
        let mut matcher = Matcher::new(Ok(parser));
        // A grammar that allows nothing is better refused now than at the
        // first token.
        matcher.compute_mask_or_eos().map_err(|e| failed(e.to_string()))?;
        Ok(CompiledConstraint { matcher: Arc::new(matcher), vocabulary: Arc::clone(vocabulary) })
    }

    fn read_schema(&self, text: &str) -> Result<serde_json::Value, ConstraintError> {
        let limit = |what, limit| ConstraintError::Limit { kind: "json_schema", what, limit };
        if text.len() > self.limits.max_bytes {
            return Err(limit("size in bytes", self.limits.max_bytes));
        }
        let mut schema: serde_json::Value =
            serde_json::from_str(text).map_err(|e| ConstraintError::Schema(e.to_string()))?;
        if depth(&schema) > self.limits.max_depth {
            return Err(limit("nesting", self.limits.max_depth));
        }
        schema_check::check(&schema, &self.limits)?;
        let Some(members) = schema.as_object_mut() else {
            return Err(ConstraintError::Schema("must be an object".to_string()));
        };
        members
            .entry("x-guidance")
            .or_insert_with(|| serde_json::json!({ "whitespace_pattern": WHITESPACE }));
        Ok(schema)
    }
}

/// How deep the value nests. serde_json reads at most 128 levels, so this ends.
fn depth(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        serde_json::Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// llguidance appends the source and a backtrace to its messages.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(300).collect()
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
