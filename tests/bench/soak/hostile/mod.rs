//! Plugins that mean harm. Those that do so when they are loaded are dropped over one
//! that serves, and must change nothing for those who use it; those that do so when
//! they run must end in time, with an error that says why, and leave nothing behind.

mod at_load;
mod at_run;
mod guests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::ask::{ask, predict};
use crate::files;
use crate::harness::Client;
use crate::plan::Plan;
use crate::report::Bar;

pub async fn measure(plan: &Plan) -> Vec<Bar> {
    let mut bars = at_load::measure().await;
    bars.extend(at_run::measure(plan).await);
    bars
}

/// Somebody who goes on asking for what has nothing to do with the harm.
struct Traffic {
    stop: Arc<AtomicBool>,
    task: JoinHandle<(usize, Vec<String>)>,
}

impl Traffic {
    /// Begins to ask. Every answer must come from the plugin `version` of `number`.
    fn start(client: Client, number: usize, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let stamp = files::stamp(number);
            let wanted = format!("fine <{stamp}/{stamp}>");
            let (mut count, mut failures) = (0, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                let request = predict("[[version]] [[respond:fine]]", 1);
                match ask(&client, request, count % 2 == 0).await {
                    Ok(answer) if answer.text == wanted => {}
                    Ok(answer) => failures.push(format!("answered {:?}", answer.text)),
                    Err(lost) => failures.push(lost.text()),
                }
                count += 1;
                tokio::time::sleep(pause).await;
            }
            (count, failures)
        });
        Self { stop, task }
    }

    /// Stops, and says how many requests there were and what went wrong with them.
    async fn end(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.expect("traffic")
    }
}
