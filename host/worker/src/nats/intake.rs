//! The receive loop: takes messages off the subscription, decodes them and hands
//! them on.
//!
//! It awaits nothing but the next message and a place in the channels of those
//! who act ([`crate::dispatch`] and [`crate::lister`]), which never wait for the
//! network or for a job. So a full queue, a slow disk or a lost connection keeps
//! no interrupt from being read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{HeaderMap, Message, Subscriber};
use futures_util::StreamExt;
use llamero_protocol::{
    ErrorBody, PredictRequest, WorkerRequest, WorkerResponse, check_stream_subject, decode_request,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::throttle::Throttle;
use crate::dispatch::Command;
use crate::job::{Caller, Incoming, Work};
use crate::lister::ListJob;
use crate::replies::Replies;
use crate::settings::EmbedRules;
use crate::table::Mark;
use crate::wire;

/// Requests with several commands that are served at once. Their commands wait
/// for each other, so each is a task of its own.
const COMBINED_AT_ONCE: usize = 64;

/// Set by a server on requests that come from another account.
const REQUEST_INFO: &str = "Nats-Request-Info";

/// Who acts on requests.
#[derive(Debug, Clone)]
pub struct Actors {
    /// Jobs and interrupts.
    pub dispatch: mpsc::Sender<Command>,
    /// Lists.
    pub lister: mpsc::Sender<ListJob>,
    /// Errors.
    pub replies: Replies,
}

/// The receive loop's state.
pub struct Intake {
    actors: Actors,
    subject: String,
    stream_subjects: Vec<String>,
    hook_headers: Vec<String>,
    embed: EmbedRules,
    combined: Arc<tokio::sync::Semaphore>,
    refused_replies: Throttle,
}

/// Why the loop ended.
pub enum End {
    /// It was told to; the subscription is still there.
    Stopped(Subscriber),
    /// The subscription ended by itself: nothing will arrive any more.
    Lost,
}

impl Intake {
    /// A loop that hands requests to these actors.
    pub fn new(
        actors: Actors,
        subject: String,
        stream_subjects: Vec<String>,
        hook_headers: Vec<String>,
        embed: EmbedRules,
    ) -> Self {
        Self {
            actors,
            subject,
            stream_subjects,
            hook_headers,
            embed,
            combined: Arc::new(tokio::sync::Semaphore::new(COMBINED_AT_ONCE)),
            refused_replies: Throttle::new(Duration::from_secs(10)),
        }
    }

    /// Receives until told to stop.
    pub async fn run(&self, mut subscriber: Subscriber, stop: &CancellationToken) -> End {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return End::Stopped(subscriber),
                message = subscriber.next() => match message {
                    Some(message) => self.handle(message).await,
                    None => return End::Lost,
                },
            }
        }
    }

    /// Serves one message.
    pub async fn handle(&self, message: Message) {
        let reply = message.reply.as_ref().map(|reply| reply.to_string());
        if reply.as_deref().is_some_and(|reply| !may_reply(&self.subject, reply)) {
            if self.refused_replies.pass() {
                tracing::warn!(
                    "request dropped: its reply subject is one that this worker must not publish to"
                );
            }
            return;
        }
        let request = match decode_request(&message.payload) {
            Ok(request) => request,
            Err(rejected) => {
                let response = rejected.into_response();
                tracing::debug!(job = ?response.job, error = ?response.error, "request refused");
                self.answer(reply, response);
                return;
            }
        };
        if let Some(predict) = &request.predict
            && let Err(error) = self.check_stream(predict, message.headers.as_ref())
        {
            self.answer(reply, WorkerResponse::failed(request.job, error));
            return;
        }
        if let Some(embed) = &request.embed
            && let Some(error) = wire::embed_refused(&self.embed, embed.input.len())
        {
            self.answer(reply, WorkerResponse::failed(request.job, error));
            return;
        }
        let commands = [
            request.list.is_some(),
            request.interrupt.is_some(),
            request.predict.is_some(),
            request.embed.is_some(),
        ];
        if commands.iter().filter(|present| **present).count() > 1 {
            self.combined(request, reply, message.headers);
        } else {
            self.single(request, reply, message.headers).await;
        }
    }

    async fn single(
        &self,
        request: WorkerRequest,
        reply: Option<String>,
        headers: Option<HeaderMap>,
    ) {
        let WorkerRequest { job, list, interrupt, predict, embed } = request;
        if list.is_some() {
            self.list(job, reply, None);
        } else if interrupt.is_some() {
            let command =
                Command::Interrupt { job: job.into(), reply, mark: Mark::Leave, done: None };
            // Fails only when the worker is ending.
            let _ = self.actors.dispatch.send(command).await;
        } else if let Some(work) = predict.map(Work::Predict).or(embed.map(Work::Embed))
            && let Some(incoming) = self.incoming(job, work, reply, headers.as_ref())
        {
            let _ = self.actors.dispatch.send(Command::Job(incoming)).await;
        }
    }

    /// Serves list, interrupt, predict and embed of one request, in this order. The
    /// jobs begin after the answers to the others.
    fn combined(&self, request: WorkerRequest, reply: Option<String>, headers: Option<HeaderMap>) {
        let WorkerRequest { job, list, interrupt, predict, embed } = request;
        let Ok(permit) = Arc::clone(&self.combined).try_acquire_owned() else {
            self.answer(reply, WorkerResponse::failed(job, ErrorBody::busy()));
            return;
        };
        let listed = list.map(|_| {
            let (done, listed) = oneshot::channel();
            self.list(job.clone(), reply.clone(), Some(done));
            listed
        });
        let jobs: Vec<Box<Incoming>> = [predict.map(Work::Predict), embed.map(Work::Embed)]
            .into_iter()
            .flatten()
            .filter_map(|work| self.incoming(job.clone(), work, reply.clone(), headers.as_ref()))
            .collect();
        let dispatch = self.actors.dispatch.clone();
        tokio::spawn(async move {
            let _permit = permit;
            if let Some(listed) = listed {
                let _ = listed.await;
            }
            if interrupt.is_some() {
                let (done, interrupted) = oneshot::channel();
                let command = Command::Interrupt {
                    job: job.into(),
                    reply,
                    mark: Mark::Omit,
                    done: Some(done),
                };
                if dispatch.send(command).await.is_ok() {
                    let _ = interrupted.await;
                }
            }
            for incoming in jobs {
                let _ = dispatch.send(Command::Job(incoming)).await;
            }
        });
    }

    fn list(&self, job: String, reply: Option<String>, done: Option<oneshot::Sender<()>>) {
        let Some(reply) = reply else { return };
        let list = ListJob { job, reply, done };
        if let Err(mpsc::error::TrySendError::Full(list)) = self.actors.lister.try_send(list) {
            let response = WorkerResponse::failed(list.job, ErrorBody::busy());
            self.actors.replies.send(&list.reply, &response);
        }
    }

    /// What is kept of a job, or nothing if nobody would get its answer.
    fn incoming(
        &self,
        job: String,
        work: Work,
        reply: Option<String>,
        headers: Option<&HeaderMap>,
    ) -> Option<Box<Incoming>> {
        let Some(reply) = reply else {
            tracing::debug!(?job, "job dropped: it has no reply subject");
            return None;
        };
        Some(Box::new(Incoming {
            job: job.into(),
            arrived: Instant::now(),
            reply,
            work,
            caller: self.caller(headers),
        }))
    }

    fn caller(&self, headers: Option<&HeaderMap>) -> Caller {
        let Some(headers) = headers else {
            return Caller::default();
        };
        let get = |name: &str| {
            headers
                .iter()
                .find(|(known, _)| AsRef::<str>::as_ref(*known).eq_ignore_ascii_case(name))
                .and_then(|(_, values)| values.first())
                .map(|value| value.as_str().to_owned())
        };
        Caller {
            account: get(REQUEST_INFO).and_then(|info| account(&info)),
            traceparent: get("traceparent"),
            headers: self
                .hook_headers
                .iter()
                .filter_map(|name| get(name).map(|value| (name.clone(), value)))
                .collect(),
        }
    }

    fn check_stream(
        &self,
        predict: &PredictRequest,
        headers: Option<&HeaderMap>,
    ) -> Result<(), ErrorBody> {
        if predict.stream.is_empty() {
            return Ok(());
        }
        if predict.stream == self.subject {
            return Err(ErrorBody::invalid_request("stream subject is the worker's own"));
        }
        let is_foreign = headers.is_some_and(|headers| headers.get(REQUEST_INFO).is_some());
        if is_foreign {
            return Err(ErrorBody::invalid_request(
                "stream cannot reach another account: NATS maps reply subjects only; leave stream out",
            ));
        }
        check_stream_subject(&predict.stream, &self.stream_subjects)
            .map_err(ErrorBody::invalid_request)
    }

    fn answer(&self, reply: Option<String>, response: WorkerResponse) {
        if let Some(reply) = reply {
            self.actors.replies.send(&reply, &response);
        }
    }
}

/// Whether a worker of this subject may answer there. It publishes with its own
/// rights, so it must not be sent to system subjects, nor made to talk to itself.
pub fn may_reply(subject: &str, reply: &str) -> bool {
    let internal = reply.strip_prefix(subject);
    let is_own = internal.is_some_and(|rest| rest.is_empty() || rest.starts_with("._"));
    !reply.starts_with('$') && !is_own
}

/// The account named by the header of a server.
fn account(info: &str) -> Option<String> {
    let info: serde_json::Value = serde_json::from_str(info).ok()?;
    info.get("acc")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests;
