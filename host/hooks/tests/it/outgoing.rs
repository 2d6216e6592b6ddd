//! The outgoing pipeline: what verdicts do to text, in whichever order plugins and
//! pieces come. How it ends, and what then never gets out, is in `outgoing_ends`.

use std::time::Duration;

use llamero_hooks::{
    FinishReason, HookHost, Mode, Outgoing, Phase, PluginSettings, Policy, RequestOutcome, Verdict,
    WholeOutput,
};

use crate::guest::{Guest, Image};
use crate::outgoing_guest::{
    Cut, RESPONSE_COMPLETION_TOKENS, RESPONSE_FINISH, RESPONSE_TEXT, scripted,
};
use crate::outgoing_support::{PATIENCE, USAGE, chain_with, drain, note, open, stream, whole};
use crate::support::{chain, context, host, host_with, request, runtime};

fn with_policy(policy: Policy) -> PluginSettings {
    PluginSettings { policy, ..PluginSettings::default() }
}

const DONE: Outgoing = Outgoing::Done(FinishReason::Stop);

#[test]
fn verdicts_decide_over_held_text_and_the_chunk() {
    let host = host();
    let chain = chain(&host, &[&scripted(Cut::Token)]);
    for (script, expected) in [
        ("pppr", &["one ", "two ", "three"] as &[&str]),
        // Pass sends what is held first.
        ("hhpr", &["one two three"]),
        ("hpr", &["one two ", "three"]),
        // At the end what is held goes out or not, as the filter says.
        ("hhhr", &["one two three"]),
        ("phhr", &["one ", "two three"]),
        ("phhd", &["one "]),
        ("phhp", &["one ", "[tail]"]),
        // Of two letters and a space, then of six.
        ("rpr", &["on", "e two ", "three"]),
        ("1hpr", &["o", "ne two three"]),
        ("000r", &["one two three"]),
        // A rewrite takes the place of both.
        ("hwpr", &["W", "three"]),
        ("pkpr", &["one ", "Kthree"]),
        ("kkkr", &["K"]),
        ("kkkd", &[]),
        // A tail replaces what is held, even if that is nothing.
        ("pppp", &["one ", "two ", "three", "[tail]"]),
    ] {
        let seen = stream(&chain, script, &["one ", "two ", "three"]);
        assert_eq!(
            (seen.texts.as_slice(), &seen.end),
            (expected_texts(expected).as_slice(), &DONE),
            "{script}"
        );
        assert_eq!(seen.note("a.end").as_deref(), Some("1x0"), "{script}: told of its end, once");
    }
}

fn expected_texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn a_filter_is_told_how_much_is_held() {
    let host = host();
    let chain = chain(&host, &[&scripted(Cut::Token)]);
    let seen = stream(&chain, "hhrkpr", &["abc", "d", "ef", "g", "h"]);
    // 0, 3 and 4 bytes; half of the six remain; then the K of the rewrite.
    assert_eq!(seen.note("a.held").as_deref(), Some("adedb"));
}

#[test]
fn text_is_cut_as_the_plan_says() {
    let host = host();
    let chunks = ["On", "e. Tw", "o!\nThre", "e é", "€"];
    for (cut, expected) in [
        (Cut::Token, &["On", "e. Tw", "o!\nThre", "e é", "€"] as &[&str]),
        (Cut::Bytes(8), &["One. Two", "!\nThree ", "é€"]),
        (Cut::Line, &["One. Two!\n", "Three é€"]),
        (Cut::Sentence, &["One. ", "Two!\n", "Three é€"]),
        (Cut::Whole, &["One. Two!\nThree é€"]),
    ] {
        let chain = chain(&host, &[&scripted(cut)]);
        let seen = stream(&chain, "r", &chunks);
        let given: Vec<String> =
            ('a'..).map_while(|letter| seen.note(&format!("a.{letter}"))).collect();
        assert_eq!(given, expected, "{cut:?}");
        assert_eq!(seen.text(), chunks.concat(), "{cut:?}");
        assert_eq!(seen.end, DONE);
    }
}

#[test]
fn the_last_plugin_is_the_first_to_see_the_output() {
    let host = host();
    let rewrites = Guest::filtering(|image| image.rewrite("by b ", ""), |image| image.case(0));
    let chain = chain(&host, &[&scripted(Cut::Token), &rewrites, &scripted(Cut::Token)]);
    let seen = stream(&chain, "ppr", &["one ", "two "]);
    assert_eq!(seen.note("c.a").as_deref(), Some("one "));
    assert_eq!(seen.note("a.a").as_deref(), Some("by b "));
    assert_eq!(seen.texts, ["by b ", "by b "]);
}

#[test]
fn an_order_of_the_operators_goes_before_the_names() {
    let host = host();
    let rewrites = Guest::filtering(|image| image.rewrite("R", ""), |image| image.case(0));
    let first = Policy { order: -1, ..Policy::default() };
    let chain = chain_with(
        &host,
        &[(&scripted(Cut::Token), PluginSettings::default()), (&rewrites, with_policy(first))],
    );
    // `b` is now the outermost layer, so that `a` sees the text as it was.
    let seen = stream(&chain, "pr", &["one"]);
    assert_eq!(seen.note("a.a").as_deref(), Some("one"));
    assert_eq!(seen.texts, ["R"]);
}

#[test]
fn what_one_filter_holds_the_next_one_sees_at_the_end() {
    let host = host();
    let replaces = Guest::filtering(|image| image.case(1), |image| image.replace("late"));
    let chain = chain(&host, &[&scripted(Cut::Token), &replaces]);
    let seen = stream(&chain, "hr", &["one ", "two "]);
    assert_eq!(seen.note("a.a").as_deref(), Some("late"), "one push, before its own end");
    assert_eq!(seen.note("a.end").as_deref(), Some("1x0"));
    assert_eq!((seen.texts, seen.end), (vec!["late".to_owned()], DONE));
}

/// Two filters in a row, each doing all kinds of things: what comes out is what
/// goes in, in order, when both only hold and release.
#[test]
fn filters_that_only_hold_and_release_lose_nothing() {
    let host = host();
    let chain = chain(&host, &[&scripted(Cut::Token), &scripted(Cut::Bytes(3))]);
    let mut random = Random(7);
    for _ in 0..200 {
        let script: String = (0..12).map(|_| random.pick(&['p', 'h', 'r', '0'])).collect();
        let chunks: Vec<String> =
            (0..random.below(9)).map(|n| "abcdefgh"[..random.below(8)].repeat(n % 3)).collect();
        let chunks: Vec<&str> =
            chunks.iter().map(String::as_str).filter(|chunk| !chunk.is_empty()).collect();
        let seen = stream(&chain, &format!("{script}r"), &chunks);
        assert_eq!((seen.text(), seen.end), (chunks.concat(), DONE), "{script} {chunks:?}");
    }
}

/// The same numbers in every run.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(limit).unwrap()).unwrap()
    }

    pub fn pick(&mut self, letters: &[char]) -> char {
        letters[self.below(letters.len())]
    }
}

#[test]
fn a_filter_that_is_not_interested_costs_nothing_more() {
    let host = host();
    let chain_of = |guests: &[&Guest]| chain(&host, guests);
    let nobody = chain_of(&[&Guest::not_interested(), &Guest::not_interested()]);
    let one = chain_of(&[&Guest::not_interested(), &scripted(Cut::Token)]);
    runtime().block_on(async {
        for streams in [true, false] {
            let mut job = nobody.begin(context());
            assert!(job.open(streams).await.unwrap().is_none(), "text goes straight on");
        }
    });
    let seen = stream(&one, "pr", &["one"]);
    assert_eq!((seen.texts, seen.end), (vec!["one".to_owned()], DONE));
}

#[test]
fn a_chain_without_outgoing_phases_has_no_pipeline() {
    let host = host();
    let chain = chain(&host, &[&Guest::returning(Image::pass)]);
    runtime().block_on(async {
        let mut job = chain.begin(context());
        job.on_request(request()).await;
        assert!(job.open(true).await.unwrap().is_none());
    });
}

#[test]
fn one_instance_serves_all_phases_of_a_job() {
    // Interested only if its own request hook was called before.
    let mut guest = Guest::new();
    let pass = guest.image.pass();
    let plan = guest.image.plan(Cut::Token, u32::MAX, false);
    let none = guest.image.no_plan();
    let verdict = guest.image.rewrite("seen", "");
    let tail = guest.image.case(0);
    let guest = guest
        .with("(global $seen (mut i32) (i32.const 0))")
        .on_request(&format!("(global.set $seen (i32.const 1)) (i32.const {pass})"))
        .stream_filter(
            &format!(
                "(if (result i32) (global.get $seen)
                    (then (i32.const {plan})) (else (i32.const {none})))"
            ),
            &format!("(i32.const {verdict})"),
            &format!("(i32.const {tail})"),
        );
    let host = host();
    let chain = chain(&host, &[&guest]);
    runtime().block_on(async {
        let mut without = chain.begin(context());
        assert!(without.open(true).await.unwrap().is_none());
        let mut with = chain.begin(context());
        assert!(matches!(with.on_request(request()).await, RequestOutcome::Continue(_)));
        let mut pipe = with.open(true).await.unwrap().expect("interested");
        pipe.push("one".to_owned(), Vec::new());
        pipe.close(FinishReason::Stop, USAGE);
        assert_eq!(drain(&mut pipe).await, (vec!["seen".to_owned()], DONE));
    });
}

#[test]
fn tokens_come_with_their_text_if_they_are_wanted() {
    // Answers with the first token as a letter.
    let mut guest = Guest::new();
    let wants = guest.image.plan(Cut::Token, u32::MAX, true);
    let letter = guest.image.place(b"?");
    let nothing = guest.image.place(b"none");
    let verdict = guest.image.words(&[0, 3, letter, 1, letter, 0]);
    let without = guest.image.words(&[0, 3, nothing, 4, letter, 0]);
    let tail = guest.image.case(0);
    let push = format!(
        "(if (i32.eqz (local.get $count)) (then (return (i32.const {without}))))
        (i32.store8 (i32.const {letter}) (i32.load (local.get $tokens)))
        (i32.const {verdict})"
    );
    let guest =
        guest.stream_filter(&format!("(i32.const {wants})"), &push, &format!("(i32.const {tail})"));
    let host = host();
    let chain = chain(&host, &[&guest]);
    runtime().block_on(async {
        let (_job, mut pipe) = open(&chain, "", true).await;
        pipe.push("one".to_owned(), vec![65, 66]);
        pipe.push("two".to_owned(), Vec::new());
        pipe.close(FinishReason::Stop, USAGE);
        let (texts, _) = drain(&mut pipe).await;
        assert_eq!(texts, ["A", "none"]);
    });
}

#[test]
fn text_goes_on_before_the_end_comes() {
    let host = host();
    let chain = chain(&host, &[&scripted(Cut::Token)]);
    runtime().block_on(async {
        let (_job, mut pipe) = open(&chain, "phr", true).await;
        pipe.push("one".to_owned(), Vec::new());
        let first = tokio::time::timeout(PATIENCE, pipe.next()).await.unwrap();
        assert_eq!(first, Outgoing::Text("one".to_owned()));
        pipe.push("two".to_owned(), Vec::new());
        // `next` can be given up and asked again without losing anything.
        let early = tokio::time::timeout(Duration::from_millis(50), pipe.next()).await;
        assert!(early.is_err(), "it is held: {early:?}");
        pipe.close(FinishReason::Length, USAGE);
        let end = Outgoing::Done(FinishReason::Length);
        assert_eq!(drain(&mut pipe).await, (vec!["two".to_owned()], end));
    });
}

/// Replaces the output with what it was given: the text's length, the finish
/// reason and the number of tokens, each as a letter from `0` on.
fn accountant() -> Guest {
    let mut guest = Guest::new();
    let text = guest.image.place(b"???");
    let replace = guest.image.words(&[0, 1, text, 3, 0, 0]);
    let put = |at: u32, value: String| {
        format!("(i32.store8 (i32.const {}) (i32.add (i32.const 48) {value}))", text + at)
    };
    let field = |load: &str, offset: u32| {
        format!("(i32.{load} (i32.add (local.get $args) (i32.const {offset})))")
    };
    let body = [
        put(0, field("load", RESPONSE_TEXT + 4)),
        put(1, field("load8_u", RESPONSE_FINISH)),
        put(2, field("load", RESPONSE_COMPLETION_TOKENS)),
        format!("(i32.const {replace})"),
    ];
    guest.on_response(&body.concat())
}

#[test]
fn a_response_hook_gets_the_whole_output_streamed_or_not() {
    let host = host();
    let chain = chain(&host, &[&accountant()]);
    for streams in [true, false] {
        runtime().block_on(async {
            let (job, mut pipe) = open(&chain, "", streams).await;
            for chunk in ["ab", "cd", "e"] {
                pipe.push(chunk.to_owned(), Vec::new());
            }
            pipe.close(FinishReason::Length, USAGE);
            let end = Outgoing::Done(FinishReason::Length);
            assert_eq!(drain(&mut pipe).await, (vec!["515".to_owned()], end), "in one fragment");
            let changes = job.changes();
            assert_eq!(changes.len(), 1, "{changes:?}");
            assert_eq!((changes[0].phase, changes[0].verdict), (Phase::Response, Verdict::Replace));
        });
    }
}

#[test]
fn a_response_hook_lets_pass_or_rejects() {
    let host = host();
    let passes = chain(&host, &[&Guest::responding(|image| image.case(0))]);
    let seen = stream(&passes, "", &["one ", "two"]);
    assert_eq!((seen.texts.as_slice(), seen.end), (["one two".to_owned()].as_slice(), DONE));
    // An output without text has no fragment either.
    let seen = stream(&passes, "", &[]);
    assert_eq!((seen.texts.as_slice(), seen.end), ([].as_slice(), DONE));

    let rejects = chain(&host, &[&Guest::responding(|image| image.reject(2, Some(1005), "no"))]);
    for seen in [stream(&rejects, "", &["one"]), whole(&rejects, &["one"])] {
        let expected = Outgoing::Rejected {
            plugin: "a".to_owned(),
            phase: Phase::Response,
            code: Some(1005),
            reason: "no".to_owned(),
        };
        assert_eq!((seen.text().as_str(), seen.end), ("", expected));
    }
}

/// Has both phases: the filter rewrites to `S`, the hook replaces with `H`.
fn both() -> Guest {
    let mut guest = Guest::filtering(|image| image.rewrite("S", ""), |image| image.case(0));
    let area = guest.image.replace("H");
    guest.on_response(&format!("(i32.const {area})"))
}

#[test]
fn every_output_is_seen_once_in_the_phase_that_fits() {
    let host = host();
    let chain_of = |guest: &Guest| chain(&host, &[guest]);
    let both = chain_of(&both());
    assert_eq!(stream(&both, "", &["one", "two"]).texts, ["S", "S"]);
    assert_eq!(whole(&both, &["one", "two"]).text(), "H");
    // A filter alone sees what is not streamed, too: that is no way around it.
    let filter = chain_of(&scripted(Cut::Token));
    let seen = whole(&filter, &["one", "two"]);
    assert_eq!((seen.text().as_str(), seen.note("a.a").as_deref()), ("onetwo", Some("one")));
}

#[test]
fn only_the_operator_lets_streams_pass_a_response_hook() {
    let host = host();
    let replaces = Guest::responding(|image| image.replace("H"));
    let skip = Policy { streams: WholeOutput::Skip, ..Policy::default() };
    let chain = chain_with(&host, &[(&replaces, with_policy(skip))]);
    runtime().block_on(async {
        let mut job = chain.begin(context());
        assert!(job.open(true).await.unwrap().is_none());
    });
    assert_eq!(whole(&chain, &["one"]).text(), "H");
}

#[test]
fn a_filter_behind_a_response_hook_gets_one_piece() {
    let host = host();
    let chain = chain(&host, &[&scripted(Cut::Token), &Guest::responding(|i| i.case(0))]);
    let seen = stream(&chain, "pr", &["one ", "two ", "three"]);
    assert_eq!(seen.note("a.a").as_deref(), Some("one two three"));
    assert_eq!((seen.texts.as_slice(), seen.end), (["one two three".to_owned()].as_slice(), DONE));
}

fn shadow(host: &HookHost, guest: &Guest) -> llamero_hooks::Chain {
    let policy = Policy { mode: Mode::Shadow, ..Policy::default() };
    chain_with(host, &[(guest, with_policy(policy))])
}

#[test]
fn a_shadow_changes_nothing() {
    let host = host_with(|config| config.limits.push_cpu = Duration::from_millis(20));
    for script in
        ["hhhr", "wwwd", "kkkp", "pHr", "pRr", "pppR", "pxr", "per", "ptr", "plr", "hhht", "hhhd"]
    {
        let tried = shadow(&host, &scripted(Cut::Token));
        let seen = stream(&tried, script, &["one ", "two ", "three"]);
        assert_eq!(seen.texts, ["one ", "two ", "three"], "{script}");
        assert_eq!(seen.end, DONE, "{script}");
        assert!(seen.note("a.a").is_some(), "{script}: it did run");
    }
    let rejects = shadow(&host, &Guest::responding(|image| image.reject(2, Some(1005), "no")));
    for seen in [stream(&rejects, "", &["one ", "two"]), whole(&rejects, &["one ", "two"])] {
        assert_eq!((seen.text().as_str(), &seen.end), ("one two", &DONE));
        let changes = seen.job.changes();
        assert_eq!(changes[0].verdict, Verdict::Reject, "but its verdict is recorded");
        assert!(changes[0].shadow, "{changes:?}");
    }
}

#[test]
fn a_plugin_that_is_off_is_not_asked() {
    let host = host();
    let policy = Policy { mode: Mode::Off, ..Policy::default() };
    let trap = Guest::new().stream_filter("unreachable", "unreachable", "unreachable");
    let chain = chain_with(&host, &[(&trap, with_policy(policy))]);
    runtime().block_on(async {
        let mut job = chain.begin(context());
        assert!(job.open(true).await.unwrap().is_none());
        assert_eq!(note(&job, "a.a"), None);
    });
}
