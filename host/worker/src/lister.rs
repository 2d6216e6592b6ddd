//! Answers `list`: reads the models folder, away from the receive loop.
//!
//! One task serves all lists. Those that wait while the folder is read are
//! answered together from the next reading, so a flood of lists costs one
//! reading at a time. Which files count is [`crate::models`]' business.

use std::path::PathBuf;

use async_nats::message::OutboundMessage;
use llamero_protocol::{ErrorBody, ErrorCode, ModelInfo, ModelOption, WorkerResponse};
use tokio::sync::{mpsc, oneshot};

use crate::models::dir;
use crate::nats::outbox::SendError;
use crate::replies::Replies;

/// Lists that may wait.
pub const CAPACITY: usize = 1024;

/// Tells the client that only the first model carries its options.
const OPTIONS_OMITTED: &str = "Llm-Options-Omitted";

/// One list command.
#[derive(Debug)]
pub struct ListJob {
    /// The client's name of it.
    pub job: String,
    /// Where the answer goes.
    pub reply: String,
    /// Completes when the answer has been sent.
    pub done: Option<oneshot::Sender<()>>,
}

/// What the answer is made of.
#[derive(Debug, Clone)]
pub struct Lister {
    /// The models folder.
    pub dir: PathBuf,
    /// Whether links that lead out of it are followed.
    pub follow_links: bool,
    /// The options of every model.
    pub options: Vec<ModelOption>,
    /// Where answers go.
    pub replies: Replies,
}

impl Lister {
    /// Serves lists until nobody can send any.
    pub async fn run(self, mut jobs: mpsc::Receiver<ListJob>) {
        let mut waiting = Vec::new();
        while jobs.recv_many(&mut waiting, CAPACITY).await > 0 {
            let (dir, follow_links) = (self.dir.clone(), self.follow_links);
            let read = tokio::task::spawn_blocking(move || dir::list(&dir, follow_links));
            let listed = match read.await {
                Ok(Ok(names)) => Ok(names),
                Ok(Err(error)) => {
                    tracing::warn!(dir = %self.dir.display(), %error, "the models folder cannot be read");
                    Err(self.unreadable(&error))
                }
                Err(_) => Err(ErrorBody::new(ErrorCode::Unknown, "internal error")),
            };
            for job in waiting.drain(..) {
                self.answer(job, &listed);
            }
        }
    }

    fn answer(&self, job: ListJob, listed: &Result<Vec<String>, ErrorBody>) {
        let message = match listed {
            Ok(names) => {
                let models = names.iter().map(|name| self.model(name)).collect();
                self.message(&job, models)
            }
            Err(error) => {
                let response = WorkerResponse::failed(job.job.as_str(), error.clone());
                self.replies.message(&job.reply, &response)
            }
        };
        let sent = self.replies.send_message(message);
        let lister = self.clone();
        let names = listed.as_ref().ok().cloned();
        tokio::spawn(async move {
            if let (Ok(Err(SendError::TooLarge { max })), Some(names)) = (sent.await, names) {
                let _ = lister.replies.send_message(lister.shorter(&job, &names)).await;
                tracing::debug!(max, "list sent without the options of all models but the first");
            }
            if let Some(done) = job.done {
                let _ = done.send(());
            }
        });
    }

    fn model(&self, name: &str) -> ModelInfo {
        ModelInfo {
            model: name.to_owned(),
            options: self.options.clone(),
        }
    }

    fn message(&self, job: &ListJob, models: Vec<ModelInfo>) -> OutboundMessage {
        let response = WorkerResponse::listed(job.job.as_str(), models);
        self.replies.message(&job.reply, &response)
    }

    /// The answer for a list that does not fit into one message. Options are the
    /// same for all models, so those of the first tell everything.
    fn shorter(&self, job: &ListJob, names: &[String]) -> OutboundMessage {
        let models = names.iter().enumerate().map(|(index, name)| match index {
            0 => self.model(name),
            _ => ModelInfo {
                model: name.clone(),
                options: Vec::new(),
            },
        });
        let mut message = self.message(job, models.collect());
        message
            .headers
            .get_or_insert_default()
            .insert(OPTIONS_OMITTED, "true");
        message
    }

    /// The text carries the operating system's reason and the folder's own name,
    /// not where it is.
    fn unreadable(&self, error: &std::io::Error) -> ErrorBody {
        let name = self.dir.file_name().map(|name| name.to_string_lossy());
        let text = match name {
            Some(name) => format!("{name}: {error}"),
            None => error.to_string(),
        };
        ErrorBody::new(ErrorCode::Unknown, text)
    }
}
