//! The one task that owns the job table and carries out what it decides.
//!
//! It waits for commands, for what running jobs report and for the table's next
//! deadline, and never for the network or a job: answers go to
//! [`crate::replies`], questions to other workers to [`crate::peers`], jobs run as
//! tasks of their own ([`crate::job`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use llamero_protocol::{ErrorBody, WorkerResponse};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::job::{self, Incoming, Shared};
use crate::peers::{Heard, Peers, Question, subject_of_peers};
use crate::replies::Replies;
use crate::settings::JobSettings;
use crate::table::{
    Action, Asker, Drained, Event, Found, InterruptId, JobName, JobTable, Limits, Mark, Refusal,
    Ticket, Time,
};

/// Commands that may wait for the task.
pub const CAPACITY: usize = 1024;

/// Tells a client when to try again.
const RETRY_AFTER: &str = "Llm-Retry-After-Ms";

/// What the task is asked to do.
#[derive(Debug)]
pub enum Command {
    /// A predict or an embed was received.
    Job(Box<Incoming>),
    /// An interrupt was received.
    Interrupt {
        /// The jobs it means.
        job: JobName,
        /// Where the answer goes, if anywhere.
        reply: Option<String>,
        /// What to do if there is no such job.
        mark: Mark,
        /// Completes when the answer has been handed on.
        done: Option<oneshot::Sender<()>>,
    },
    /// Another worker has said something.
    Peer(Heard),
    /// Take no more jobs; running ones get this much time.
    Drain {
        /// Until what runs is cancelled.
        grace: Duration,
        /// Completes when no job is left.
        drained: oneshot::Sender<Drained>,
    },
}

struct PendingAnswer {
    job: JobName,
    to: AnswerTo,
}

enum AnswerTo {
    Client { reply: Option<String>, done: Option<oneshot::Sender<()>> },
    Peer(Question),
}

/// The task's state.
pub struct Dispatcher {
    shared: Arc<Shared>,
    replies: Replies,
    peers: Peers,
    began: Instant,
    table: JobTable,
    slots: u32,
    next: u64,
    /// Jobs that wait.
    parked: HashMap<Ticket, Incoming>,
    /// Jobs that run, by what stops them.
    running: HashMap<Ticket, CancellationToken>,
    interrupts: HashMap<InterruptId, PendingAnswer>,
    drained: Option<oneshot::Sender<Drained>>,
    reports: mpsc::UnboundedSender<Event>,
    durations: Average,
    started: HashMap<Ticket, Instant>,
    jobs: TaskTracker,
}

impl Dispatcher {
    /// The task; it ends with the last sender of commands, or when all is
    /// drained.
    pub async fn run(
        shared: Arc<Shared>,
        replies: Replies,
        peers: Peers,
        settings: JobSettings,
        mut commands: mpsc::Receiver<Command>,
    ) {
        // Jobs report at most three times each, and a question at most once, so the
        // table bounds what waits.
        let (reports, mut reported) = mpsc::unbounded_channel();
        let slots = usize::try_from(settings.slots).unwrap_or(usize::MAX);
        let limits =
            Limits { peers_wait: settings.interrupt_peers, ..Limits::new(slots, settings.queue) };
        let mut dispatcher = Self {
            shared,
            replies,
            peers,
            began: Instant::now(),
            table: JobTable::new(limits),
            slots: settings.slots,
            next: 0,
            parked: HashMap::new(),
            running: HashMap::new(),
            interrupts: HashMap::new(),
            drained: None,
            reports,
            durations: Average::default(),
            started: HashMap::new(),
            jobs: TaskTracker::new(),
        };
        loop {
            let deadline =
                dispatcher.table.next_deadline().map(|deadline| dispatcher.began + deadline);
            tokio::select! {
                biased;
                Some(event) = reported.recv() => dispatcher.reported(event),
                command = commands.recv() => match command {
                    Some(command) => dispatcher.command(command),
                    None => return,
                },
                () = until(deadline) => dispatcher.step(Event::Tick),
            }
        }
    }

    fn now(&self) -> Time {
        self.began.elapsed()
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Job(incoming) => {
                let ticket = Ticket(self.number());
                let job = Arc::clone(&incoming.job);
                let tenant = incoming.caller.tenant(&incoming.reply).into();
                self.parked.insert(ticket, *incoming);
                self.step(Event::Predict { job, ticket, tenant });
            }
            Command::Interrupt { job, reply, mark, done } => {
                self.interrupt(job, mark, Asker::Client, AnswerTo::Client { reply, done });
            }
            Command::Peer(Heard::Asked { question, job, mark }) => {
                self.interrupt(job, mark, Asker::Peer, AnswerTo::Peer(question));
            }
            Command::Peer(Heard::Answered { job, id, ended }) => {
                self.step(Event::Elsewhere { job, id, ended });
            }
            Command::Peer(Heard::Nobody(id)) => self.step(Event::Alone(id)),
            Command::Drain { grace, drained } => {
                self.drained = Some(drained);
                self.step(Event::Drain { grace });
            }
        }
    }

    fn interrupt(&mut self, job: JobName, mark: Mark, asker: Asker, to: AnswerTo) {
        let id = InterruptId(self.number());
        self.interrupts.insert(id, PendingAnswer { job: Arc::clone(&job), to });
        self.step(Event::Interrupt { job, id, mark, asker });
    }

    fn reported(&mut self, event: Event) {
        match &event {
            Event::Generated(ticket) => {
                if let Some(started) = self.started.remove(ticket) {
                    self.durations.add(started.elapsed());
                }
            }
            Event::Ended(ticket) => {
                self.running.remove(ticket);
                self.started.remove(ticket);
            }
            _ => {}
        }
        self.step(event);
    }

    fn step(&mut self, event: Event) {
        let now = self.now();
        for action in self.table.step(now, event) {
            match action {
                Action::Start(ticket) => self.start(ticket),
                Action::Refuse(ticket, why) => self.refuse(ticket, why),
                Action::Cancel(ticket) => {
                    if let Some(cancel) = self.running.get(&ticket) {
                        cancel.cancel();
                    }
                }
                Action::Ask(id, mark) => self.ask(id, mark),
                Action::Claim(id) => self.claim(id),
                Action::Answer(id, found) => self.answer(id, found),
                Action::Drained(how) => {
                    if let Some(drained) = self.drained.take() {
                        let _ = drained.send(how);
                    }
                }
            }
        }
    }

    fn start(&mut self, ticket: Ticket) {
        let Some(incoming) = self.parked.remove(&ticket) else {
            return;
        };
        tracing::debug!(
            job = ?incoming.job,
            running = self.table.running(),
            waiting = self.table.waiting(),
            "job starts"
        );
        let cancel = CancellationToken::new();
        self.running.insert(ticket, cancel.clone());
        self.started.insert(ticket, Instant::now());
        let report = self.reports.clone();
        let generated = {
            let report = report.clone();
            move || {
                let _ = report.send(Event::Generated(ticket));
            }
        };
        let shared = Arc::clone(&self.shared);
        self.jobs.spawn(async move {
            // Reports the end even if the task is torn down with the runtime or
            // panics outside of what the job itself catches.
            let _ended = ReportEnd { report, ticket };
            job::run(shared, incoming, cancel, generated).await;
        });
    }

    /// Sends the error of a job that is not run, and reports its end.
    fn refuse(&mut self, ticket: Ticket, why: Refusal) {
        let report = ReportEnd { report: self.reports.clone(), ticket };
        let Some(incoming) = self.parked.remove(&ticket) else {
            return;
        };
        let error = match why {
            Refusal::Busy => ErrorBody::busy(),
            Refusal::ShuttingDown => ErrorBody::shutting_down(),
            Refusal::Interrupted => ErrorBody::interrupted(),
        };
        tracing::info!(job = ?incoming.job, code = error.code, "job refused");
        let response = WorkerResponse::failed(&*incoming.job, error);
        let mut message = self.replies.message(&incoming.reply, &response);
        if why == Refusal::Busy {
            let retry = self.durations.get() / self.slots.max(1);
            message
                .headers
                .get_or_insert_default()
                .insert(RETRY_AFTER, retry.as_millis().to_string());
        }
        let sent = self.replies.send_message(message);
        tokio::spawn(async move {
            let _ = sent.await;
            drop(report);
        });
    }

    /// Asks the other workers whose job an interrupt means.
    fn ask(&self, id: InterruptId, mark: Mark) {
        if let Some(PendingAnswer { job, .. }) = self.interrupts.get(&id)
            && !self.peers.ask(id, job, mark)
        {
            let _ = self.reports.send(Event::Alone(id));
        }
    }

    /// Tells the worker that has asked that the job is here.
    fn claim(&self, id: InterruptId) {
        if let Some(PendingAnswer { job, to: AnswerTo::Peer(question) }) = self.interrupts.get(&id)
        {
            self.answer_peer(job, question, false);
        }
    }

    fn answer(&mut self, id: InterruptId, found: Found) {
        let Some(PendingAnswer { job, to }) = self.interrupts.remove(&id) else {
            return;
        };
        tracing::debug!(?job, ?found, "interrupt");
        match to {
            AnswerTo::Client { reply, done } => self.answer_client(&job, reply, done, found),
            AnswerTo::Peer(question) if found == Found::Yes => {
                self.answer_peer(&job, &question, true);
            }
            // It has asked all workers and waits for the one that has the job.
            AnswerTo::Peer(_) => {}
        }
    }

    /// Sent over the connection of the jobs' own messages: behind the last one of this
    /// job, so that the client sees that before the answer to its interrupt.
    fn answer_peer(&self, job: &str, question: &Question, ended: bool) {
        let Shared { subject, worker, outbox, .. } = &*self.shared;
        let answer = question.answer(worker, job, ended);
        self.replies.post(outbox.control_message(&subject_of_peers(subject), &answer, None));
    }

    fn answer_client(
        &self,
        job: &str,
        reply: Option<String>,
        done: Option<oneshot::Sender<()>>,
        found: Found,
    ) {
        let response = match found {
            Found::Yes => WorkerResponse::interrupted(job),
            Found::No => WorkerResponse::failed(job, ErrorBody::job_not_found()),
        };
        if let Some(reply) = reply {
            self.replies.send(&reply, &response);
        }
        if let Some(done) = done {
            let _ = done.send(());
        }
    }
}

/// Reports the end of a job when dropped.
struct ReportEnd {
    report: mpsc::UnboundedSender<Event>,
    ticket: Ticket,
}

impl Drop for ReportEnd {
    fn drop(&mut self) {
        let _ = self.report.send(Event::Ended(self.ticket));
    }
}

/// How long jobs took lately.
#[derive(Debug, Default)]
struct Average(Option<Duration>);

impl Average {
    /// Weight of the newest value: the average forgets within some ten jobs.
    const WEIGHT: u32 = 8;

    /// Without any job yet, and at the least, a second: shorter retries only add
    /// load, longer than a minute nobody waits.
    const RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

    fn add(&mut self, value: Duration) {
        let old = self.0.unwrap_or(value);
        self.0 = Some((old * (Self::WEIGHT - 1) + value) / Self::WEIGHT);
    }

    fn get(&self) -> Duration {
        let (min, max) = Self::RANGE;
        self.0.unwrap_or(min).clamp(min, max)
    }
}

/// Waits for a moment, or for ever if there is none.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_follows_and_stays_in_its_range() {
        let mut average = Average::default();
        assert_eq!(average.get(), Duration::from_secs(1));
        for _ in 0..100 {
            average.add(Duration::from_secs(8));
        }
        assert_eq!(average.get(), Duration::from_secs(8));
        for _ in 0..100 {
            average.add(Duration::from_secs(800));
        }
        assert_eq!(average.get(), Duration::from_secs(60));
        for _ in 0..100 {
            average.add(Duration::ZERO);
        }
        assert_eq!(average.get(), Duration::from_secs(1));
    }
}
