//! Observers: told how a job ended, after it has, and without any say in it.

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use llamero_hooks::{
    Completion, FailureKind, FinishReason, HookHost, JobContext, JobHooks, ModelInfo, NoTokenizer,
    Outgoing, RequestOutcome, Services, Summary, TokenizerError, TokenizerService, Usage,
};

use crate::guest::{Guest, Image};
use crate::outgoing_guest::{
    Cut, FIRST_TOKEN, FIRST_TOKEN_US, OUTCOME, OUTCOME_PAYLOAD, QUEUE_US,
    SUMMARY_COMPLETION_TOKENS, SUMMARY_PROMPT_TOKENS, TOTAL_US, scripted,
};
use crate::outgoing_support::{PATIENCE, USAGE, drain};
use crate::support::{chain, config, context, failed, request, runtime};

/// A way out for observers: it passes on every text that a plugin counts, and for
/// which model.
struct Witness(Mutex<Sender<(String, String)>>);

impl TokenizerService for Witness {
    fn describe(&self, model: &str) -> Result<ModelInfo, TokenizerError> {
        NoTokenizer.describe(model)
    }

    fn count(&self, model: &str, text: &str) -> Result<u32, TokenizerError> {
        let told = (model.to_owned(), text.to_owned());
        let _ = self.0.lock().unwrap().send(told);
        Ok(0)
    }

    fn encode(&self, model: &str, text: &str, special: bool) -> Result<Vec<u32>, TokenizerError> {
        NoTokenizer.encode(model, text, special)
    }

    fn count_prompt(
        &self,
        model: &str,
        text: &str,
        markup: &[Range<usize>],
    ) -> Result<u32, TokenizerError> {
        NoTokenizer.count_prompt(model, text, markup)
    }

    fn decode(&self, model: &str, tokens: &[u32]) -> Result<String, TokenizerError> {
        NoTokenizer.decode(model, tokens)
    }
}

fn watched(change: impl FnOnce(&mut llamero_hooks::HostConfig)) -> (HookHost, Told) {
    let (sender, receiver) = channel();
    let mut config = config();
    change(&mut config);
    let host = HookHost::new(config, Services::new(Arc::new(Witness(Mutex::new(sender)))));
    (host.unwrap(), Told(receiver))
}

/// What observers said.
struct Told(Receiver<(String, String)>);

impl Told {
    fn next(&self) -> (String, String) {
        self.0.recv_timeout(PATIENCE).expect("an observer")
    }

    fn text(&self) -> String {
        self.next().1
    }

    /// Fails if more is said within a moment.
    fn assert_silence(&self) {
        let more = self.0.recv_timeout(Duration::from_millis(100));
        assert!(more.is_err(), "{more:?}");
    }
}

const COUNT: &str = "(param i32 i32 i32 i32 i32)";

/// Says `text` with name `name` in place of a model's.
fn says(image: &mut Image, name: &str, text: &str) -> String {
    let [name, name_length] = image.text(name);
    let [text, text_length] = image.text(text);
    let area = image.words(&[0; 4]);
    format!(
        "(call $count (i32.const {name}) (i32.const {name_length})
            (i32.const {text}) (i32.const {text_length}) (i32.const {area}))"
    )
}

/// An observer that says its name.
fn named(name: &str) -> Guest {
    let mut guest = Guest::new();
    let body = says(&mut guest.image, name, "told");
    guest.import("tokenizer", "count", COUNT).on_complete(&body)
}

/// An observer that says the whole summary: the case of the outcome and that of
/// what is in it, the tokens, whether there was a first one, and the times in
/// milliseconds, each as one letter from `0` on; and for which model. Then the
/// reason, if there is one: at `reason`, the offset of its pointer.
fn reporter(reason: u32) -> Guest {
    let mut guest = Guest::new();
    let text = guest.image.place(&[0; 8]);
    let area = guest.image.words(&[0; 4]);
    let model = guest.image.words(&[0, 0]);
    let put = |at: u32, value: String| {
        format!("(i32.store8 (i32.const {}) (i32.add (i32.const 48) {value}))", text + at)
    };
    let byte =
        |offset: u32| format!("(i32.load8_u (i32.add (local.get $args) (i32.const {offset})))");
    let millis = |offset: u32| {
        format!(
            "(i32.wrap_i64 (i64.div_u (i64.load (i32.add (local.get $args) (i32.const {offset})))
                (i64.const 1000)))"
        )
    };
    let word = |offset: u32| format!("(i32.load (i32.add (local.get $args) (i32.const {offset})))");
    let body = [
        put(0, byte(OUTCOME)),
        put(1, byte(OUTCOME_PAYLOAD)),
        put(2, byte(SUMMARY_PROMPT_TOKENS)),
        put(3, byte(SUMMARY_COMPLETION_TOKENS)),
        put(4, byte(FIRST_TOKEN)),
        put(5, millis(QUEUE_US)),
        put(6, millis(FIRST_TOKEN_US)),
        put(7, millis(TOTAL_US)),
        format!(
            "(call $model (i32.const {model}))
            (call $count (i32.load (i32.const {model})) (i32.load (i32.const {}))
                (i32.const {text}) (i32.const 8) (i32.const {area}))
            (call $count (i32.const 0) (i32.const 0) {} {} (i32.const {area}))",
            model + 4,
            word(reason),
            word(reason + 4),
        ),
    ];
    guest
        .import("tokenizer", "count", COUNT)
        .import("call", "model", "(param i32)")
        .on_complete(&body.concat())
}

fn summary(outcome: Completion) -> Summary {
    Summary {
        outcome,
        usage: USAGE,
        queued: Duration::from_millis(1),
        first_token: Some(Duration::from_millis(2)),
        total: Duration::from_millis(4),
    }
}

fn completed() -> Summary {
    summary(Completion::Completed(FinishReason::Stop))
}

#[test]
fn an_observer_gets_the_whole_summary() {
    let (host, told) = watched(|_| {});
    let filtered = FinishReason::Filtered("enough".to_owned());
    let reason = "no room".to_owned();
    for (outcome, at, expected, text) in [
        (Completion::Completed(FinishReason::Length), None, "01751124", ""),
        (Completion::Completed(filtered), Some(72), "02751124", "enough"),
        // The second letter is that there is a code, or the code itself.
        (
            Completion::Rejected { code: 1001, reason: reason.clone() },
            Some(76),
            "11751124",
            "no room",
        ),
        (Completion::Failed { code: 6, reason }, Some(72), "26751124", "no room"),
    ] {
        // Without a reason, any two words that are zero.
        let chain = chain(&host, &[&reporter(at.unwrap_or(72))]);
        let job = chain.begin(context());
        runtime().block_on(async {
            job_with_model(job).await.observe(summary(outcome));
        });
        assert_eq!(told.next(), ("m".to_owned(), expected.to_owned()));
        assert_eq!(told.text(), text);
    }
    let chain = chain(&host, &[&reporter(72)]);
    chain.begin(context()).observe(Summary {
        first_token: None,
        usage: Usage::default(),
        ..completed()
    });
    assert_eq!(told.text(), "00000104", "no token, and no time of it");
}

async fn job_with_model(mut job: JobHooks) -> JobHooks {
    assert!(matches!(job.on_request(request()).await, RequestOutcome::Continue(_)));
    job
}

#[test]
fn every_observer_is_told_once_after_the_end() {
    let (host, told) = watched(|_| {});
    let chain = chain(&host, &[&scripted(Cut::Token), &named("b"), &named("c")]);
    runtime().block_on(async {
        let mut job = chain.begin(JobContext { job: "r".to_owned(), ..context() });
        let mut pipe = job.open(true).await.unwrap().expect("interested");
        pipe.push("one".to_owned(), Vec::new());
        pipe.close(FinishReason::Stop, USAGE);
        let (_, end) = drain(&mut pipe).await;
        assert_eq!(end, Outgoing::Done(FinishReason::Stop));
        told.assert_silence();
        job.observe(completed());
    });
    let mut names = [told.next().0, told.next().0];
    names.sort();
    assert_eq!(names, ["b", "c"]);
    told.assert_silence();
}

#[test]
fn what_an_observer_does_is_counted_and_nothing_else() {
    let (host, told) = watched(|config| {
        config.limits.observer_cpu = Duration::from_millis(20);
    });
    for bad in ["unreachable", "(loop $l (br $l))", "(drop (i32.load (i32.const -8)))"] {
        let chain = chain(&host, &[&named("a"), &Guest::new().on_complete(bad), &named("c")]);
        chain.begin(context()).observe(completed());
        let mut names = [told.next().0, told.next().0];
        names.sort();
        assert_eq!(names, ["a", "c"], "{bad}");
    }
}

#[test]
fn observing_delays_nothing() {
    let (host, told) = watched(|config| {
        config.limits.observer_cpu = Duration::from_secs(2);
    });
    let slow = chain(&host, &[&named("a"), &Guest::new().on_complete("(loop $l (br $l))")]);
    let quick = chain(&host, &[&Guest::returning(|image| image.respond("at once"))]);
    slow.begin(context()).observe(completed());
    // While that one runs, others are served.
    runtime().block_on(async {
        let outcome = quick.begin(context()).on_request(request()).await;
        assert!(matches!(outcome, RequestOutcome::Responded(_)), "{outcome:?}");
    });
    assert_eq!(told.next().0, "a");
}

#[test]
fn jobs_that_end_early_are_observed_too() {
    let (host, told) = watched(|_| {});
    let rejects = Guest::returning(|image| image.reject(3, Some(1001), "no"));
    let traps = Guest::doing("unreachable");
    for early in [&rejects, &traps] {
        let chain = chain(&host, &[early, &named("b")]);
        runtime().block_on(async {
            let mut job = chain.begin(context());
            let outcome = job.on_request(request()).await;
            assert!(!matches!(outcome, RequestOutcome::Continue(_)), "{outcome:?}");
            let rejected = Completion::Rejected { code: 1001, reason: "no".to_owned() };
            job.observe(summary(rejected));
        });
        assert_eq!(told.next().0, "b");
    }
    // Even those that no phase was run for, and those that were cancelled.
    let chain = chain(&host, &[&named("a")]);
    chain.begin(context()).observe(completed());
    assert_eq!(told.next().0, "a");
    let job = chain.begin(context());
    job.canceller().cancel();
    job.observe(summary(Completion::Completed(FinishReason::Cancelled)));
    assert_eq!(told.next().0, "a");
    told.assert_silence();
}

#[test]
fn an_observer_that_was_called_before_is_the_same_instance() {
    let (host, told) = watched(|_| {});
    let mut guest = Guest::new();
    let pass = guest.image.pass();
    let first = says(&mut guest.image, "first", "");
    let again = says(&mut guest.image, "again", "");
    let guest = guest
        .import("tokenizer", "count", COUNT)
        .with("(global $seen (mut i32) (i32.const 0))")
        .on_request(&format!("(global.set $seen (i32.const 1)) (i32.const {pass})"))
        .on_complete(&format!("(if (global.get $seen) (then {again}) (else {first}))"));
    let chain = chain(&host, &[&guest]);
    chain.begin(context()).observe(completed());
    assert_eq!(told.next().0, "first");
    runtime().block_on(async {
        job_with_model(chain.begin(context())).await.observe(completed());
    });
    assert_eq!(told.next().0, "again");
}

#[test]
fn an_observer_whose_request_hook_trapped_starts_afresh() {
    let (host, told) = watched(|_| {});
    let mut guest = Guest::new();
    let body = says(&mut guest.image, "afresh", "");
    let guest =
        guest.import("tokenizer", "count", COUNT).on_request("unreachable").on_complete(&body);
    let chain = chain(&host, &[&guest]);
    runtime().block_on(async {
        let mut job = chain.begin(context());
        failed(job.on_request(request()).await, "a", FailureKind::Trap);
        job.observe(summary(Completion::Failed { code: 9, reason: "failed".to_owned() }));
    });
    assert_eq!(told.next().0, "afresh");
}
