//! Nothing is lost: requests and streams while their plugins are replaced again and
//! again, all at once.
//!
//! Two plugins of the same version mark each output with the version that saw the
//! request and the one that filtered it; a third answers most requests, because the
//! model would take hours. They lie as mounted configuration does: files are links
//! through one folder link, which is replaced by renaming. So two plugins change in
//! one moment, and an answer with two versions in it is the worker's fault.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::ask::{Answer, Lost, ask, predict};
use crate::common::{median, ms, prompt};
use crate::figures::longest;
use crate::files;
use crate::harness::Client;
use crate::plan::Plan;
use crate::report::Bar;
use crate::rig::{Rig, put};

/// As many as the worker computes at once and two that wait.
const CLIENTS: usize = 6;

/// One in so many requests goes to the model as a stream, and one without.
const MODEL_EVERY: usize = 20;

/// Tokens of a stream of the model.
const TOKENS: usize = 6;

/// The two that mark an output.
const MARKERS: [&str; 2] = ["a", "b"];

/// The folder link through which the files are reached.
const LINK: &str = "..data";

/// What all requests showed.
#[derive(Default)]
struct Tally {
    streams: usize,
    generated: usize,
    tokens: u64,
    errors: Vec<String>,
    timeouts: usize,
    mixed: Vec<String>,
    versions: BTreeSet<String>,
    canned: Vec<Duration>,
}

/// Which requests may be sent, and how many are done.
struct Course {
    total: usize,
    next: AtomicUsize,
    done: AtomicUsize,
    allowed: watch::Receiver<usize>,
}

pub async fn measure(plan: &Plan) -> Vec<Bar> {
    let prepare = |dir: &Path| {
        put(dir, "respond", &files::plugin("respond"));
        mount(dir, 0);
        for id in MARKERS {
            let name = format!("{id}.wasm");
            symlink(Path::new(LINK).join(&name), dir.join(name)).expect("link a plugin");
        }
    };
    // One compute thread, as the harness sets it: with one for each core, the compiler,
    // which steps back behind everybody, takes many seconds for each reload.
    let rig = Rig::start(prepare, |worker| worker).await;
    let (allow, allowed) = watch::channel(0);
    let course = Arc::new(Course {
        total: plan.requests,
        next: AtomicUsize::new(0),
        done: AtomicUsize::new(0),
        allowed,
    });
    let began = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(requests(rig.client.clone(), Arc::clone(&course))))
        .collect();

    let part = plan.requests / (plan.reloads + 1);
    let (mut apart, mut reloads) = (Vec::new(), Vec::new());
    for number in 1..=plan.reloads {
        let _ = allow.send(number * part);
        // In the middle of a part, so that requests are under way all the time.
        while course.done.load(Ordering::Relaxed) + part / 2 < number * part {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let swapped = Instant::now();
        let before = generations(&rig).await;
        mount(&rig.dir, number);
        let after = rig.until("a", "the new version of a", |a| newer(a, before[0])).await;
        rig.until("b", "the new version of b", |b| newer(b, before[1])).await;
        reloads.push(swapped.elapsed());
        let after = [after["generation"].clone(), generations(&rig).await[1].into()];
        if after[0] != after[1] {
            apart.push(format!("reload {number}: a in chain {}, b in {}", after[0], after[1]));
        }
    }
    let _ = allow.send(plan.requests);

    let mut tally = Tally::default();
    for client in clients {
        tally.add(client.await.expect("a client"));
    }
    let took = began.elapsed();
    let failures = failures(&rig).await;
    let versions = tally.versions.len();
    vec![
        Bar::noted(
            "what was asked",
            format!(
                "{} requests in {:.0} s, {} of them streams; {} by the model, {} tokens",
                plan.requests,
                took.as_secs_f64(),
                tally.streams,
                tally.generated,
                tally.tokens
            ),
        ),
        Bar::noted(
            "reloads under load",
            format!(
                "{}, median {:.0} ms, longest {:.0} ms",
                plan.reloads,
                ms(median(&reloads)),
                ms(longest(&reloads))
            ),
        ),
        Bar::noted("canned answers, median", format!("{:.1} ms", ms(median(&tally.canned)))),
        Bar::at_least("versions seen in answers", versions as f64, plan.reloads as f64 + 1.0, ""),
        Bar::none("errors", tally.errors.len(), &tally.errors),
        Bar::none("requests without an answer", tally.timeouts, &[]),
        Bar::none("answers of two versions", tally.mixed.len(), &tally.mixed),
        Bar::none("reloads that put the two into different chains", apart.len(), &apart),
        Bar::none("failed calls that the worker counted", failures, &[]),
    ]
}

/// Makes the files of a version and lets all of them take the place of those before,
/// in one step.
fn mount(dir: &Path, number: usize) {
    let name = format!(".version-{number}");
    let folder = dir.join(&name);
    fs::create_dir(&folder).expect("make a folder");
    for id in MARKERS {
        put(&folder, id, &files::version(number));
    }
    let beside = dir.join("..data.new");
    symlink(name, &beside).expect("link a folder");
    fs::rename(beside, dir.join(LINK)).expect("rename a link");
}

fn newer(plugin: &Value, than: u64) -> bool {
    plugin["generation"].as_u64().is_some_and(|generation| generation > than)
}

/// The chains with which the two that mark came into service.
async fn generations(rig: &Rig) -> [u64; 2] {
    let mut found = [0; 2];
    for (id, generation) in MARKERS.into_iter().zip(&mut found) {
        *generation = rig.listed(id).await["generation"].as_u64().expect("a generation");
    }
    found
}

/// Failed calls of the versions that are in service.
async fn failures(rig: &Rig) -> usize {
    let list = rig.command(json!({"action": "list"})).await;
    let plugins = list["plugins"].as_array().expect("plugins");
    let failures = plugins.iter().map(|plugin| plugin["failures"].as_u64().expect("a number"));
    failures.sum::<u64>() as usize
}

/// One client: a request after the other until all are sent.
async fn requests(client: Client, course: Arc<Course>) -> Tally {
    let mut tally = Tally::default();
    let mut allowed = course.allowed.clone();
    loop {
        let number = course.next.fetch_add(1, Ordering::Relaxed);
        if number >= course.total {
            return tally;
        }
        allowed.wait_for(|allowed| *allowed > number).await.expect("reloads go on");
        let stream = number.is_multiple_of(2);
        let of_model = number.is_multiple_of(MODEL_EVERY / 2);
        // Every other of the model's is a stream: 0, 20, 40 are, and 10, 30, 50 not.
        let stream = if of_model { number.is_multiple_of(MODEL_EVERY) } else { stream };
        let answer = if of_model {
            let tokens = if stream { TOKENS } else { 1 };
            let input = format!("[[version]] {}", prompt(4, number as u64));
            ask(&client, predict(&input, tokens), stream).await
        } else {
            let input = format!("[[version]] [[respond:answer {number}]]");
            ask(&client, predict(&input, 1), stream).await
        };
        tally.note(number, stream, of_model, answer);
        course.done.fetch_add(1, Ordering::Relaxed);
    }
}

impl Tally {
    fn note(&mut self, number: usize, stream: bool, of_model: bool, end: Result<Answer, Lost>) {
        self.streams += usize::from(stream);
        self.generated += usize::from(of_model);
        let answer = match end {
            Ok(answer) => answer,
            Err(Lost::TimedOut) => {
                self.timeouts += 1;
                return;
            }
            Err(lost) => {
                self.errors.push(format!("request {number}: {}", lost.text()));
                return;
            }
        };
        self.tokens += answer.tokens;
        if !of_model {
            self.canned.push(answer.took);
            if !answer.text.starts_with(&format!("answer {number} ")) {
                self.errors.push(format!("request {number} was answered {:?}", answer.text));
            }
        }
        let stamps = files::stamps(&answer.text);
        let seen: BTreeSet<&str> = stamps.iter().flat_map(|(at, by)| [*at, *by]).collect();
        match seen.first() {
            Some(version) if seen.len() == 1 && stamps.len() == MARKERS.len() => {
                self.versions.insert((*version).to_owned());
            }
            _ => self.mixed.push(format!("request {number} was answered {:?}", answer.text)),
        }
    }

    fn add(&mut self, other: Self) {
        self.streams += other.streams;
        self.generated += other.generated;
        self.tokens += other.tokens;
        self.timeouts += other.timeouts;
        self.errors.extend(other.errors);
        self.mixed.extend(other.mixed);
        self.versions.extend(other.versions);
        self.canned.extend(other.canned);
    }
}
