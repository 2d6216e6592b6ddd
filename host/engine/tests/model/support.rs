//! What all tests need: the model, and a job run to its end.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use llamero_engine::{
    Content, Event, Finished, Generation, GenerationError, Job, Model, ModelConfig, PromptLimits,
    Sampling,
};

/// Far longer than anything here takes on the slowest machine in use.
pub const PATIENCE: Duration = Duration::from_secs(300);

pub fn model_path() -> PathBuf {
    let dir = std::env::var_os("LLAMERO_MODEL_DIR").map_or_else(
        || {
            std::env::var_os("XDG_CACHE_HOME")
                .map_or_else(
                    || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache"),
                    PathBuf::from,
                )
                .join("llamero/models")
        },
        PathBuf::from,
    );
    let path = dir.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    assert!(
        path.is_file(),
        "the test model {} is missing: run `make model`, or name its folder in LLAMERO_MODEL_DIR",
        path.display()
    );
    path
}

pub fn config() -> ModelConfig {
    ModelConfig {
        path: model_path(),
        n_ctx: 2048,
        slots: 4,
        // Two, because of [`alone`]: with a second test computing, threads that
        // wait for each other at every operation would mostly wait.
        threads: 2,
        ..ModelConfig::default()
    }
}

/// A model of its own, for tests that need to know all of its jobs.
pub fn own(change: impl FnOnce(&mut ModelConfig)) -> Model {
    let mut config = config();
    change(&mut config);
    Model::load(config, |_| true).expect("model loads")
}

/// Waits until a condition holds.
pub fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

static COMPUTING: Mutex<()> = Mutex::new(());

thread_local! {
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// See [`alone`].
pub struct Alone {
    guard: Option<MutexGuard<'static, ()>>,
}

/// While it lives, no other test computes: what a batch gives depends in its
/// last bits on what else is in it, and the machine has few cores.
pub fn alone() -> Alone {
    let guard = (!ALONE.get()).then(|| COMPUTING.lock().unwrap_or_else(PoisonError::into_inner));
    if guard.is_some() {
        ALONE.set(true);
    }
    Alone { guard }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if self.guard.is_some() {
            ALONE.set(false);
        }
    }
}

/// The model all tests share.
pub fn model() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| Model::load(config(), |_| true).expect("model loads"))
}

/// Runs a future with a timeout.
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(PATIENCE, future).await })
        .expect("the engine answers in time")
}

pub fn greedy() -> Sampling {
    Sampling { temperature: 0.0, repeat_penalty: 1.0, ..Sampling::default() }
}

/// A greedy job that continues a text and shares nothing with others.
pub fn job(text: &str, max_tokens: u32) -> Job {
    let content = Content::Completion {
        system: String::new(),
        instructions: String::new(),
        input: vec![text.to_string()],
        separator: String::new(),
    };
    let prompt = model().prepare(&content, &PromptLimits::default()).expect("prompt fits");
    Job { prompt: prompt.tokens, max_tokens, sampling: greedy(), cache: false, ..Job::default() }
}

/// What became of a job.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub text: String,
    pub pieces: Vec<String>,
    pub end: Result<Finished, GenerationError>,
}

impl Outcome {
    pub fn finished(&self) -> &Finished {
        self.end.as_ref().expect("the job finishes")
    }
}

/// Reads a generation to its end, and checks what holds for every one.
pub async fn collect(mut generation: Generation) -> Outcome {
    let mut pieces = Vec::new();
    let end = loop {
        match generation.next().await.expect("an end comes before None") {
            Event::Text(piece) => {
                assert!(!piece.text.is_empty(), "empty piece");
                pieces.push(piece.text);
            }
            Event::Candidates { .. } => panic!("asked without a guard"),
            Event::Finished(finished) => break Ok(finished),
            Event::Failed(error) => break Err(error),
        }
    };
    assert_eq!(generation.next().await, None, "nothing follows the end");
    Outcome { text: pieces.concat(), pieces, end }
}

/// Runs a job while nothing else computes.
pub fn run(job: Job) -> Outcome {
    let _alone = alone();
    let generation = model().submit(job).expect("job is accepted");
    block_on(collect(generation))
}
