//! Where a pipeline runs, with work in place of plugins: whatever outlasts a poll, it
//! leaves its caller's thread, and comes back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::thread::ThreadId;
use std::time::Duration;

use super::*;
use crate::config::HostConfig;
use crate::data::JobContext;
use crate::host::HookHost;
use crate::services::Services;
use crate::tokenizer::NoTokenizer;

/// Long enough for anything that should happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A pipeline that passes text on as it is; the text `slow` once `gate` lets it. Its end,
/// and on which thread it was, is what the other value tells.
fn passing(host: &HookHost, gate: &Arc<Notify>) -> (OutgoingPipe, oneshot::Receiver<ThreadId>) {
    let gate = Arc::clone(gate);
    let idle = Arc::new(Idle::default());
    let (mut pipe, mut inlet) = pipe(None, Arc::clone(&idle));
    let (ended, end) = oneshot::channel();
    let work = async move {
        loop {
            inlet.idle_begins(None);
            let input = inlet.input.recv().await;
            inlet.idle_ends();
            let Some(Input::Text(text, _)) = input else {
                break;
            };
            inlet.taken();
            if text == "slow" {
                gate.notified().await;
            }
            if inlet.output.send(Outgoing::Text(text)).is_err() {
                break;
            }
        }
        let _ = ended.send(std::thread::current().id());
    };
    let chain = host.empty_chain();
    let job = JobShared::new(JobContext::default());
    pipe.start(Pump { chain: chain.into_inner(), job, work: Box::pin(work), idle });
    (pipe, end)
}

fn host() -> HookHost {
    HookHost::new(HostConfig::default(), Services::new(Arc::new(NoTokenizer))).unwrap()
}

fn is_here(pipe: &OutgoingPipe) -> bool {
    matches!(pipe.pump, Whereabouts::Here(_))
}

/// Has `slow` taken in, which moves the pipeline elsewhere.
async fn stuck(pipe: &mut OutgoingPipe) {
    pipe.push("slow".to_owned(), Vec::new());
    let waited = tokio::time::timeout(Duration::from_millis(1), pipe.next()).await;
    assert!(waited.is_err(), "{waited:?}");
    assert!(!is_here(pipe));
}

async fn through(pipe: &mut OutgoingPipe, text: &str) {
    pipe.push(text.to_owned(), Vec::new());
    match pipe.next().await {
        Outgoing::Text(released) => assert_eq!(released, text),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_takes_long_leaves_the_callers_thread_and_comes_back() {
    let (host, gate) = (host(), Arc::new(Notify::new()));
    let (mut pipe, end) = passing(&host, &gate);
    for _ in 0..3 {
        through(&mut pipe, "quick").await;
        assert!(is_here(&pipe));
        stuck(&mut pipe).await;
        gate.notify_one();
        assert!(matches!(pipe.next().await, Outgoing::Text(text) if text == "slow"));
        // There is nothing to come now but the pipeline itself.
        let back = async {
            while !is_here(&pipe) {
                let _ = tokio::time::timeout(Duration::from_millis(1), pipe.next()).await;
            }
        };
        tokio::time::timeout(PATIENCE, back).await.unwrap();
    }
    // What is dropped here ends on the hooks' runtime, which does not wait for a caller.
    drop(pipe);
    assert_ne!(end.await.unwrap(), std::thread::current().id());
}

#[tokio::test]
async fn a_pipeline_that_is_dropped_while_it_is_elsewhere_ends() {
    let (host, gate) = (host(), Arc::new(Notify::new()));
    // Before it has anything to give back, about then, and after that.
    for wait in [None, Some(Duration::ZERO), Some(Duration::from_millis(20))] {
        let (mut pipe, end) = passing(&host, &gate);
        stuck(&mut pipe).await;
        if let Some(wait) = wait {
            gate.notify_one();
            tokio::time::sleep(wait).await;
        }
        drop(pipe);
        if wait.is_none() {
            gate.notify_one();
        }
        tokio::time::timeout(PATIENCE, end).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_caller_that_finds_the_slice_taken_goes_on_when_it_is_free() {
    let host = host();
    let (mut pipe, _end) = passing(&host, &Arc::new(Notify::new()));
    let shared = Arc::clone(match &pipe.pump {
        Whereabouts::Here(pump) => &pump.chain.host,
        _ => panic!("it was just started"),
    });
    let other = JobShared::new(JobContext::default());
    let (taken, is_taken) = oneshot::channel();
    let holding = std::thread::spawn(move || {
        let slice = shared.slices.take(&other);
        assert!(slice.is_some());
        taken.send(()).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        drop(slice);
    });
    is_taken.await.unwrap();
    tokio::time::timeout(PATIENCE, through(&mut pipe, "quick")).await.unwrap();
    holding.join().unwrap();
}
