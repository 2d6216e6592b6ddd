//! How an output ends before its time: halted, rejected, failed or cancelled. Text
//! that a plugin holds or has not judged never gets out, whatever happens.

use std::time::Duration;

use llamero_hooks::{
    Chain, FailPolicies, FailPolicy, FailureKind, FinishReason, HookHost, JobContext,
    LimitOverrides, Outgoing, Phase, PluginSettings, Policy, Verdict,
};

use crate::guest::Guest;
use crate::outgoing::Random;
use crate::outgoing_guest::{Cut, scripted, scripted_with};
use crate::outgoing_support::{
    PATIENCE, USAGE, chain_with, drain, late_note, note, open, stream, whole,
};
use crate::support::{chain, context, host, host_with, runtime};

const DONE: Outgoing = Outgoing::Done(FinishReason::Stop);

fn filtered() -> Outgoing {
    Outgoing::Done(FinishReason::Filtered("enough".to_owned()))
}

fn rejected(plugin: &str, code: u32, reason: &str) -> Outgoing {
    Outgoing::Rejected {
        plugin: plugin.to_owned(),
        phase: Phase::Stream,
        code: Some(code),
        reason: reason.to_owned(),
    }
}

#[test]
fn a_halt_ends_the_output_with_its_text() {
    let host = host();
    let chain = chain(&host, &[&scripted(Cut::Token)]);
    for (script, expected) in
        [("Hr", "[end]"), ("ppHr", "one two [end]"), ("phHr", "one [end]"), ("phHp", "one [end]")]
    {
        let seen = stream(&chain, script, &["one ", "two ", "three ", "four"]);
        assert_eq!((seen.text().as_str(), &seen.end), (expected, &filtered()), "{script}");
        let end = runtime().block_on(late_note(&seen.job, "a.end"));
        assert_eq!(end, "1x2", "{script}: told of its own end, once");
    }
}

#[test]
fn generation_may_stop_as_soon_as_a_plugin_halts() {
    let host = host();
    let chain = chain(&host, &[&scripted(Cut::Token)]);
    runtime().block_on(async {
        let (_job, mut pipe) = open(&chain, "pHr", true).await;
        pipe.push("one ".to_owned(), Vec::new());
        pipe.push("two ".to_owned(), Vec::new());
        // Not closed: the caller learns from the pipe that it should stop.
        let (texts, end) = drain(&mut pipe).await;
        assert_eq!((texts.concat().as_str(), end), ("one [end]", filtered()));
        // What was generated meanwhile is nobody's.
        pipe.push("three".to_owned(), Vec::new());
        pipe.close(FinishReason::Stop, USAGE);
        assert!(matches!(pipe.next().await, Outgoing::Failed(_)), "over is over");
    });
}

#[test]
fn the_last_text_of_a_halt_passes_the_plugins_that_follow() {
    let host = host();
    let halts = Guest::filtering(|image| image.halt("bye", "enough"), |image| image.case(0));
    let inner = chain(&host, &[&scripted(Cut::Token), &halts]);
    let seen = stream(&inner, "hr", &["one ", "two "]);
    assert_eq!((seen.text().as_str(), &seen.end), ("bye", &filtered()));
    assert_eq!(seen.note("a.a").as_deref(), Some("bye"));
    assert_eq!(seen.note("a.end").as_deref(), Some("1x2"), "and they hear why it ended");

    // The other way round: the one that has judged the text already hears of it.
    let outer = chain(&host, &[&halts, &scripted(Cut::Token)]);
    let seen = stream(&outer, "phr", &["one ", "two "]);
    assert_eq!((seen.text().as_str(), &seen.end), ("bye", &filtered()));
    let end = runtime().block_on(late_note(&seen.job, "b.end"));
    assert_eq!(end, "1x2");
}

#[test]
fn a_rejection_ends_the_output_and_drops_what_is_held() {
    let host = host();
    let chain = chain(&host, &[&scripted(Cut::Token)]);
    for (script, expected, end) in [
        ("Rr", "", rejected("a", 1003, "not that")),
        ("ppRr", "one two ", rejected("a", 1003, "not that")),
        ("phRr", "one ", rejected("a", 1003, "not that")),
        ("hhhR", "", rejected("a", 1004, "not even that")),
        ("pphR", "one two ", rejected("a", 1004, "not even that")),
    ] {
        let seen = stream(&chain, script, &["one ", "two ", "three"]);
        assert_eq!((seen.text().as_str(), &seen.end), (expected, &end), "{script}");
    }
}

#[test]
fn the_other_filters_hear_of_a_rejection_once() {
    let host = host();
    let rejects = Guest::filtering(|i| i.reject(5, Some(1003), "not that"), |i| i.case(0));
    for (first, second, other) in
        [(&rejects, &scripted(Cut::Token), "b"), (&scripted(Cut::Token), &rejects, "a")]
    {
        let chain = chain(&host, &[first, second]);
        let seen = stream(&chain, "phr", &["one ", "two ", "three"]);
        assert_eq!(seen.text(), "");
        assert!(matches!(seen.end, Outgoing::Rejected { .. }), "{:?}", seen.end);
        let end = runtime().block_on(late_note(&seen.job, &format!("{other}.end")));
        assert_eq!(end, "1x2");
    }
}

#[test]
fn impossible_releases_are_the_plugins_failure() {
    let host = host();
    let chain = chain(&host, &[&scripted(Cut::Token)]);
    for (script, chunks, text) in [
        ("xr", ["one", "two"], "`release(4)` of 3 bytes"),
        ("hxr", ["one", "two"], "`release(7)` of 6 bytes"),
        ("1r", ["éa", "two"], "inside a character"),
        ("h1r", ["€", "two"], "inside a character"),
    ] {
        let seen = stream(&chain, script, &chunks);
        let failure = seen.failed("a", Phase::Stream, FailureKind::InvalidOutput);
        assert!(failure.detail.contains(text), "{script}: {failure:?}");
        assert_eq!(seen.text(), "", "{script}");
    }
}

#[test]
fn every_way_to_fail_has_its_kind_and_lets_nothing_out() {
    let limits = LimitOverrides {
        push_cpu: Some(Duration::from_millis(30)),
        cpu: Some(Duration::from_millis(30)),
        ..LimitOverrides::default()
    };
    let settings = PluginSettings { limits, ..PluginSettings::default() };
    let host = host();
    for (script, expected, kind) in [
        ("ptr", "one ", FailureKind::Trap),
        ("htr", "", FailureKind::Trap),
        ("pler", "one ", FailureKind::Cpu),
        ("hper", "one two ", FailureKind::Guest),
        ("hht", "", FailureKind::Trap),
        ("phl", "one ", FailureKind::Cpu),
        ("phe", "one ", FailureKind::Guest),
    ] {
        let chunks = ["one ", "two ", "three ", "four"];
        // A new one each time: it is not called for a while after five failures.
        let chain = chain_with(&host, &[(&scripted(Cut::Token), settings.clone())]);
        // Those that fail at their end get no more pushes than letters.
        let seen = stream(&chain, script, &chunks[..script.len().min(4) - 1]);
        seen.failed("a", Phase::Stream, kind);
        assert_eq!(seen.text(), expected, "{script}");
        assert_eq!(seen.note("a.end").is_some(), !script.ends_with('r'), "{script}");
    }
}

/// The model of [`scripted`] for text of one byte a character: what is released by
/// the letters before the one that fails.
fn released(letters: &[char], chunks: &[&str]) -> String {
    let (mut out, mut held) = (String::new(), String::new());
    for (letter, chunk) in letters.iter().zip(chunks) {
        held.push_str(chunk);
        match letter {
            'h' => {}
            'p' => out.push_str(&std::mem::take(&mut held)),
            'r' => {
                let rest = held.split_off(held.len() / 2);
                out.push_str(&std::mem::replace(&mut held, rest));
            }
            'w' => {
                out.push('W');
                held.clear();
            }
            'k' => held = "K".to_owned(),
            other => panic!("{other}"),
        }
    }
    out
}

/// Whatever a filter did before, when it traps, errs or rejects at any push, only
/// what it had released is out.
#[test]
fn nothing_held_leaks_wherever_a_filter_breaks_off() {
    let host = host();
    let chain = chain(&host, &[&scripted(Cut::Token)]);
    let chunks = ["secret", "-", "word", " and", " another", " one"];
    let mut random = Random(11);
    for round in 0..300 {
        let breaks = round % chunks.len();
        let letters: Vec<char> =
            (0..breaks).map(|_| random.pick(&['h', 'h', 'p', 'r', 'w', 'k'])).collect();
        let end = random.pick(&['t', 'e', 'R', 'x']);
        let script: String = letters.iter().chain([&end, &'r']).collect();
        let seen = stream(&chain, &script, &chunks);
        assert_eq!(seen.text(), released(&letters, &chunks), "{script}");
        let (failed, rejected) = match &seen.end {
            Outgoing::Failed(_) => (true, false),
            Outgoing::Rejected { .. } => (false, true),
            other => panic!("{script}: {other:?}"),
        };
        assert_eq!((failed, rejected), (end != 'R', end == 'R'), "{script}");
        // A plugin that does nothing but fail is not called for a while.
        for _ in 0..2 {
            assert_eq!(stream(&chain, "r", &["good"]).end, DONE);
        }
    }
}

fn fails_open(host: &HookHost, guests: &[&Guest]) -> Chain {
    let fail = FailPolicies { default: FailPolicy::Open, ..FailPolicies::default() };
    let policy = Policy { fail, ..Policy::default() };
    let settings = PluginSettings { policy, ..PluginSettings::default() };
    let plugins: Vec<_> = guests.iter().map(|guest| (*guest, settings.clone())).collect();
    chain_with(host, &plugins)
}

#[test]
fn failing_open_goes_on_only_without_held_text() {
    let host = host();
    for (script, expected) in [
        ("tr", Some("one two three")),
        ("ptr", Some("one two three")),
        ("per", Some("one two three")),
        ("pxr", Some("one two three")),
        ("wtr", Some("Wtwo three")),
        ("ppt", Some("one two three")),
        ("htr", None),
        ("rtr", None),
        ("pht", None),
        ("phe", None),
    ] {
        let chain = fails_open(&host, &[&scripted(Cut::Token)]);
        let chunks = ["one ", "two ", "three"];
        let chunks = if script.ends_with('r') { &chunks[..] } else { &chunks[..2] };
        let seen = stream(&chain, script, chunks);
        match expected {
            Some(text) => {
                let text = if chunks.len() == 2 { "one two " } else { text };
                assert_eq!((seen.text().as_str(), &seen.end), (text, &DONE), "{script}");
            }
            None => {
                assert!(matches!(seen.end, Outgoing::Failed(_)), "{script}: {:?}", seen.end);
                assert!(!seen.text().contains("two"), "{script}: {}", seen.text());
            }
        }
    }
}

#[test]
fn failing_open_keeps_the_text_that_waits_for_a_whole_piece() {
    let host = host();
    let chain = fails_open(&host, &[&scripted(Cut::Line)]);
    let seen = stream(&chain, "ptr", &["one\ntw", "o\nthr", "ee\nfour\nfive"]);
    assert_eq!((seen.text().as_str(), seen.end), ("one\ntwo\nthree\nfour\nfive", DONE));
}

#[test]
fn a_failing_response_hook_closes_or_opens() {
    let host = host();
    let traps = Guest::new().on_response("unreachable");
    let closed = chain(&host, &[&traps]);
    for seen in [stream(&closed, "", &["one ", "two"]), whole(&closed, &["one ", "two"])] {
        seen.failed("a", Phase::Response, FailureKind::Trap);
        assert_eq!(seen.text(), "");
    }
    // It held the text for its sake, and the operator's word is that it may go.
    let open = fails_open(&host, &[&traps]);
    for seen in [stream(&open, "", &["one ", "two"]), whole(&open, &["one ", "two"])] {
        assert_eq!((seen.text().as_str(), seen.end), ("one two", DONE));
    }
}

#[test]
fn a_filter_that_cannot_be_opened_fails_the_job_before_any_text() {
    let host = host();
    let traps = Guest::new().stream_filter("unreachable", "unreachable", "unreachable");
    let mut guest = Guest::new();
    let area = guest.image.error(1, "not now");
    let errs = guest.stream_filter(&format!("(i32.const {area})"), "unreachable", "unreachable");
    for (guest, kind) in [(&traps, FailureKind::Trap), (&errs, FailureKind::Guest)] {
        // The one that is open already is closed again, once.
        let closed = chain(&host, &[guest, &scripted(Cut::Token)]);
        runtime().block_on(async {
            let mut job = closed.begin(JobContext { job: "r".to_owned(), ..context() });
            let failure = job.open(true).await.unwrap_err();
            assert_eq!((failure.phase, failure.kind), (Phase::Stream, kind));
            assert_eq!(failure.retryable, kind == FailureKind::Guest);
            assert_eq!(note(&job, "b.end").as_deref(), Some("1x3"));
            let changes = job.changes();
            let fine = changes.iter().any(|c| c.plugin == "b" && c.verdict == Verdict::Pass);
            assert!(fine, "by the instance that was opened: {changes:?}");
        });
        let open = fails_open(&host, &[guest, &scripted(Cut::Token)]);
        let seen = stream(&open, "pr", &["one"]);
        assert_eq!((seen.text().as_str(), seen.end), ("one", DONE));
    }
}

#[test]
fn more_bytes_than_may_be_held_are_a_failure() {
    let small = LimitOverrides { hold_bytes: Some(8), ..LimitOverrides::default() };
    let settings = PluginSettings { limits: small, ..PluginSettings::default() };
    let host = host();
    let by_operator = chain_with(&host, &[(&scripted(Cut::Token), settings)]);
    let by_plan = chain(&host, &[&scripted_with(Cut::Token, 8)]);
    for chain in [&by_operator, &by_plan] {
        let seen = stream(chain, "hhr", &["1234", "5678"]);
        assert_eq!((seen.text().as_str(), &seen.end), ("12345678", &DONE), "8 are allowed");
        let seen = stream(chain, "phhr", &["x", "1234", "56789"]);
        let failure = seen.failed("a", Phase::Stream, FailureKind::Hold);
        assert!(failure.detail.contains("the limit is 8"), "{failure:?}");
        assert_eq!(seen.text(), "x");
        // It counts what is held after the verdict, not what comes in.
        let seen = stream(chain, "pr", &["1234567890"]);
        assert_eq!(seen.text(), "1234567890");
    }
}

#[test]
fn text_that_is_held_for_too_long_is_a_failure_without_another_push() {
    let limits =
        LimitOverrides { hold_time: Some(Duration::from_millis(100)), ..LimitOverrides::default() };
    let settings = PluginSettings { limits, ..PluginSettings::default() };
    let host = host();
    let chain = chain_with(&host, &[(&scripted(Cut::Token), settings)]);
    runtime().block_on(async {
        let (job, mut pipe) = open(&chain, "phr", true).await;
        pipe.push("one ".to_owned(), Vec::new());
        pipe.push("two ".to_owned(), Vec::new());
        let (texts, end) = drain(&mut pipe).await;
        assert_eq!(texts, ["one "]);
        let Outgoing::Failed(failure) = end else { panic!("{end:?}") };
        assert_eq!((failure.kind, failure.phase), (FailureKind::Hold, Phase::Stream));
        assert!(failure.detail.contains("hold_time"), "{failure:?}");
        assert_eq!(note(&job, "a.end"), None, "a filter that failed is not called again");
    });
}

#[test]
fn releasing_nothing_does_not_make_held_text_younger() {
    let limits =
        LimitOverrides { hold_time: Some(Duration::from_millis(200)), ..LimitOverrides::default() };
    let settings = PluginSettings { limits, ..PluginSettings::default() };
    let host = host();
    let releases_nothing = Guest::filtering(|image| image.release(0), |image| image.case(0));
    let chain = chain_with(&host, &[(&releases_nothing, settings)]);
    runtime().block_on(async {
        let (_job, mut pipe) = open(&chain, "", true).await;
        for _ in 0..500 {
            pipe.push("x".to_owned(), Vec::new());
            if let Ok(end) = tokio::time::timeout(Duration::from_millis(20), pipe.next()).await {
                let Outgoing::Failed(failure) = end else { panic!("{end:?}") };
                assert_eq!(failure.kind, FailureKind::Hold);
                return;
            }
        }
        panic!("text was held for ten seconds, and a limit of 200 ms did not end it");
    });
}

#[test]
fn dropping_the_pipe_tells_the_filters_once() {
    let host = host();
    let chain = chain(&host, &[&scripted(Cut::Token), &scripted(Cut::Token)]);
    runtime().block_on(async {
        let (job, mut pipe) = open(&chain, "phr", true).await;
        pipe.push("one ".to_owned(), Vec::new());
        let first = tokio::time::timeout(PATIENCE, pipe.next()).await.unwrap();
        assert_eq!(first, Outgoing::Text("one ".to_owned()));
        drop(pipe);
        for name in ["a.end", "b.end"] {
            assert_eq!(late_note(&job, name).await, "1x3", "cancelled");
        }
    });
}

#[test]
fn cancelling_stops_a_filter_that_runs() {
    let host = host_with(|config| config.limits.push_cpu = Duration::from_secs(600));
    let chain = chain(&host, &[&scripted(Cut::Token)]);
    runtime().block_on(async {
        let (job, mut pipe) = open(&chain, "plr", true).await;
        pipe.push("one ".to_owned(), Vec::new());
        pipe.push("two ".to_owned(), Vec::new());
        let first = tokio::time::timeout(PATIENCE, pipe.next()).await.unwrap();
        assert_eq!(first, Outgoing::Text("one ".to_owned()));
        job.canceller().cancel();
        let (texts, end) = drain(&mut pipe).await;
        assert_eq!(texts, [] as [&str; 0]);
        let Outgoing::Failed(failure) = end else { panic!("{end:?}") };
        assert_eq!(failure.kind, FailureKind::Cancelled);
    });
}

#[test]
fn a_broken_filter_is_of_no_concern_to_other_jobs() {
    let host = host();
    let chain = chain(&host, &[&scripted(Cut::Token)]);
    runtime().block_on(async {
        let (_one, mut broken) = open(&chain, "ptr", true).await;
        let (_two, mut whole) = open(&chain, "phhr", true).await;
        for chunk in ["one ", "two ", "three"] {
            broken.push(chunk.to_owned(), Vec::new());
            whole.push(chunk.to_owned(), Vec::new());
        }
        whole.close(FinishReason::Stop, USAGE);
        let (texts, end) = drain(&mut broken).await;
        assert_eq!(texts, ["one "]);
        assert!(matches!(end, Outgoing::Failed(_)));
        let (texts, end) = drain(&mut whole).await;
        assert_eq!((texts.concat().as_str(), end), ("one two three", DONE));
    });
}
