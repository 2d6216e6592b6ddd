//! Where a prompt comes from, and the request it becomes.

use std::io::{self, IsTerminal, Read};

use llamero_protocol::{Message, OPTIONS, Options, PredictRequest};
use serde_json::Value;

use crate::args::PredictArgs;
use crate::exit::{Exit, Failure};
use crate::values::OptionArg;

/// The most bytes read from standard input: the largest message that a NATS
/// server can be configured to accept (`max_payload` is at most 64 MiB).
pub const MAX_STDIN_BYTES: u64 = 64 * 1024 * 1024;

/// The prompt: the words of the command line, or all of standard input.
///
/// # Errors
/// Standard input cannot be read, is too long or is not UTF-8, or the prompt is
/// empty.
pub fn read(words: &[String]) -> Result<String, Failure> {
    let from_stdin = matches!(words, [] | [_]) && words.iter().all(|word| word == "-");
    let prompt = if from_stdin {
        let stdin = io::stdin().lock();
        if stdin.is_terminal() {
            crate::output::note("reading the prompt from the terminal; end it with Ctrl-D");
        }
        read_stdin(stdin)?
    } else {
        words.join(" ")
    };
    if prompt.is_empty() {
        return Err(Failure::new(Exit::Usage, "the prompt is empty")
            .with_hint("write it behind the command or pipe it in: echo Hello | llamero predict"));
    }
    Ok(prompt)
}

/// All of an input, which has to be text of a bounded length.
///
/// # Errors
/// It cannot be read, is too long or is not UTF-8.
pub fn read_stdin(input: impl Read) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    input.take(MAX_STDIN_BYTES + 1).read_to_end(&mut bytes).map_err(|error| {
        Failure::new(Exit::Failure, format!("standard input cannot be read: {error}"))
    })?;
    if bytes.len() as u64 > MAX_STDIN_BYTES {
        return Err(Failure::new(
            Exit::Usage,
            format!("standard input is longer than {MAX_STDIN_BYTES} bytes"),
        )
        .with_hint("no NATS server accepts messages above 64 MiB; shorten the text"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::new(
            Exit::Usage,
            format!("standard input is not UTF-8: invalid byte at offset {at}"),
        )
        .with_hint("convert it first, for example with iconv -f latin1 -t utf-8")
    })
}

/// The request that the flags and the prompt mean. The stream subject is left
/// to [`crate::client`].
pub fn request(args: &PredictArgs, prompt: String) -> PredictRequest {
    let mut options: Vec<(String, Value)> =
        args.options.iter().map(|option| (option.name.clone(), option.value.clone())).collect();
    if let Some(model) = &args.model {
        options.push(("model".to_owned(), Value::String(model.clone())));
    }
    let mut request = PredictRequest {
        options: options.into_iter().collect::<Options>(),
        ..PredictRequest::default()
    };
    if args.chat {
        if let Some(system) = &args.system {
            request.messages.push(message("system", system));
        }
        request.messages.push(message("user", &prompt));
    } else {
        request.system = args.system.clone().unwrap_or_default();
        request.input = vec![prompt];
    }
    request
}

fn message(role: &str, content: &str) -> Message {
    Message { role: role.to_owned(), content: content.to_owned() }
}

/// A warning for each option that the protocol does not know: workers ignore
/// such options silently, so a slip of the pen would go unnoticed.
pub fn unknown_options(options: &[OptionArg]) -> Vec<String> {
    options
        .iter()
        .filter(|option| !OPTIONS.iter().any(|spec| spec.name.eq_ignore_ascii_case(&option.name)))
        .map(|option| {
            let near = OPTIONS
                .iter()
                .map(|spec| spec.name)
                .filter(|name| distance(name, &option.name) <= 2)
                .min_by_key(|name| distance(name, &option.name));
            match near {
                Some(near) => format!(
                    "option {} is unknown and has no effect; did you mean {near}?",
                    option.name
                ),
                None => format!("option {} is unknown and has no effect", option.name),
            }
        })
        .collect()
}

/// The number of single-character edits between two names (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use serde_json::json;

    fn args(system: Option<&str>, chat: bool) -> PredictArgs {
        PredictArgs {
            chat,
            system: system.map(str::to_owned),
            model: Some("m.gguf".to_owned()),
            options: vec![OptionArg { name: "seed".to_owned(), value: json!(7) }],
            ..PredictArgs::default()
        }
    }

    #[test]
    fn words_are_joined() {
        let words = ["The", "capital", "-"].map(str::to_owned);
        assert_eq!(read(&words).unwrap(), "The capital -");
    }

    #[test]
    fn an_empty_prompt_is_a_usage_error() {
        let failure = read(&[String::new()]).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.hint.is_some());
    }

    #[test]
    fn stdin_must_be_utf8_and_bounded() {
        assert_eq!(read_stdin("Grüße\n".as_bytes()).unwrap(), "Grüße\n");
        let failure = read_stdin(&b"ab\xff"[..]).unwrap_err();
        assert!(failure.message.contains("offset 2"), "{failure}");
        let failure = read_stdin(io::repeat(b'a').take(MAX_STDIN_BYTES + 1)).unwrap_err();
        assert!(failure.message.contains("longer than"), "{failure}");
        assert_eq!(failure.exit, Exit::Usage);
    }

    #[test]
    fn plain_prompts_are_input_behind_kept_text() {
        let request = request(&args(Some("S"), false), "P".to_owned());
        assert_eq!(request.system, "S");
        assert_eq!(request.input, ["P"]);
        assert!(request.messages.is_empty());
        assert_eq!(request.options.get("seed"), Some(&json!(7)));
        assert_eq!(request.options.get("model"), Some(&json!("m.gguf")));
    }

    #[test]
    fn chat_prompts_are_messages() {
        let request = request(&args(Some("S"), true), "P".to_owned());
        assert!(request.system.is_empty() && request.input.is_empty());
        assert_eq!(request.messages, [message("system", "S"), message("user", "P")]);
    }

    #[test]
    fn unknown_options_are_noticed() {
        let options = ["temprature", "Seed", "colour"]
            .map(|name| OptionArg { name: name.to_owned(), value: json!(1) });
        let warnings = unknown_options(&options);
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].contains("did you mean temperature?"), "{warnings:?}");
        assert!(warnings[1].ends_with("no effect"), "{warnings:?}");
    }
}
