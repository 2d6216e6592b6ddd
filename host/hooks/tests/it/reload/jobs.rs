//! What jobs notice of all this: nothing.

use std::fs;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Bench, answer, pass, says};
use crate::guest::Guest;
use crate::support::{context, request, runtime};

/// A plugin that says in the prompt phase what it is.
fn prompts(text: &str) -> Vec<u8> {
    let mut guest = Guest::new();
    let (pass, replace) = (guest.image.pass(), guest.image.replace(text));
    guest
        .on_request(&format!("(i32.const {pass})"))
        .on_prompt(&format!("(i32.const {replace})"))
        .module()
}

#[test]
fn a_job_keeps_its_chain_and_the_last_job_frees_it() {
    let bench = Bench::new();
    bench.put("a", &prompts("one"));
    bench.put("b", &pass());
    let registry = bench.open();
    let runtime = runtime();
    let mut job = registry.chain().begin(context());
    runtime.block_on(job.on_request(request()));
    for version in ["two", "three"] {
        bench.put("a", &prompts(version));
        registry.sync(false);
    }
    fs::remove_file(bench.file("b")).unwrap();
    registry.sync(false);
    let prompt = |job: &mut llamero_hooks::JobHooks| {
        let outcome = runtime.block_on(job.on_prompt(crate::support::prompt()));
        let llamero_hooks::PromptOutcome::Continue { text, .. } = outcome else {
            panic!("{outcome:?}");
        };
        text
    };
    // Only the chain of the running job is left of those that were replaced.
    registry.tick(Instant::now());
    assert_eq!((registry.generation(), registry.draining()), (4, 1));
    assert_eq!(prompt(&mut job), "one");
    assert_eq!(prompt(&mut registry.chain().begin(context())), "three");
    drop(job);
    // Its instances are taken down on the hooks' own threads.
    let deadline = Instant::now() + Duration::from_secs(60);
    while registry.draining() > 0 {
        assert!(Instant::now() < deadline, "the old chain is never freed");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn looks_jobs_and_commands_at_the_same_time() {
    let bench = Bench::new();
    let versions = ["one", "two", "three"].map(says);
    bench.put("a", &versions[0]);
    let registry = bench.open();
    thread::scope(|scope| {
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let jobs: Vec<_> = (0..2)
            .map(|_| {
                let (stop, registry) = (Arc::clone(&stop), registry.clone());
                scope.spawn(move || {
                    let mut n = 0;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) || n == 0 {
                        let answer = answer(&registry);
                        assert!(["one", "two", "three"].contains(&answer.as_str()), "{answer}");
                        registry.tick(Instant::now());
                        assert_eq!(registry.list().len(), 1);
                        n += 1;
                    }
                })
            })
            .collect();
        for n in 1..10 {
            bench.put("a", &versions[n % 3]);
            let looks = [scope.spawn(|| registry.sync(false)), scope.spawn(|| registry.sync(true))];
            let loaded = looks.map(|look| look.join().unwrap().loaded.len());
            assert_eq!(loaded.iter().sum::<usize>(), 1, "loaded once");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for job in jobs {
            job.join().unwrap();
        }
    });
    assert_eq!((registry.generation(), answer(&registry).as_str()), (10, "one"));
}
