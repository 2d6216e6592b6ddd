//! What the hooks did to a job, from the worker's log into readable lines.
//!
//! The worker logs one event `hook` for each call and, because the demo set
//! `log_hook_text`, one event `hook changed` for each part that a hook changed.

use serde_json::Value;

/// Characters of unchanged text that are shown on either side of a change.
const CONTEXT: usize = 30;

/// Longest changed text that is shown whole; of a longer one both ends are.
const LONGEST: usize = 150;

/// What replaces text that is left out.
const GAP: &str = "...";

/// The lines that tell what the events say, in the order of the calls.
pub fn describe(events: &[Value]) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, event) in events.iter().enumerate() {
        if event["message"] != "hook" {
            continue;
        }
        let text = |key: &str| event[key].as_str().unwrap_or("?");
        let millis = event["wall_us"].as_f64().unwrap_or_default() / 1000.0;
        lines.push(format!(
            "{:<8} {:<16} {:<8} {millis:>7.2} ms",
            text("phase"),
            text("plugin"),
            text("verdict")
        ));
        let changed: Vec<&Value> = events[index + 1..]
            .iter()
            .take_while(|later| later["message"] == "hook changed")
            .collect();
        lines.extend(describe_fields(&changed));
    }
    lines
}

/// The changed parts of one call.
fn describe_fields(fields: &[&Value]) -> Vec<String> {
    let text = |field: &Value, key: &str| field[key].as_str().unwrap_or_default().to_owned();
    let befores: Vec<String> = fields.iter().map(|field| text(field, "before")).collect();
    let afters: Vec<String> = fields.iter().map(|field| text(field, "after")).collect();
    let mut lines = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let (before, after) = (&befores[index], &afters[index]);
        // A message put in front moves the others back by one place, which the
        // log tells place by place. What has only moved is not worth showing.
        let has_moved_here = !after.is_empty() && befores[..index].contains(after);
        let moves_away = !before.is_empty() && afters[index + 1..].contains(before);
        if has_moved_here {
            continue;
        }
        let before = if moves_away { "" } else { before.as_str() };
        let (old, new) = difference(before, after);
        let name = text(field, "field");
        if !old.is_empty() {
            lines.push(format!("  {name} - {old}"));
        }
        if !new.is_empty() {
            lines.push(format!("  {name} + {new}"));
        }
    }
    lines
}

/// The parts of both texts that differ, with a little of what is around them,
/// each on one line.
fn difference(before: &str, after: &str) -> (String, String) {
    let old: Vec<char> = before.chars().collect();
    let new: Vec<char> = after.chars().collect();
    let same =
        |pairs: &mut dyn Iterator<Item = (&char, &char)>| pairs.take_while(|(a, b)| a == b).count();
    let head = same(&mut old.iter().zip(&new));
    let rest = old.len().min(new.len()) - head;
    let tail = same(&mut old.iter().rev().zip(new.iter().rev())).min(rest);
    (window(&old, head, tail), window(&new, head, tail))
}

/// The text between `head` and `tail`, with context on either side.
fn window(text: &[char], head: usize, tail: usize) -> String {
    if text.is_empty() {
        return String::new();
    }
    let from = word_start(text, head.saturating_sub(CONTEXT));
    let to = word_end(text, text.len() - tail.saturating_sub(CONTEXT));
    let mut shown: String = text[from..to].iter().collect();
    let n_chars = to - from;
    if n_chars > LONGEST {
        let first: String = text[from..from + LONGEST / 2].iter().collect();
        let last: String = text[to - LONGEST / 2..to].iter().collect();
        shown = format!("{first} {GAP} {last}");
    }
    let before = if from > 0 { GAP } else { "" };
    let behind = if to < text.len() { GAP } else { "" };
    format!("{before}{shown}{behind}").replace('\n', "\\n")
}

/// The first place from `from` on that begins a word, so that the context does
/// not begin in the middle of one; `from` itself if there is none near.
fn word_start(text: &[char], from: usize) -> usize {
    if from == 0 {
        return 0;
    }
    let near = &text[from..text.len().min(from + CONTEXT / 2)];
    near.iter().position(|c| c.is_whitespace()).map_or(from, |gap| from + gap + 1)
}

/// The last place up to `to` that ends a word; `to` itself if there is none near.
fn word_end(text: &[char], to: usize) -> usize {
    if to == text.len() {
        return to;
    }
    let near = &text[to - to.min(CONTEXT / 2)..to];
    near.iter().rev().position(|c| c.is_whitespace()).map_or(to, |gap| to - gap - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_differs_is_shown_with_its_surroundings() {
        let filler = "word ".repeat(20);
        let before = format!("{filler}write to ada@example.com now. {filler}");
        let after = format!("{filler}write to [email] now. {filler}");
        let (old, new) = difference(&before, &after);
        assert_eq!(
            old,
            "...word word word word write to ada@example.com now. word word word word..."
        );
        assert_eq!(new, "...word word word word write to [email] now. word word word word...");
    }

    #[test]
    fn added_and_removed_text_is_shown() {
        assert_eq!(difference("a", "a\nb"), ("a".to_owned(), "a\\nb".to_owned()));
        assert_eq!(difference("", "new"), (String::new(), "new".to_owned()));
        assert_eq!(difference("gone", ""), ("gone".to_owned(), String::new()));
        // The tail must not run into the head when a letter is doubled.
        assert_eq!(difference("aa", "aaa"), ("aa".to_owned(), "aaa".to_owned()));
    }

    #[test]
    fn long_changes_are_cut_in_the_middle() {
        let (_, new) = difference("", &"x".repeat(1000));
        assert_eq!(new.chars().count(), LONGEST + 2 + GAP.len());
    }

    #[test]
    fn a_message_put_in_front_is_one_addition() {
        let events = [
            json!({"message": "hook", "plugin": "system-prompt", "phase": "request",
                   "verdict": "patch", "wall_us": 120}),
            json!({"message": "hook changed", "field": "messages[0]",
                   "before": "user: Hi", "after": "system: Be kind."}),
            json!({"message": "hook changed", "field": "messages[1]",
                   "before": "", "after": "user: Hi"}),
            json!({"message": "hook", "plugin": "redact", "phase": "request",
                   "verdict": "pass", "wall_us": 80}),
        ];
        assert_eq!(
            describe(&events),
            [
                "request  system-prompt    patch       0.12 ms",
                "  messages[0] + system: Be kind.",
                "request  redact           pass        0.08 ms",
            ]
        );
    }
}
