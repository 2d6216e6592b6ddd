//! The messages between workers, as JSON. Members may be added and are then optional;
//! older workers ignore them.

use llamero_protocol::MAX_JOB_BYTES;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Largest message. A job's name takes at most six times its length in JSON.
const MAX_BYTES: usize = 8 << 10;

/// Longest id of a worker; they have 22 characters.
const MAX_ID_BYTES: usize = 64;

/// One message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerMessage {
    /// Who has this job?
    Ask(Ask),
    /// This worker has it.
    Answer(Answer),
}

/// A question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// Who asks.
    pub from: String,
    /// The asker's own number of the question.
    pub number: u64,
    /// The job that is to be interrupted.
    pub job: String,
    /// Whether its predict may still be on its way and is then to be refused.
    #[serde(default)]
    pub mark: bool,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Who answers.
    pub from: String,
    /// Who has asked.
    pub to: String,
    /// The asker's number of the question.
    pub number: u64,
    /// The job.
    pub job: String,
    /// Whether it has ended. If not, it has been told to, and a second answer follows.
    pub ended: bool,
}

/// The message as JSON.
pub fn to_value(message: &PeerMessage) -> Value {
    // Fails only for maps with keys that are no text; there is none.
    serde_json::to_value(message).unwrap_or_default()
}

/// Reads what arrived.
///
/// # Errors
/// Why it is no message of a worker. The text quotes nothing of it: it may be a request
/// that somebody sent to the wrong subject.
pub fn decode(payload: &[u8]) -> Result<PeerMessage, String> {
    if payload.len() > MAX_BYTES {
        return Err(format!("{} bytes; the limit is {MAX_BYTES}", payload.len()));
    }
    let message = serde_json::from_slice(payload).map_err(|error| {
        format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column())
    })?;
    let (job, ids) = match &message {
        PeerMessage::Ask(ask) => (&ask.job, [&ask.from, &ask.from]),
        PeerMessage::Answer(answer) => (&answer.job, [&answer.from, &answer.to]),
    };
    if job.is_empty() || job.len() > MAX_JOB_BYTES {
        return Err(format!("a job of {} bytes", job.len()));
    }
    if ids.iter().any(|id| id.is_empty() || id.len() > MAX_ID_BYTES) {
        return Err("an id that is no worker's".to_owned());
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_are_what_other_workers_read() {
        let ask = Ask { from: "w1".into(), number: 7, job: "j\"".into(), mark: true };
        let answer = Answer {
            from: "w2".into(),
            to: "w1".into(),
            number: 7,
            job: "j\"".into(),
            ended: false,
        };
        for (message, text) in [
            (PeerMessage::Ask(ask), r#"{"ask":{"from":"w1","number":7,"job":"j\"","mark":true}}"#),
            (
                PeerMessage::Answer(answer),
                r#"{"answer":{"from":"w2","to":"w1","number":7,"job":"j\"","ended":false}}"#,
            ),
        ] {
            assert_eq!(to_value(&message).to_string(), text);
            assert_eq!(decode(text.as_bytes()).unwrap(), message);
        }
    }

    #[test]
    fn members_that_are_added_later_do_no_harm() {
        let text = r#"{"ask": {"from": "w", "number": 1, "job": "a", "since": {"x": [1]}}}"#;
        let ask = Ask { from: "w".into(), number: 1, job: "a".into(), mark: false };
        assert_eq!(decode(text.as_bytes()).unwrap(), PeerMessage::Ask(ask));
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let nested = format!("{{\"ask\": {}", "[".repeat(5000));
        for text in [
            "",
            "7",
            "{}",
            "\"ask\"",
            &"[".repeat(5000),
            &nested,
            r#"{"job": "a", "interrupt": {}}"#,
            r#"{"hook": {"action": "list"}}"#,
            r#"{"ask": {"number": 1, "job": "a"}}"#,
            r#"{"ask": {"from": "w", "number": -1, "job": "a"}}"#,
            r#"{"ask": {"from": "w", "number": 1, "job": "a"}} {}"#,
            r#"{"answer": {"from": "w", "number": 1, "job": "a", "ended": true}}"#,
        ] {
            assert!(decode(text.as_bytes()).is_err(), "{text}");
        }
        // A prompt that was sent to the wrong subject is not for a log.
        let reason = decode(br#""Once upon a time""#).unwrap_err();
        assert!(!reason.contains("Once"), "{reason}");
    }

    #[test]
    fn what_a_message_holds_is_bounded() {
        let job = "j".repeat(MAX_JOB_BYTES + 1);
        let id = "i".repeat(MAX_ID_BYTES + 1);
        for (text, part) in [
            (r#"{"ask": {"from": "w", "number": 1, "job": ""}}"#.to_owned(), "a job of 0 bytes"),
            (format!(r#"{{"ask": {{"from": "w", "number": 1, "job": "{job}"}}}}"#), "a job of"),
            (format!(r#"{{"ask": {{"from": "{id}", "number": 1, "job": "a"}}}}"#), "an id"),
            (" ".repeat(MAX_BYTES + 1), "the limit is 8192"),
        ] {
            let reason = decode(text.as_bytes()).unwrap_err();
            assert!(reason.contains(part), "{text}: {reason}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn every_name_of_a_job_fits_and_comes_back(
            job in proptest::collection::vec(any::<char>(), 1..300),
            number in any::<u64>(),
            mark in any::<bool>(),
        ) {
            let job: String = job.into_iter().collect();
            prop_assume!(job.len() <= MAX_JOB_BYTES);
            let ask = PeerMessage::Ask(Ask { from: "w".into(), number, job, mark });
            prop_assert_eq!(decode(to_value(&ask).to_string().as_bytes()), Ok(ask));
        }
    }
}
