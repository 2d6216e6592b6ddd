//! Runs the outgoing phases of one job and collects what comes out.

use std::time::Duration;

use llamero_hooks::{
    Chain, Failure, FailureKind, FinishReason, HookHost, JobContext, JobHooks, Outgoing,
    OutgoingPipe, Phase, PluginSettings, Usage,
};

use crate::guest::Guest;
use crate::support::{context, runtime};

/// How long a test waits for what must come. It tells "never" from "slow" and
/// nothing else.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const USAGE: Usage = Usage { prompt_tokens: 7, cached_tokens: 3, completion_tokens: 5 };

/// Loads guests in order, as plugins `a`, `b`, `c`, with settings.
pub fn chain_with(host: &HookHost, plugins: &[(&Guest, PluginSettings)]) -> Chain {
    let modules: Vec<Vec<u8>> = plugins.iter().map(|(guest, _)| guest.module()).collect();
    let plugins: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .zip(&modules)
        .zip(plugins)
        .map(|((id, module), (_, settings))| (id, module.as_slice(), settings.clone()))
        .collect();
    host.load_bytes(&plugins).unwrap()
}

/// What came out of a job, and the job.
pub struct Seen {
    /// The pieces of text, in order.
    pub texts: Vec<String>,
    /// What ended them.
    pub end: Outgoing,
    /// The job; its notes say what plugins saw.
    pub job: JobHooks,
}

impl Seen {
    /// All text together.
    pub fn text(&self) -> String {
        self.texts.concat()
    }

    /// A note by its whole name.
    pub fn note(&self, name: &str) -> Option<String> {
        note(&self.job, name)
    }

    /// Fails unless the output ended with a failure of this kind.
    #[track_caller]
    pub fn failed(&self, plugin: &str, phase: Phase, kind: FailureKind) -> &Failure {
        let Outgoing::Failed(failure) = &self.end else {
            panic!("expected failure {kind} of {plugin}: {:?}", self.end);
        };
        assert_eq!(
            (failure.plugin.as_str(), failure.phase, failure.kind),
            (plugin, phase, kind),
            "{}",
            failure.detail
        );
        failure
    }
}

pub fn note(job: &JobHooks, name: &str) -> Option<String> {
    job.notes().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

/// Waits until a note is there: some are left after the caller was answered.
pub async fn late_note(job: &JobHooks, name: &str) -> String {
    let waiting = async {
        loop {
            if let Some(value) = note(job, name) {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the note")
}

/// The context of a job whose id is `script`.
pub fn scripted_context(script: &str) -> JobContext {
    JobContext { job: script.to_owned(), ..context() }
}

/// Opens the outgoing phases of a job; some plugin must be interested.
pub async fn open(chain: &Chain, script: &str, streams: bool) -> (JobHooks, OutgoingPipe) {
    let mut job = chain.begin(scripted_context(script));
    let pipe = job.open(streams).await.unwrap().expect("a plugin is interested");
    (job, pipe)
}

/// Reads the rest of what comes out.
pub async fn drain(pipe: &mut OutgoingPipe) -> (Vec<String>, Outgoing) {
    let mut texts = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, pipe.next()).await.expect("more output") {
            Outgoing::Text(text) => {
                assert!(!text.is_empty(), "text is never empty");
                texts.push(text);
            }
            end => return (texts, end),
        }
    }
}

/// One job from its first chunk to its end.
pub async fn run(chain: &Chain, script: &str, streams: bool, chunks: &[&str]) -> Seen {
    let (job, mut pipe) = open(chain, script, streams).await;
    for chunk in chunks {
        pipe.push((*chunk).to_owned(), Vec::new());
    }
    pipe.close(FinishReason::Stop, USAGE);
    let (texts, end) = drain(&mut pipe).await;
    Seen { texts, end, job }
}

/// [`run`] of a stream, on a runtime of its own.
pub fn stream(chain: &Chain, script: &str, chunks: &[&str]) -> Seen {
    runtime().block_on(run(chain, script, true, chunks))
}

/// [`run`] of an output that is not streamed, on a runtime of its own.
pub fn whole(chain: &Chain, chunks: &[&str]) -> Seen {
    runtime().block_on(run(chain, "r", false, chunks))
}
