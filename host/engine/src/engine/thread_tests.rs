#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests may panic")]

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;

use super::alarm::Alarm;
use super::bench::Setup;
use super::fake::BOMB;
use super::outlet::Signal;
use super::specs::{Spec, submission};
use super::stats::SharedStats;
use super::thread::{EngineHandle, run};
use crate::error::GenerationError;
use crate::job::Event;

/// An engine on its thread; ends when the handle is dropped.
fn on_thread(n_slots: usize) -> (EngineHandle, std::thread::JoinHandle<usize>) {
    let alarm = Arc::new(Alarm::new(Arc::new(AtomicBool::new(false))));
    let stats = Arc::new(SharedStats::default());
    let (handle, inbox) = EngineHandle::new(8, Arc::clone(&alarm), Arc::clone(&stats));
    let thread = std::thread::spawn(move || {
        let mut setup = Setup::new(16, n_slots);
        setup.policy.cache = None;
        let mut engine = setup.engine(alarm, stats);
        run(&mut engine, &inbox);
        engine.kv_mut().backend().cells()
    });
    (handle, thread)
}

fn send(handle: &EngineHandle, spec: &Spec) -> (Receiver<Event>, Arc<Signal>) {
    let signal = handle.signal();
    let (submission, events, _answers) =
        submission(spec, Arc::clone(&signal), handle.place().unwrap());
    handle.submit(submission).unwrap();
    (events, signal)
}

fn drain(handle: &EngineHandle, events: &mut Receiver<Event>, signal: &Signal) -> (String, Event) {
    let mut text = String::new();
    loop {
        match events.blocking_recv().expect("an end comes") {
            Event::Text(piece) => {
                text.push_str(&piece.text);
                if signal.take_paused() {
                    handle.wake();
                }
            }
            Event::Candidates { .. } => panic!("asked without a guard"),
            end => return (text, end),
        }
    }
}

#[test]
fn a_panic_fails_the_running_jobs_only() {
    let (handle, thread) = on_thread(2);
    let (mut bomb, signal) = send(&handle, &Spec::new(&[1, BOMB], 5));
    let (_, end) = drain(&handle, &mut bomb, &signal);
    assert_eq!(end, Event::Failed(GenerationError::Engine("internal error".to_string())));
    // The thread lives, and nothing is left of the job.
    let spec = Spec::new(&[1, 2, 3], 5);
    let (mut events, signal) = send(&handle, &spec);
    let (text, end) = drain(&handle, &mut events, &signal);
    assert!(matches!(end, Event::Finished(_)), "{end:?}");
    assert_eq!(text, spec.reference().0);
    drop(handle);
    assert_eq!(thread.join().unwrap(), 0);
}

#[test]
fn a_slow_reader_is_resumed() {
    let (handle, thread) = on_thread(1);
    let spec = Spec::lasting(&[], 30);
    let (mut events, signal) = send(&handle, &spec);
    // Wait until the job has paused: nothing is read until then.
    while handle.stats().read().paused == 0 {
        std::thread::yield_now();
    }
    let (text, _) = drain(&handle, &mut events, &signal);
    assert_eq!(text, spec.reference().0);
    drop(handle);
    thread.join().unwrap();
}

#[test]
fn jobs_of_an_engine_that_ends_fail() {
    let (handle, thread) = on_thread(1);
    let spec = Spec::lasting(&[], 30);
    let (mut events, _signal) = send(&handle, &spec);
    while handle.stats().read().paused == 0 {
        std::thread::yield_now();
    }
    drop(handle);
    thread.join().unwrap();
    let mut last = None;
    while let Some(event) = events.blocking_recv() {
        last = Some(event);
    }
    assert_eq!(last, Some(Event::Failed(GenerationError::Stopped)));
}

#[test]
fn a_deadline_is_met_while_nothing_happens() {
    let (handle, thread) = on_thread(1);
    let (_paused, signal) = send(&handle, &Spec::lasting(&[], 30));
    while handle.stats().read().paused == 0 {
        std::thread::yield_now();
    }
    // The only slot is held by a job that nobody reads: no command will come.
    let soon = Instant::now() + Duration::from_millis(20);
    let spec = Spec { deadline: Some(soon), ..Spec::new(&[1], 5) };
    let (mut late, late_signal) = send(&handle, &spec);
    let (_, end) = drain(&handle, &mut late, &late_signal);
    assert_eq!(end, Event::Failed(GenerationError::Expired));
    signal.cancel();
    handle.wake();
    drop(handle);
    thread.join().unwrap();
}
