//! Puts the messages of one job together into an answer.
//!
//! A plain state machine without I/O: [`crate::client`] reads the messages from
//! NATS and feeds them in; the commands print what comes out.

use llamero_protocol::{ErrorBody, PredictResponse, WorkerResponse};

/// What one message of the worker means for the job.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// The worker has accepted the job and will stream; nothing to print yet.
    Accepted,
    /// More text to print.
    Fragment(String),
    /// The job has ended well.
    Done(Done),
    /// The job has ended with this error; what was streamed so far stands.
    Failed(ErrorBody),
    /// Not a message of this job, or one after its end.
    Ignored,
}

/// The end of a job that went well.
#[derive(Debug, Clone, PartialEq)]
pub struct Done {
    /// The final message, with the whole output also where the worker left it
    /// out because it had streamed everything and the whole was too large for
    /// one message.
    pub response: PredictResponse,
    /// The part of the output that no fragment carried: `output[len(seen)..]`.
    pub rest: String,
    /// Whether the fragments joined were a prefix of the output, as the
    /// protocol promises. If not, fragments were lost on the way (core NATS
    /// delivers at most once), `rest` is empty, and the printed text is
    /// incomplete; `response.output` is whole.
    pub fragments: Fragments,
}

/// Whether the streamed text can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragments {
    /// The fragments joined are a prefix of the output.
    Intact,
    /// Fragments were lost on the way.
    Lost,
}

/// Where the output of a final message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinalOutput {
    /// In the message, as the protocol says.
    InMessage,
    /// In the fragments only (header `Llm-Output-Omitted`): the whole text did
    /// not fit into one NATS message.
    InFragments,
}

/// Collects the messages of one job.
#[derive(Debug)]
pub struct Collector {
    job: String,
    seen: String,
    ended: bool,
}

impl Collector {
    /// A collector for the job of this id.
    pub fn new(job: impl Into<String>) -> Self {
        Self { job: job.into(), seen: String::new(), ended: false }
    }

    /// Takes the next message, in the order of arrival.
    pub fn push(&mut self, message: WorkerResponse, output: FinalOutput) -> Step {
        // An error about a request whose job could not be read carries no job;
        // the inbox belongs to this job alone, so it is about this request.
        let ours = message.job == self.job || (message.job.is_empty() && message.error.is_some());
        if self.ended || !ours {
            return Step::Ignored;
        }
        if let Some(error) = message.error {
            self.ended = true;
            return Step::Failed(error);
        }
        if let Some(response) = message.predict {
            self.ended = true;
            return Step::Done(self.finish(response, output));
        }
        if let Some(fragment) = message.stream {
            if fragment.output.is_empty() {
                return Step::Ignored;
            }
            self.seen.push_str(&fragment.output);
            return Step::Fragment(fragment.output);
        }
        if message.list.is_some() || message.interrupt.is_some() {
            return Step::Ignored;
        }
        Step::Accepted
    }

    /// The text that the fragments have carried so far.
    pub fn seen(&self) -> &str {
        &self.seen
    }

    fn finish(&mut self, mut response: PredictResponse, output: FinalOutput) -> Done {
        if output == FinalOutput::InFragments {
            response.output = std::mem::take(&mut self.seen);
            return Done { response, rest: String::new(), fragments: Fragments::Intact };
        }
        let (rest, fragments) = match response.output.strip_prefix(&self.seen) {
            Some(rest) => (rest.to_owned(), Fragments::Intact),
            None => (String::new(), Fragments::Lost),
        };
        Done { response, rest, fragments }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a test fails by panicking"
    )]

    use super::*;
    use llamero_protocol::decode_response;

    /// Feeds JSON messages and returns the steps.
    fn run(messages: &[&str]) -> Vec<Step> {
        let mut collector = Collector::new("a");
        messages
            .iter()
            .map(|text| {
                let message = decode_response(text.as_bytes()).expect("legal response");
                collector.push(message, FinalOutput::InMessage)
            })
            .collect()
    }

    fn done(step: &Step) -> &Done {
        match step {
            Step::Done(done) => done,
            other => panic!("not the end: {other:?}"),
        }
    }

    #[test]
    fn a_stream_is_ack_fragments_and_the_rest() {
        let steps = run(&[
            r#"{"job":"a"}"#,
            r#"{"job":"a","stream":{"output":"Gr"}}"#,
            r#"{"job":"a","stream":{"output":"üß"}}"#,
            r#"{"job":"a","predict":{"output":"Grüße!","finish_reason":"stop"}}"#,
        ]);
        assert_eq!(steps[0], Step::Accepted);
        assert_eq!(steps[1], Step::Fragment("Gr".into()));
        assert_eq!(steps[2], Step::Fragment("üß".into()));
        let end = done(&steps[3]);
        assert_eq!(end.rest, "e!");
        assert_eq!(end.response.output, "Grüße!");
        assert_eq!(end.fragments, Fragments::Intact);
    }

    #[test]
    fn a_final_without_fragments_is_printed_whole() {
        let steps = run(&[r#"{"job":"a","predict":{"output":"hello"}}"#]);
        assert_eq!(done(&steps[0]).rest, "hello");
    }

    #[test]
    fn an_empty_final_ends_the_job() {
        let steps = run(&[r#"{"job":"a"}"#, r#"{"job":"a","predict":{}}"#]);
        assert_eq!(done(&steps[1]).rest, "");
    }

    #[test]
    fn a_lost_fragment_is_noticed_and_nothing_is_printed_twice() {
        let steps = run(&[
            r#"{"job":"a","stream":{"output":"one "}}"#,
            r#"{"job":"a","stream":{"output":"three"}}"#,
            r#"{"job":"a","predict":{"output":"one two three"}}"#,
        ]);
        let end = done(&steps[2]);
        assert_eq!(end.fragments, Fragments::Lost);
        assert_eq!(end.rest, "");
        assert_eq!(end.response.output, "one two three");
    }

    #[test]
    fn an_omitted_output_is_made_of_the_fragments() {
        let mut collector = Collector::new("a");
        for text in [
            r#"{"job":"a","stream":{"output":"big "}}"#,
            r#"{"job":"a","stream":{"output":"text"}}"#,
        ] {
            collector.push(decode_response(text.as_bytes()).unwrap(), FinalOutput::InMessage);
        }
        assert_eq!(collector.seen(), "big text");
        let last = decode_response(br#"{"job":"a","predict":{"finish_reason":"length"}}"#).unwrap();
        let step = collector.push(last, FinalOutput::InFragments);
        assert_eq!(done(&step).response.output, "big text");
        assert_eq!(done(&step).rest, "");
    }

    #[test]
    fn other_jobs_empty_fragments_and_late_messages_are_ignored() {
        let steps = run(&[
            r#"{"job":"b","stream":{"output":"x"}}"#,
            r#"{"job":"a","stream":{"output":""}}"#,
            r#"{"job":"a","error":{"code":8,"error":"prediction interrupted"}}"#,
            r#"{"job":"a","stream":{"output":"late"}}"#,
        ]);
        assert_eq!(steps[0], Step::Ignored);
        assert_eq!(steps[1], Step::Ignored);
        assert!(matches!(&steps[2], Step::Failed(error) if error.code == 8));
        assert_eq!(steps[3], Step::Ignored);
    }

    #[test]
    fn an_error_without_job_is_about_this_request() {
        let steps =
            run(&[r#"{"error":{"code":1,"error":"request is not a valid JSON object: x"}}"#]);
        assert!(matches!(&steps[0], Step::Failed(error) if error.code == 1));
    }
}
