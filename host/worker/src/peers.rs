//! What the workers of a subject ask each other: whose job is it that a client wants
//! interrupted?
//!
//! A queue group hands an interrupt to any of its members. One that does not know the
//! job asks all the others on `SUBJECT._peers`. Who has the job interrupts it, says so
//! there, and says it again when the job has ended; who does not have it says nothing.
//!
//! ```text
//! W1:  {"ask":    {"from": "W1", "number": 7, "job": "J", "mark": true}}
//! W2:  {"answer": {"from": "W2", "to": "W1", "number": 7, "job": "J", "ended": false}}
//! W2:  {"answer": {"from": "W2", "to": "W1", "number": 7, "job": "J", "ended": true}}
//! ```
//!
//! Questions go over a connection of their own, on which the server does not echo what
//! the worker itself publishes. So a question meets the *other* workers, and if there is
//! none the server says that at once (503, on the question's reply subject): a lone
//! worker waits for nobody, and nobody has to keep count of workers that come, go and
//! crash. NATS knows `no_echo` for whole connections only, and the worker's first one
//! must have its echo: a message to itself is how it learns what has arrived
//! (`nats::inbox`).
//!
//! Answers go to the same subject and never to one that a message names, so whoever may
//! publish there can interrupt jobs, which clients can as well, and nothing else. What
//! is not a message of a worker is ignored.
//!
//! How many questions are under way, how long an answer is waited for and what the
//! client is told is decided by [`crate::table`]; here nothing is remembered.

mod message;

use std::time::Duration;

use async_nats::{Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::dispatch::Command;
use crate::nats::connection::{Connection, Role, connect};
use crate::settings::NatsSettings;
use crate::table::{InterruptId, JobName, Mark};
use crate::worker::names;
use message::{Answer, Ask, PeerMessage};

/// Questions that wait to be published. The table has fewer under way at once.
const CAPACITY: usize = 256;

/// How long a start waits for the connection. The worker can do without it, and it
/// goes on connecting in the background.
const JOIN_WAIT: Duration = Duration::from_secs(2);

/// What was heard from the others.
#[derive(Debug, PartialEq)]
pub enum Heard {
    /// One of them wants a job interrupted.
    Asked {
        /// Where the answer belongs.
        question: Question,
        /// The job.
        job: JobName,
        /// What to do if it is not here.
        mark: Mark,
    },
    /// One of them has a job.
    Answered {
        /// The job.
        job: JobName,
        /// The interrupt about which this worker had asked, if it was this one.
        id: Option<InterruptId>,
        /// Whether the job has ended; if not, that will be said as well.
        ended: bool,
    },
    /// There is nobody who could be asked about this interrupt.
    Nobody(InterruptId),
}

/// A question of another worker, as its answers name it.
#[derive(Debug, PartialEq)]
pub struct Question {
    worker: String,
    number: u64,
}

impl Question {
    /// What this worker says to it.
    pub fn answer(&self, worker: &str, job: &str, ended: bool) -> Value {
        message::to_value(&PeerMessage::Answer(Answer {
            from: worker.to_owned(),
            to: self.worker.clone(),
            number: self.number,
            job: job.to_owned(),
            ended,
        }))
    }
}

/// The subject of questions and answers.
pub fn subject_of_peers(subject: &str) -> String {
    format!("{subject}._peers")
}

/// A question that is to be asked.
#[derive(Debug)]
pub struct Outgoing {
    id: InterruptId,
    job: JobName,
    mark: Mark,
}

/// Takes questions without waiting.
#[derive(Debug)]
pub struct Peers {
    questions: mpsc::Sender<Outgoing>,
}

impl Peers {
    /// The taker, and where [`Joined::serve`] finds the questions. Without that they
    /// are all refused.
    pub fn new() -> (Self, mpsc::Receiver<Outgoing>) {
        let (questions, receiver) = mpsc::channel(CAPACITY);
        (Self { questions }, receiver)
    }

    /// Asks the others about an interrupt. False if they cannot be asked.
    pub fn ask(&self, id: InterruptId, job: &JobName, mark: Mark) -> bool {
        self.questions.try_send(Outgoing { id, job: job.clone(), mark }).is_ok()
    }
}

/// Connected and subscribed, and not listening yet: a refusal comes later than the
/// subscription.
#[derive(Debug)]
pub struct Joined {
    connection: Connection,
    subject: Subject,
    worker: String,
    messages: Subscriber,
    /// `INBOX.<number of the question>` is where the server says that nobody is there.
    inbox: String,
    refusals: Subscriber,
}

/// Listens until it is stopped.
#[derive(Debug)]
pub struct PeerLink {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Joined {
    /// Connects and subscribes. A worker can do without, so what goes wrong is worth a
    /// warning and no more.
    pub async fn join(nats: &NatsSettings, worker: &str) -> Option<Self> {
        match Self::open(nats, worker).await {
            Ok(joined) => Some(joined),
            Err(error) => {
                warn_apart(&error);
                None
            }
        }
    }

    async fn open(nats: &NatsSettings, worker: &str) -> Result<Self, String> {
        let connection = connect(nats, Role::Peers).await.map_err(|error| error.to_string())?;
        let subject = Subject::from(subject_of_peers(&nats.subject));
        let messages = subscribe(&connection, &subject).await?;
        let inbox = connection.client.new_inbox();
        let refusals = subscribe(&connection, &format!("{inbox}.*")).await?;
        // So that no job is taken before the others can ask for it.
        let _ = tokio::time::timeout(JOIN_WAIT, round_trip(&connection)).await;
        if !connection.is_up() {
            warn_apart("there is no connection yet");
        }
        let worker = worker.to_owned();
        Ok(Self { connection, subject, worker, messages, inbox, refusals })
    }

    /// Begins to listen. By now the server has said what it denies.
    pub fn serve(
        self,
        questions: mpsc::Receiver<Outgoing>,
        dispatch: mpsc::Sender<Command>,
    ) -> PeerLink {
        let denied = self.connection.link.denied();
        if let Some(refusal) = denied.iter().find(|text| names(text, &self.subject)) {
            warn_apart(refusal);
        }
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            // Whatever it waits for just then; the connection is closed with it.
            let _ = stopped.run_until_cancelled(self.listen(questions, dispatch)).await;
        });
        PeerLink { stop, task }
    }

    async fn listen(
        mut self,
        mut questions: mpsc::Receiver<Outgoing>,
        dispatch: mpsc::Sender<Command>,
    ) {
        loop {
            let heard = tokio::select! {
                biased;
                Some(question) = questions.recv() => {
                    let id = question.id;
                    if self.publish(question).await { None } else { Some(Heard::Nobody(id)) }
                }
                Some(message) = self.refusals.next() => self.refused(&message),
                message = self.messages.next() => match message {
                    Some(message) => self.hear(&message),
                    None => return warn_apart("the connection is closed"),
                },
            };
            if let Some(heard) = heard {
                // Fails only when the worker is ending.
                let _ = dispatch.send(Command::Peer(heard)).await;
            }
        }
    }

    /// False if the question cannot be asked now. Sent when the connection is back, it
    /// would come when nobody waits for an answer any more.
    async fn publish(&self, question: Outgoing) -> bool {
        if !self.connection.is_up() {
            return false;
        }
        let Outgoing { id: InterruptId(number), job, mark } = question;
        let ask = PeerMessage::Ask(Ask {
            from: self.worker.clone(),
            number,
            job: job.to_string(),
            mark: mark == Mark::Leave,
        });
        let payload = Bytes::from(message::to_value(&ask).to_string());
        let reply = format!("{}.{number}", self.inbox);
        let client = &self.connection.client;
        client.publish_with_reply(self.subject.clone(), reply, payload).await.is_ok()
    }

    fn hear(&self, message: &Message) -> Option<Heard> {
        match message::decode(&message.payload) {
            Ok(PeerMessage::Ask(ask)) if ask.from != self.worker => Some(Heard::Asked {
                question: Question { worker: ask.from, number: ask.number },
                job: ask.job.into(),
                mark: if ask.mark { Mark::Leave } else { Mark::Omit },
            }),
            Ok(PeerMessage::Answer(answer)) if answer.from != self.worker => {
                let is_ours = answer.to == self.worker;
                Some(Heard::Answered {
                    job: answer.job.into(),
                    id: is_ours.then_some(InterruptId(answer.number)),
                    ended: answer.ended,
                })
            }
            // Its own answers, which come over the worker's other connection.
            Ok(_) => None,
            Err(reason) => {
                tracing::debug!(reason, "a message to the workers of this subject is ignored");
                None
            }
        }
    }

    /// Anybody may publish to an inbox; only the server's own status counts.
    fn refused(&self, message: &Message) -> Option<Heard> {
        let token = message.subject.strip_prefix(self.inbox.as_str())?.strip_prefix('.')?;
        let number = token.parse().ok()?;
        let is_refusal = message.status == Some(StatusCode::NO_RESPONDERS);
        is_refusal.then_some(Heard::Nobody(InterruptId(number)))
    }
}

impl PeerLink {
    /// Asks and listens no more.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

async fn subscribe(connection: &Connection, subject: &str) -> Result<Subscriber, String> {
    let subscribed = connection.client.subscribe(subject.to_owned()).await;
    subscribed.map_err(|error| format!("cannot subscribe: {error}"))
}

/// Waits until the server has handled everything that was sent before. There is no echo
/// to wait for, but the server also answers a request that meets nobody.
async fn round_trip(connection: &Connection) {
    if connection.wait_up().await {
        let nobody = connection.client.new_inbox();
        let _ = connection.client.request(nobody, Bytes::new()).await;
    }
}

fn warn_apart(error: &str) {
    tracing::warn!(
        error,
        "interrupts are not passed on between this worker and others; permit SUBJECT._peers, or \
         set interrupt_peers_ms = 0"
    );
}

#[cfg(test)]
mod tests;
