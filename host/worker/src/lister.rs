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
        let names = match listed {
            Ok(names) => names,
            Err(error) => {
                let response = WorkerResponse::failed(job.job.as_str(), error.clone());
                self.replies.send(&job.reply, &response);
                // Whoever waits for the answer goes on when `job` is dropped.
                return;
            }
        };
        let sent = self.replies.send_message(self.message(&job, names, names.len()));
        let (lister, names) = (self.clone(), names.clone());
        tokio::spawn(async move {
            if let Ok(Err(SendError::TooLarge { .. })) = sent.await {
                lister.answer_shorter(&job, &names).await;
            }
            if let Some(done) = job.done {
                let _ = done.send(());
            }
        });
    }

    /// For a list that does not fit into one message: the options of the first
    /// model only, which are those of all; else none; else an error.
    async fn answer_shorter(&self, job: &ListJob, names: &[String]) {
        let mut max_payload = 0;
        for with_options in [1, 0] {
            let mut message = self.message(job, names, with_options);
            message.headers.get_or_insert_default().insert(OPTIONS_OMITTED, "true");
            match self.replies.send_message(message).await {
                Ok(Err(SendError::TooLarge { max })) => max_payload = max,
                _ => return,
            }
        }
        let text = format!(
            "list of {} models exceeds the server's max_payload of {max_payload} bytes",
            names.len()
        );
        let error = ErrorBody::new(ErrorCode::Unknown, text);
        self.replies.send(&job.reply, &WorkerResponse::failed(job.job.as_str(), error));
    }

    /// The answer with the options of this many models.
    fn message(&self, job: &ListJob, names: &[String], with_options: usize) -> OutboundMessage {
        let models = names.iter().enumerate().map(|(index, name)| ModelInfo {
            model: name.clone(),
            options: if index < with_options { self.options.clone() } else { Vec::new() },
        });
        let response = WorkerResponse::listed(job.job.as_str(), models.collect());
        self.replies.message(&job.reply, &response)
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
