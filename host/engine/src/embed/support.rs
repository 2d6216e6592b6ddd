//! What a model's file says about vectors.

use llama_cpp_2::model::LlamaModel;

use crate::ffi::Pooling;

/// How the vectors of a text's tokens become one.
///
/// # Errors
/// Why the model cannot give vectors.
pub(crate) fn pooling(weights: &LlamaModel) -> Result<Pooling, &'static str> {
    named(of_architecture(weights, "pooling_type").as_deref())
}

/// The numbers are llama.cpp's (`llama_pooling_type`), as files carry them.
fn named(number: Option<&str>) -> Result<Pooling, &'static str> {
    match number {
        // None, or no pooling at all: models that were made to generate.
        None | Some("0" | "1") => Ok(Pooling::Mean),
        Some("2") => Ok(Pooling::Cls),
        Some("3") => Ok(Pooling::Last),
        Some("4") => Err("it ranks texts, which gives no vectors"),
        Some(_) => Err("its file names a pooling that is not known"),
    }
}

/// Whether a token sees only those before it. Models of which that is not true
/// read texts; they cannot go on with one.
pub(crate) fn is_causal(weights: &LlamaModel) -> bool {
    of_architecture(weights, "attention.causal").as_deref() != Some("false")
}

fn of_architecture(weights: &LlamaModel, key: &str) -> Option<String> {
    let architecture = weights.meta_val_str("general.architecture").ok()?;
    weights.meta_val_str(&format!("{architecture}.{key}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pooling_of_a_file() {
        for number in [None, Some("0"), Some("1")] {
            assert_eq!(named(number), Ok(Pooling::Mean));
        }
        assert_eq!(named(Some("2")), Ok(Pooling::Cls));
        assert_eq!(named(Some("3")), Ok(Pooling::Last));
        assert!(named(Some("4")).is_err());
        assert!(named(Some("-1")).is_err());
    }
}
