//! What a returned verdict must satisfy beyond its type, and what it changes.
//!
//! Whatever is wrong here is the plugin's fault and files as `invalid-output`.
//! Option names and ranges are the protocol's business: the worker gives an
//! [`crate::OptionCheck`] for those.

use std::ops::Range;

use serde_json::Value;

use crate::bindings::v0_1::{
    OptionPatch, content_bytes, content_from_wit, option_bytes, prompt_bytes, prompt_from_wit,
    prompt_hook, request_hook, types,
};
use crate::config::Limits;
use crate::data::{Content, FieldChange, NewPrompt, Prompt, Request};

/// Longest name of an option or model. The protocol's names are far shorter.
const NAME_BYTES: usize = 1024;

/// Applies a patch to `request`.
pub(crate) fn apply(
    request: &Request,
    patch: request_hook::Patch,
    limits: &Limits,
) -> Result<Request, String> {
    let size = patch.model.as_ref().map_or(0, String::len)
        + patch.content.as_ref().map_or(0, content_bytes)
        + patch.options.iter().map(option_bytes).sum::<usize>();
    check_size("the patch", size, limits)?;

    let mut changed = request.clone();
    if let Some(model) = patch.model {
        check_name("the model name", &model)?;
        changed.model = model;
    }
    if let Some(content) = patch.content {
        changed.content = check_content(content_from_wit(content))?;
    }
    for (name, value) in parse_options(patch.options)? {
        set_option(&mut changed.options, name, value);
    }
    Ok(changed)
}

fn check_size(what: &str, size: usize, limits: &Limits) -> Result<(), String> {
    if size > limits.output_bytes {
        return Err(format!(
            "{what} has {size} bytes, limit `output_bytes` is {}",
            limits.output_bytes
        ));
    }
    Ok(())
}

fn check_name(what: &str, name: &str) -> Result<(), String> {
    if name.trim().is_empty() {
        return Err(format!("{what} is empty"));
    }
    if name.len() > NAME_BYTES {
        return Err(format!("{what} has {} bytes, the limit is {NAME_BYTES}", name.len()));
    }
    if name.chars().any(char::is_control) {
        return Err(format!("{what} contains a control character"));
    }
    Ok(())
}

fn check_content(content: Content) -> Result<Content, String> {
    if let Content::Chat(messages) = &content {
        if messages.is_empty() {
            return Err("the content is a conversation without messages".to_owned());
        }
        for message in messages {
            check_name("the role of a message", &message.role)?;
        }
    }
    Ok(content)
}

fn parse_options(options: Vec<types::OptionValue>) -> Result<Vec<OptionPatch>, String> {
    let mut parsed: Vec<OptionPatch> = Vec::with_capacity(options.len());
    for option in options {
        check_name("the name of an option", &option.name)?;
        let same = |(name, _): &OptionPatch| name.eq_ignore_ascii_case(&option.name);
        if parsed.iter().any(same) {
            return Err(format!("option `{}` is given twice", option.name));
        }
        let value: Value = serde_json::from_str(&option.json)
            .map_err(|error| format!("the value of option `{}`: {error}", option.name))?;
        parsed.push((option.name, Some(value).filter(|value| !value.is_null())));
    }
    Ok(parsed)
}

/// Sets or takes away an option. A client may have written the name in another
/// case, which means the same option.
fn set_option(options: &mut Vec<(String, Value)>, name: String, value: Option<Value>) {
    let same = |existing: &str| existing.eq_ignore_ascii_case(&name);
    let place = options.iter().position(|(existing, _)| same(existing));
    options.retain(|(existing, _)| !same(existing));
    if let Some(value) = value {
        let place = place.unwrap_or(options.len()).min(options.len());
        options.insert(place, (name, value));
    }
}

/// Checks text that takes the place of an answer or a prompt.
pub(crate) fn check_text(what: &str, text: &str, limits: &Limits) -> Result<(), String> {
    check_size(what, text.len(), limits)
}

/// Checks a new prompt: an empty one would generate from nothing.
pub(crate) fn check_prompt(
    replacement: prompt_hook::Replacement,
    limits: &Limits,
) -> Result<NewPrompt, String> {
    if replacement.text.is_empty() {
        return Err("the prompt is empty".to_owned());
    }
    check_size("the prompt", prompt_bytes(&replacement), limits)?;
    let new = prompt_from_wit(replacement);
    check_markup(&new.text, &new.markup)?;
    Ok(new)
}

/// Checks the markup of a prompt.
pub(crate) fn check_markup(text: &str, markup: &[Range<usize>]) -> Result<(), String> {
    let mut last = 0;
    for (n, &Range { start, end }) in markup.iter().enumerate() {
        let wrong = |rule: &str| Err(format!("`markup[{n}]` is {start} to {end}: {rule}"));
        if start < last || end < start {
            return wrong("spans ascend and do not overlap");
        }
        // Beyond the text there is no such place.
        if !text.is_char_boundary(start) || !text.is_char_boundary(end) {
            return wrong("spans begin and end between two characters of the text");
        }
        last = end;
    }
    Ok(())
}

/// Checks code and reason of a rejection.
pub(crate) fn check_rejection(rejection: &types::Rejection, limits: &Limits) -> Result<(), String> {
    if let Some(code) = rejection.code
        && !(1..=10).contains(&code)
        && code < 1000
    {
        return Err(format!("rejection code {code}: codes are 1 to 10, or 1000 and above"));
    }
    if rejection.reason.trim().is_empty() {
        return Err("a rejection without a reason".to_owned());
    }
    if rejection.reason.len() > limits.reason_bytes {
        return Err(format!(
            "the reason has {} bytes, limit `reason_bytes` is {}",
            rejection.reason.len(),
            limits.reason_bytes
        ));
    }
    Ok(())
}

/// Lists the fields in which two requests differ.
pub(crate) fn differences(before: &Request, after: &Request, keep_text: bool) -> Vec<FieldChange> {
    let mut list = Differences { keep_text, changes: Vec::new() };
    list.add("model", Some(&before.model), Some(&after.model));
    list.add_content(&before.content, &after.content);
    for (name, value) in &before.options {
        let new = after.options.iter().find(|(other, _)| other == name);
        list.add_option(name, Some(value), new.map(|(_, value)| value));
    }
    for (name, value) in &after.options {
        if !before.options.iter().any(|(other, _)| other == name) {
            list.add_option(name, None, Some(value));
        }
    }
    list.changes
}

/// Lists what a plugin has made of a prompt. The markup is in the list when other
/// text than before may hold control tokens, not when it has only moved.
pub(crate) fn prompt_differences(
    before: &Prompt,
    after: &NewPrompt,
    keep_text: bool,
) -> Vec<FieldChange> {
    let joined = |text: &str, markup: &[Range<usize>]| -> String {
        markup.iter().map(|span| &text[span.clone()]).collect()
    };
    let mut list = Differences { keep_text, changes: Vec::new() };
    list.add("prompt", Some(&before.text), Some(&after.text));
    let (old, new) = (joined(&before.text, &before.markup), joined(&after.text, &after.markup));
    list.add("markup", Some(&old), Some(&new));
    list.changes
}

struct Differences {
    keep_text: bool,
    changes: Vec<FieldChange>,
}

impl Differences {
    fn add(&mut self, field: &str, before: Option<&str>, after: Option<&str>) {
        if before == after {
            return;
        }
        self.changes.push(FieldChange {
            field: field.to_owned(),
            before_bytes: before.map(str::len),
            after_bytes: after.map(str::len),
            text: self.keep_text.then(|| {
                let text = |side: Option<&str>| side.unwrap_or_default().to_owned();
                (text(before), text(after))
            }),
        });
    }

    fn add_option(&mut self, name: &str, before: Option<&Value>, after: Option<&Value>) {
        if before == after {
            return;
        }
        let before = before.map(Value::to_string);
        let after = after.map(Value::to_string);
        self.add(&format!("options.{name}"), before.as_deref(), after.as_deref());
    }

    fn add_content(&mut self, before: &Content, after: &Content) {
        match (before, after) {
            (
                Content::Completion { system, input },
                Content::Completion { system: new_system, input: new_input },
            ) => {
                self.add("system", Some(system), Some(new_system));
                self.add_list("input", input, new_input, String::clone);
            }
            (Content::Chat(messages), Content::Chat(new_messages)) => {
                self.add_list("messages", messages, new_messages, |message| {
                    format!("{}: {}", message.role, message.content)
                });
            }
            (before, after) => {
                let (before, after) = (whole(before), whole(after));
                // A change of form is a change even where the text is the same.
                self.add("content", Some(&before), Some(&after));
            }
        }
    }

    fn add_list<T: PartialEq>(
        &mut self,
        field: &str,
        before: &[T],
        after: &[T],
        text: impl Fn(&T) -> String,
    ) {
        for n in 0..before.len().max(after.len()) {
            let (old, new) = (before.get(n), after.get(n));
            if old != new {
                let (old, new) = (old.map(&text), new.map(&text));
                self.add(&format!("{field}[{n}]"), old.as_deref(), new.as_deref());
            }
        }
    }
}

/// All text of a content, in a form that differs between completion and chat.
fn whole(content: &Content) -> String {
    match content {
        Content::Completion { system, input } => format!("{system}\n{}", input.concat()),
        Content::Chat(messages) => messages
            .iter()
            .map(|message| format!("{}: {}\n", message.role, message.content))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use serde_json::json;

    use super::*;
    use crate::data::Message;

    fn request() -> Request {
        Request {
            model: "m.gguf".to_owned(),
            content: Content::Completion {
                system: "be kind".to_owned(),
                input: vec!["one".to_owned(), "two".to_owned()],
            },
            options: vec![("Temperature".to_owned(), json!(0.5)), ("seed".to_owned(), json!(7))],
            wants_stream: false,
        }
    }

    fn patch() -> request_hook::Patch {
        request_hook::Patch { model: None, content: None, options: Vec::new() }
    }

    fn option(name: &str, json: &str) -> types::OptionValue {
        types::OptionValue { name: name.to_owned(), json: json.to_owned() }
    }

    #[track_caller]
    fn invalid(patch: request_hook::Patch, expected: &str) {
        let error = apply(&request(), patch, &Limits::default()).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn what_a_patch_does_not_name_stays() {
        let same = apply(&request(), patch(), &Limits::default()).unwrap();
        assert_eq!(same, request());
        assert_eq!(differences(&request(), &same, true), []);
    }

    #[test]
    fn options_are_set_replaced_and_taken_away() {
        let options =
            vec![option("temperature", "0.1"), option("SEED", "null"), option("stop", "[\"\\n\"]")];
        let changed =
            apply(&request(), request_hook::Patch { options, ..patch() }, &Limits::default())
                .unwrap();
        assert_eq!(
            changed.options,
            [("temperature".to_owned(), json!(0.1)), ("stop".to_owned(), json!(["\n"]))]
        );
        let fields: Vec<_> = differences(&request(), &changed, false)
            .into_iter()
            .map(|change| (change.field, change.before_bytes, change.after_bytes))
            .collect();
        assert_eq!(
            fields,
            [
                ("options.Temperature".to_owned(), Some(3), None),
                ("options.seed".to_owned(), Some(1), None),
                ("options.temperature".to_owned(), None, Some(3)),
                ("options.stop".to_owned(), None, Some(6)),
            ]
        );
    }

    #[test]
    fn bad_patches_are_refused() {
        let with = |option| request_hook::Patch { options: vec![option], ..patch() };
        invalid(with(option("seed", "{")), "option `seed`");
        invalid(with(option("seed", "")), "option `seed`");
        invalid(with(option("", "1")), "name of an option is empty");
        invalid(with(option("a\nb", "1")), "control character");
        invalid(with(option("x", &"9".repeat(5 << 20))), "limit `output_bytes`");
        invalid(
            request_hook::Patch {
                options: vec![option("seed", "1"), option("Seed", "2")],
                ..patch()
            },
            "given twice",
        );
        invalid(
            request_hook::Patch { model: Some(String::new()), ..patch() },
            "model name is empty",
        );
        invalid(
            request_hook::Patch { content: Some(types::Content::Chat(Vec::new())), ..patch() },
            "without messages",
        );
    }

    #[test]
    fn many_empty_strings_are_not_free() {
        let content = types::Content::Completion(types::Completion {
            system: String::new(),
            input: vec![String::new(); 300_000],
        });
        invalid(request_hook::Patch { content: Some(content), ..patch() }, "limit `output_bytes`");
    }

    #[test]
    fn markup_is_in_order_and_between_characters() {
        let check = |spans: &[(u32, u32)]| {
            let markup = spans.iter().map(|&(start, end)| prompt_hook::Span { start, end });
            let text = "aé<s>".to_owned();
            let replacement = prompt_hook::Replacement { text, markup: markup.collect() };
            check_prompt(replacement, &Limits::default())
        };
        for good in [&[][..], &[(0, 6)], &[(0, 1), (1, 3), (3, 6)], &[(0, 0), (3, 3), (6, 6)]] {
            let markup = check(good).unwrap().markup;
            assert!(markup.iter().zip(good).all(|(span, given)| span.end == given.1 as usize));
            assert_eq!(markup.len(), good.len());
        }
        let bad: [(&[(u32, u32)], &str); 8] = [
            (&[(0, 7)], "`markup[0]` is 0 to 7: spans begin and end between"),
            (&[(7, 7)], "between two characters"),
            (&[(0, u32::MAX)], "between two characters"),
            (&[(0, 2)], "between two characters"),
            (&[(2, 6)], "between two characters"),
            (&[(3, 1)], "do not overlap"),
            (&[(0, 3), (1, 6)], "`markup[1]` is 1 to 6: spans ascend and do not overlap"),
            (&[(3, 6), (0, 1)], "do not overlap"),
        ];
        for (bad, expected) in bad {
            let error = check(bad).unwrap_err();
            assert!(error.contains(expected), "{bad:?}: {error}");
        }
        let spans = vec![(0, 0); 300_000];
        assert!(check(&spans).unwrap_err().contains("limit `output_bytes`"));
    }

    #[test]
    fn markup_is_a_change_when_its_text_is_another() {
        let before = Prompt {
            model: String::new(),
            text: "<s>hi<s>".to_owned(),
            markup: vec![0..3, 5..8],
            tokens: 4,
            context_length: 9,
            template: None,
        };
        let fields = |text: &str, markup| {
            let after = NewPrompt { text: text.to_owned(), markup };
            let changes = prompt_differences(&before, &after, false);
            changes.into_iter().map(|change| (change.field, change.after_bytes)).collect::<Vec<_>>()
        };
        let moved = fields("<s>hello<s>", vec![0..3, 8..11]);
        assert_eq!(moved, [("prompt".to_owned(), Some(11))]);
        let forgotten = fields("<s>hi<s>", Vec::new());
        assert_eq!(forgotten, [("markup".to_owned(), Some(0))]);
    }

    #[test]
    fn rejection_codes_are_those_of_the_protocol_or_a_plugins_own() {
        let check = |code, reason: &str| {
            let rejection = types::Rejection { code, reason: reason.to_owned() };
            check_rejection(&rejection, &Limits::default())
        };
        for code in [None, Some(1), Some(10), Some(1000), Some(u32::MAX)] {
            check(code, "no").unwrap();
        }
        for code in [0, 11, 999] {
            assert!(check(Some(code), "no").unwrap_err().contains("codes are"));
        }
        assert!(check(None, " ").unwrap_err().contains("without a reason"));
        assert!(check(None, &"x".repeat(5000)).unwrap_err().contains("reason_bytes"));
    }

    #[test]
    fn differences_name_the_fields_and_keep_text_only_when_asked() {
        let mut after = request();
        after.content = Content::Completion {
            system: "be kind".to_owned(),
            input: vec!["one".to_owned(), "2".to_owned(), "three".to_owned()],
        };
        let changes = differences(&request(), &after, true);
        assert_eq!(changes.len(), 2);
        assert_eq!(changes[0].field, "input[1]");
        assert_eq!(changes[0].text, Some(("two".to_owned(), "2".to_owned())));
        assert_eq!(changes[1].field, "input[2]");
        assert_eq!(changes[1].before_bytes, None);
        assert_eq!(differences(&request(), &after, false)[0].text, None);

        after.content =
            Content::Chat(vec![Message { role: "user".to_owned(), content: "hi".to_owned() }]);
        assert_eq!(differences(&request(), &after, false)[0].field, "content");
    }
}
