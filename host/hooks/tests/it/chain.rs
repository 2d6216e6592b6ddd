//! What a chain does with verdicts, and what jobs share.

use std::sync::Arc;

use llamero_hooks::{
    Content, FailureKind, JobContext, Message, Phase, Prompt, PromptOutcome, Request,
    RequestOutcome, Verdict,
};
use serde_json::json;

use crate::guest::{CONTENT, Guest, Image, MARKUP, MODEL, TEXT, TOKENS};
use crate::support::{
    chain, config, context, continued, failed, host, host_with, on_prompt, on_request, prompt,
    request, responded, runtime,
};

/// Answers with the model's name that it sees.
fn answers_model() -> Guest {
    answers_with(MODEL)
}

/// Answers with the string at an offset of its arguments.
fn answers_with(offset: u32) -> Guest {
    let mut guest = Guest::new();
    let area = guest.image.respond_raw(0, 0);
    guest.on_request(&format!(
        "(i32.store offset=8 (i32.const {area}) (i32.load offset={offset} (local.get $args)))
         (i32.store offset=12 (i32.const {area}) (i32.load offset={next} (local.get $args)))
         (i32.const {area})",
        next = offset + 4
    ))
}

/// Counts its calls and answers with the count, as one digit.
fn counts() -> Guest {
    let mut guest = Guest::new();
    let digit = guest.image.place(b"0");
    let area = guest.image.respond_raw(digit, 1);
    guest.on_request(&format!(
        "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
         (i32.store8 (i32.const {digit}) (i32.add (global.get $calls) (i32.const 48)))
         (i32.const {area})"
    ))
}

#[test]
fn an_empty_chain_passes_everything() {
    let chain = host().empty_chain();
    assert_eq!(continued(on_request(&chain)), request());
    let PromptOutcome::Continue { text, markup, replaced } = on_prompt(&chain) else {
        panic!("expected to continue");
    };
    assert_eq!((text, markup, replaced), (prompt().text, prompt().markup, false));
}

#[test]
fn pass_changes_nothing() {
    let host = host();
    let chain = chain(&host, &[&Guest::returning(Image::pass)]);
    assert_eq!(continued(on_request(&chain)), request());
}

#[test]
fn a_patch_changes_what_it_names_and_nothing_else() {
    let host = host();
    let guest = Guest::returning(|image| {
        image.patch(
            Some("other.gguf"),
            Some(("be brief", "bye")),
            &[("seed", "null"), ("temperature", "0.25")],
        )
    });
    let chain = chain(&host, &[&guest]);
    let expected = Request {
        model: "other.gguf".to_owned(),
        content: Content::Completion {
            system: "be brief".to_owned(),
            input: vec!["bye".to_owned()],
        },
        options: vec![("temperature".to_owned(), json!(0.25))],
        wants_stream: false,
    };
    assert_eq!(continued(on_request(&chain)), expected);
}

#[test]
fn changes_are_recorded_and_text_only_when_asked_for() {
    let host = host();
    let patches = Guest::returning(|image| image.patch(None, Some(("be kind", "bye")), &[]));
    let chain = chain(&host, &[&Guest::returning(Image::pass), &patches]);
    let run = |keep| {
        let mut job = chain.begin(context());
        if keep {
            job = job.keep_text();
        }
        runtime().block_on(job.on_request(request()));
        assert!(!job.elapsed().is_zero());
        job.changes().to_vec()
    };
    let changes = run(false);
    let summary: Vec<_> = changes
        .iter()
        .map(|change| (change.plugin.as_str(), change.phase, change.verdict))
        .collect();
    assert_eq!(
        summary,
        [("a", Phase::Request, Verdict::Pass), ("b", Phase::Request, Verdict::Patch)]
    );
    let [field] = changes[1].fields.as_slice() else {
        panic!("one field: {changes:?}");
    };
    assert_eq!(
        (field.field.as_str(), field.before_bytes, field.after_bytes),
        ("input[0]", Some(5), Some(3))
    );
    assert_eq!(field.text, None);
    let with_text = run(true)[1].fields[0].text.clone();
    assert_eq!(with_text, Some(("hello".to_owned(), "bye".to_owned())));
}

#[test]
fn each_plugin_sees_what_those_before_it_made_of_the_request() {
    let host = host();
    let patches = Guest::returning(|image| image.patch(Some("from-a"), None, &[]));
    let chain1 = chain(&host, &[&patches, &answers_model()]);
    assert_eq!(responded(on_request(&chain1)), "from-a");
    // And order is what it depends on.
    let chain2 = chain(&host, &[&answers_model(), &patches]);
    assert_eq!(responded(on_request(&chain2)), "m");
}

#[test]
fn a_patch_is_checked_before_the_next_plugin_sees_it() {
    let host = host_with(|config| {
        config.option_check = Some(Arc::new(|request: &Request| {
            match request.options.iter().find(|(name, _)| name == "bogus") {
                Some((name, _)) => Err(format!("unknown option `{name}`")),
                None => Ok(()),
            }
        }));
    });
    let bogus = Guest::returning(|image| image.patch(None, None, &[("bogus", "1")]));
    let chain = chain(&host, &[&bogus, &answers_model()]);
    let failure = failed(on_request(&chain), "a", FailureKind::InvalidOutput);
    assert!(failure.detail.contains("unknown option `bogus`"), "{failure:?}");

    // A job may bring a check of its own.
    let mut lenient = chain.begin(context()).with_check(Arc::new(|_| Ok(())));
    let outcome = runtime().block_on(lenient.on_request(request()));
    assert_eq!(responded(outcome), "m");
}

#[test]
fn an_answer_ends_the_chain() {
    let host = host();
    let answers = Guest::returning(|image| image.respond("from the cache"));
    let chain = chain(&host, &[&answers, &Guest::doing("unreachable")]);
    assert_eq!(responded(on_request(&chain)), "from the cache");
}

#[test]
fn a_rejection_keeps_its_code_and_text() {
    let host = host();
    for code in [None, Some(6), Some(4711)] {
        let rejects = Guest::returning(|image| image.reject(3, code, "not today"));
        let chain = chain(&host, &[&rejects, &Guest::doing("unreachable")]);
        let RequestOutcome::Rejected { plugin, phase, code: given, reason } = on_request(&chain)
        else {
            panic!("expected a rejection");
        };
        assert_eq!(
            (plugin.as_str(), phase, given, reason.as_str()),
            ("a", Phase::Request, code, "not today")
        );
    }
}

#[test]
fn a_job_that_a_plugin_ended_does_not_go_on() {
    let host = host();
    let rejects = Guest::returning(|image| image.reject(3, None, "no"));
    let replaces = Guest::prompting(|image| image.replace("x"));
    let chain = chain(&host, &[&rejects, &replaces]);
    runtime().block_on(async {
        let mut job = chain.begin(context());
        job.on_request(request()).await;
        let outcome = job.on_prompt(prompt()).await;
        let PromptOutcome::Failed(failure) = outcome else {
            panic!("the job is over: {outcome:?}");
        };
        assert_eq!(failure.kind, FailureKind::Cancelled);
    });
}

#[test]
fn conversations_arrive_with_their_roles() {
    let host = host();
    // The list of messages: the second one's role is `other`, and its name is the
    // answer.
    let mut guest = Guest::new();
    let area = guest.image.respond_raw(0, 0);
    let payload = CONTENT + 4;
    let guest = guest.on_request(&format!(
        "(local.set $n (i32.load offset={payload} (local.get $args)))
         (if (i32.ne (i32.load8_u offset=20 (local.get $n)) (i32.const 4)) (then unreachable))
         (if (i32.ne (i32.load8_u (local.get $n)) (i32.const 1)) (then unreachable))
         (i32.store offset=8 (i32.const {area}) (i32.load offset=24 (local.get $n)))
         (i32.store offset=12 (i32.const {area}) (i32.load offset=28 (local.get $n)))
         (i32.const {area})"
    ));
    let chain = chain(&host, &[&guest]);
    let message = |role: &str| Message { role: role.to_owned(), content: "hi".to_owned() };
    let request =
        Request { content: Content::Chat(vec![message("user"), message("critic")]), ..request() };
    let outcome = runtime().block_on(chain.begin(context()).on_request(request));
    assert_eq!(responded(outcome), "critic");
}

#[test]
fn the_context_tells_job_subject_and_worker() {
    let host = host();
    for (offset, expected) in [(0, "job-1"), (8, "llm.worker"), (16, "w1")] {
        let chain = chain(&host, &[&answers_with(offset)]);
        assert_eq!(responded(on_request(&chain)), expected);
    }
}

#[test]
fn every_job_has_an_instance_of_its_own() {
    let host = host();
    let chain = chain(&host, &[&counts()]);
    for _ in 0..20 {
        assert_eq!(responded(on_request(&chain)), "1");
    }
}

#[test]
fn one_instance_serves_all_phases_of_a_job() {
    let host = host();
    let mut guest = Guest::new();
    let pass = guest.image.pass();
    let digit = guest.image.place(b"0");
    let replace = guest.image.replace("?");
    let guest = guest
        .on_request(&format!("(global.set $calls (i32.const 5)) (i32.const {pass})"))
        .on_prompt(&format!(
            "(i32.store8 (i32.const {digit}) (i32.add (global.get $calls) (i32.const 48)))
             (i32.store offset=8 (i32.const {replace}) (i32.const {digit}))
             (i32.const {replace})"
        ));
    let chain = chain(&host, &[&guest]);
    runtime().block_on(async {
        let mut job = chain.begin(context());
        continued(job.on_request(request()).await);
        let PromptOutcome::Continue { text, replaced, .. } = job.on_prompt(prompt()).await else {
            panic!("expected to continue");
        };
        assert_eq!((text.as_str(), replaced), ("5", true));
    });
}

#[test]
fn prompt_hooks_replace_and_the_next_one_gets_the_new_count() {
    let host = host();
    let replaces = Guest::prompting(|image| image.replace("four"));
    // Replaces the prompt with the first three bytes of it, if it has four tokens.
    let mut checks = Guest::new();
    let area = checks.image.replace("...");
    let checks = checks.on_prompt(&format!(
        "(if (i32.ne (i32.load offset={TOKENS} (local.get $args)) (i32.const 4))
            (then unreachable))
         (i32.store offset=8 (i32.const {area}) (i32.load offset={TEXT} (local.get $args)))
         (i32.const {area})"
    ));
    let chain = chain(&host, &[&replaces, &checks]);
    let PromptOutcome::Continue { text, replaced, .. } = on_prompt(&chain) else {
        panic!("expected to continue");
    };
    assert_eq!((text.as_str(), replaced), ("fou", true));
}

/// Gives its prompt back as it is, if it has that many tokens.
fn gives_back(tokens: u32) -> Guest {
    let mut guest = Guest::new();
    let area = guest.image.replace("");
    guest.on_prompt(&format!(
        "(if (i32.ne (i32.load offset={TOKENS} (local.get $args)) (i32.const {tokens}))
            (then unreachable))
         (i64.store offset=8 align=4 (i32.const {area})
            (i64.load offset={TEXT} align=4 (local.get $args)))
         (i64.store offset=16 align=4 (i32.const {area})
            (i64.load offset={MARKUP} align=4 (local.get $args)))
         (i32.const {area})"
    ))
}

#[test]
fn markup_goes_from_hook_to_hook() {
    let host = host();
    let marks = Guest::prompting(|image| image.replace_marked("<s>é</s>", &[[0, 3], [5, 9]]));
    // Two spans and one character.
    let chain = chain(&host, &[&gives_back(7), &marks, &gives_back(3)]);
    let prompt = Prompt { markup: vec![0..2, 2..7], tokens: 7, ..prompt() };
    runtime().block_on(async {
        let outcome = chain.begin(context()).on_prompt(prompt).await;
        let PromptOutcome::Continue { text, markup, replaced } = outcome else {
            panic!("expected to continue: {outcome:?}");
        };
        assert_eq!((text.as_str(), replaced), ("<s>é</s>", true));
        assert_eq!(markup, [0..3, 5..9]);
    });
}

#[test]
fn a_prompt_with_impossible_markup_is_invalid() {
    let host = host();
    for markup in [[0, 4], [4, 5], [2, 1], [0, u32::MAX]] {
        let replaces = Guest::prompting(|image| image.replace_marked("é!", &[markup]));
        let outcome = on_prompt(&chain(&host, &[&replaces]));
        let PromptOutcome::Failed(failure) = outcome else {
            panic!("expected a failure: {outcome:?}");
        };
        assert_eq!((failure.phase, failure.kind), (Phase::Prompt, FailureKind::InvalidOutput));
        assert!(failure.detail.contains("markup[0]"), "{}", failure.detail);
    }
}

#[test]
fn prompt_hooks_reject_and_fail_in_their_own_phase() {
    let host = host();
    let rejects = Guest::prompting(|image| image.reject(2, Some(1234), "too rude"));
    let outcome = on_prompt(&chain(&host, &[&rejects]));
    let PromptOutcome::Rejected { plugin, phase, code, reason } = outcome else {
        panic!("expected a rejection: {outcome:?}");
    };
    assert_eq!(
        (plugin.as_str(), phase, code, reason.as_str()),
        ("a", Phase::Prompt, Some(1234), "too rude")
    );

    let empty = Guest::prompting(|image| image.replace(""));
    let outcome = on_prompt(&chain(&host, &[&empty]));
    let PromptOutcome::Failed(failure) = outcome else {
        panic!("expected a failure: {outcome:?}");
    };
    assert_eq!((failure.phase, failure.kind), (Phase::Prompt, FailureKind::InvalidOutput));
}

#[test]
fn phases_that_a_plugin_does_not_have_are_not_its_business() {
    let host = host();
    let replaces = Guest::prompting(|image| image.replace("new"));
    let chain = chain(&host, &[&replaces]);
    assert!(!chain.has(Phase::Request) && chain.has(Phase::Prompt));
    assert_eq!(continued(on_request(&chain)), request());
}

#[test]
fn many_jobs_run_at_once_without_seeing_each_other() {
    let host = host_with(|config| {
        config.concurrency = 4;
        config.max_instances = 6;
    });
    let chain = chain(&host, &[&Guest::returning(Image::pass), &answers_with(0)]);
    let runtime = runtime();
    let jobs: Vec<_> = (0..100)
        .map(|n| {
            let context = JobContext { job: format!("job-{n}"), ..JobContext::default() };
            let mut job = chain.begin(context);
            runtime.spawn(async move { responded(job.on_request(request()).await) })
        })
        .collect();
    for (n, job) in jobs.into_iter().enumerate() {
        assert_eq!(runtime.block_on(job).unwrap(), format!("job-{n}"));
    }
}

#[test]
fn a_host_may_be_dropped_while_chains_live() {
    let chain = {
        let host = host();
        chain(&host, &[&answers_model()])
    };
    assert_eq!(responded(on_request(&chain)), "m");
    // Also the last owner may be inside a runtime.
    runtime().block_on(async move { drop(chain) });
    drop(config());
}
