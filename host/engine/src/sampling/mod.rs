//! How the next token of a job is chosen from its logits.
//!
//! The order is the wire protocol's: logit bias and penalties, constraint, then
//! the likeliest token, or mirostat, or top-k, typical, top-p, min-p,
//! temperature and a draw. [`penalties`] and [`select`] work on the logits
//! themselves; only the few candidates that are left go through llama.cpp's
//! samplers. Of those, nothing that can throw is called: `apply` on candidates
//! that were checked before, never `sample` or `accept`.

mod check;
mod penalties;
mod select;

use std::hash::{BuildHasher, Hasher};

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use crate::constraint::matcher::OutputMatcher;
use crate::error::GenerationError;
use crate::job::Sampling;

pub(crate) use check::check;
use penalties::Penalties;

/// Candidates this far below the best are left out before samplers that take
/// logarithms of probabilities: theirs would be zero (e^-60 is 1e-26).
const NEGLIGIBLE: f32 = 60.0;

/// What sampling has to know about a vocabulary.
#[derive(Debug, Clone)]
pub(crate) struct Tokens {
    pub(crate) n_vocab: u32,
    /// Every token that ends a generation.
    pub(crate) eog: Vec<u32>,
    pub(crate) newline: Option<u32>,
}

/// Chooses the tokens of one job; its draws do not depend on other jobs.
#[derive(Debug)]
pub(crate) struct Sampler {
    bias: Vec<(u32, f32)>,
    penalties: Penalties,
    method: Method,
    constraint: Option<OutputMatcher>,
    eog: Vec<u32>,
}

#[derive(Debug)]
enum Method {
    Greedy,
    Mirostat {
        temperature: f32,
        sampler: LlamaSampler,
    },
    Draw {
        top_k: usize,
        narrow: Vec<LlamaSampler>,
        typical: bool,
        temperature: f32,
        dist: LlamaSampler,
    },
}

impl Sampler {
    /// For options that passed [`check()`].
    pub(crate) fn new(
        options: &Sampling,
        tokens: &Tokens,
        constraint: Option<OutputMatcher>,
    ) -> Self {
        let mut bias = options.logit_bias.clone();
        if options.ignore_eos {
            bias.extend(tokens.eog.iter().map(|token| (*token, f32::NEG_INFINITY)));
        }
        Self {
            bias,
            penalties: Penalties::new(options, tokens.newline),
            method: Method::new(options, tokens),
            constraint,
            eog: tokens.eog.clone(),
        }
    }

    /// Chooses a token and takes it into account. `history` are all tokens so
    /// far, prompt included. The logits are changed.
    pub(crate) fn next(
        &mut self,
        logits: &mut [f32],
        history: &[u32],
    ) -> Result<u32, GenerationError> {
        self.adjust(logits, history);
        let token = match &mut self.constraint {
            None => self.method.choose(logits)?,
            // Masking the whole vocabulary costs far more than looking at one
            // token, and models mostly obey. Mirostat learns from every choice,
            // so it must not be asked twice.
            Some(constraint) if !matches!(self.method, Method::Mirostat { .. }) => {
                let first = self.method.choose(logits)?;
                if allows(constraint, &self.eog, first)? {
                    first
                } else {
                    mask(constraint, logits)?;
                    self.method.choose(logits)?
                }
            }
            Some(constraint) => {
                mask(constraint, logits)?;
                self.method.choose(logits)?
            }
        };
        self.accept(token)?;
        Ok(token)
    }

    /// Makes the logits what [`Self::choose`] draws from: bias, penalties and
    /// constraint applied. Returns the `k` best with the logarithms of their
    /// probabilities.
    pub(crate) fn candidates(
        &mut self,
        logits: &mut [f32],
        history: &[u32],
        k: usize,
    ) -> Result<Vec<(u32, f32)>, GenerationError> {
        self.adjust(logits, history);
        if let Some(constraint) = &mut self.constraint {
            mask(constraint, logits)?;
        }
        let mut best = select::top_k(logits, k.max(1))?;
        let greatest = best.first().map_or(0.0, |candidate| candidate.1);
        let sum: f64 = logits.iter().map(|logit| f64::from(logit - greatest).exp()).sum();
        for candidate in &mut best {
            candidate.1 = (f64::from(candidate.1 - greatest) - sum.ln()) as f32;
        }
        Ok(best)
    }

    /// Chooses from logits that went through [`Self::candidates`], and takes the
    /// token into account.
    pub(crate) fn choose(&mut self, logits: &[f32]) -> Result<u32, GenerationError> {
        let token = self.method.choose(logits)?;
        self.accept(token)?;
        Ok(token)
    }

    /// Takes a token that was not chosen; false if the constraint refuses it.
    pub(crate) fn force(&mut self, token: u32) -> Result<bool, GenerationError> {
        if let Some(constraint) = &mut self.constraint
            && !allows(constraint, &self.eog, token)?
        {
            return Ok(false);
        }
        self.accept(token)?;
        Ok(true)
    }

    fn adjust(&mut self, logits: &mut [f32], history: &[u32]) {
        for (token, bias) in &self.bias {
            if let Some(logit) = logits.get_mut(*token as usize) {
                *logit += bias;
            }
        }
        self.penalties.apply(logits, history);
    }

    fn accept(&mut self, token: u32) -> Result<(), GenerationError> {
        match &mut self.constraint {
            Some(constraint) if !self.eog.contains(&token) => constraint.accept(token),
            _ => Ok(()),
        }
    }

    /// Whether a constraint says that nothing more can follow.
    pub(crate) fn is_finished(&self) -> bool {
        self.constraint.as_ref().is_some_and(OutputMatcher::is_finished)
    }
}

fn allows(
    constraint: &mut OutputMatcher,
    eog: &[u32],
    token: u32,
) -> Result<bool, GenerationError> {
    if eog.contains(&token) { constraint.may_end() } else { constraint.allows(token) }
}

fn mask(constraint: &mut OutputMatcher, logits: &mut [f32]) -> Result<(), GenerationError> {
    let mask = constraint.mask()?;
    for (token, logit) in (0u32..).zip(logits.iter_mut()) {
        if !mask.is_allowed(token) {
            *logit = f32::NEG_INFINITY;
        }
    }
    Ok(())
}

impl Method {
    fn new(options: &Sampling, tokens: &Tokens) -> Self {
        if options.temperature <= 0.0 {
            return Self::Greedy;
        }
        let seed = seed(options.seed);
        let n_vocab = i32::try_from(tokens.n_vocab).unwrap_or(i32::MAX);
        let (tau, eta) = (options.mirostat_tau, options.mirostat_eta);
        // 100 candidates for the estimate, as llama.cpp's own programs do.
        match options.mirostat {
            1 => {
                return Self::Mirostat {
                    temperature: options.temperature,
                    sampler: LlamaSampler::mirostat(n_vocab, seed, tau, eta, 100),
                };
            }
            2 => {
                return Self::Mirostat {
                    temperature: options.temperature,
                    sampler: LlamaSampler::mirostat_v2(seed, tau, eta),
                };
            }
            _ => {}
        }
        let typical = options.typical_p < 1.0;
        let mut narrow = Vec::new();
        if typical {
            narrow.push(LlamaSampler::typical(options.typical_p, 1));
        }
        if options.top_p < 1.0 {
            narrow.push(LlamaSampler::top_p(options.top_p, 1));
        }
        if options.min_p > 0.0 {
            narrow.push(LlamaSampler::min_p(options.min_p, 1));
        }
        Self::Draw {
            top_k: usize::try_from(options.top_k).unwrap_or(0),
            narrow,
            typical,
            temperature: options.temperature,
            dist: LlamaSampler::dist(seed),
        }
    }

    fn choose(&mut self, logits: &[f32]) -> Result<u32, GenerationError> {
        match self {
            Self::Greedy => select::likeliest(logits),
            Self::Mirostat { temperature, sampler } => {
                let mut candidates = select::top_k(logits, 0)?;
                cool(&mut candidates, *temperature);
                drop_negligible(&mut candidates);
                // With a single candidate mirostat divides zero by zero.
                if let [only] = candidates.as_slice() {
                    return Ok(only.0);
                }
                let mut array = to_array(&candidates);
                sampler.apply(&mut array);
                selected(&array)
            }
            Self::Draw { top_k, narrow, typical, temperature, dist } => {
                let mut candidates = select::top_k(logits, *top_k)?;
                if *typical {
                    drop_negligible(&mut candidates);
                }
                let mut array = to_array(&candidates);
                for sampler in narrow {
                    sampler.apply(&mut array);
                }
                let mut candidates: Vec<(u32, f32)> =
                    array.data.iter().map(|c| (c.id().0.cast_unsigned(), c.logit())).collect();
                candidates.sort_by(select::by_logit);
                cool(&mut candidates, *temperature);
                let mut array = to_array(&candidates);
                dist.apply(&mut array);
                selected(&array)
            }
        }
    }
}

/// Divides by the temperature. Taking the best logit away first changes no
/// probability, and keeps tiny temperatures from making infinities.
fn cool(candidates: &mut [(u32, f32)], temperature: f32) {
    let best = candidates.first().map_or(0.0, |c| c.1);
    for candidate in candidates {
        candidate.1 = (candidate.1 - best) / temperature;
    }
}

/// Candidates are in order of their logits.
fn drop_negligible(candidates: &mut Vec<(u32, f32)>) {
    let best = candidates.first().map_or(0.0, |c| c.1);
    let keep = candidates.partition_point(|c| c.1 >= best - NEGLIGIBLE);
    candidates.truncate(keep.max(1));
}

fn to_array(candidates: &[(u32, f32)]) -> LlamaTokenDataArray {
    let data = candidates
        .iter()
        .map(|(token, logit)| LlamaTokenData::new(LlamaToken(token.cast_signed()), *logit, 0.0))
        .collect();
    LlamaTokenDataArray::new(data, true)
}

fn selected(array: &LlamaTokenDataArray) -> Result<u32, GenerationError> {
    array
        .selected_token()
        .map(|token| token.0.cast_unsigned())
        .ok_or_else(|| GenerationError::Sampling("no token was chosen".to_string()))
}

/// A seed that llama.cpp takes as it is: its largest one means "any".
fn seed(seed: u32) -> u32 {
    let seed = if seed == 0 {
        // Randomly keyed for every instance by the standard library.
        let bits = std::collections::hash_map::RandomState::new().build_hasher().finish();
        (bits ^ (bits >> 32)) as u32
    } else {
        seed
    };
    seed.min(u32::MAX - 1)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
