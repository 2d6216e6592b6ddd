//! Commands about hooks that operators send over NATS: list, reload, roll back,
//! disable, enable.
//!
//! Every worker listens on `SUBJECT._ctl`, which reaches all workers of a subject,
//! and on `SUBJECT._w.ID`, which reaches one. Both are apart from the subject of
//! requests and have a task of their own, so that no command ever stands in the way
//! of a request. What a command does is done by [`llamero_hooks::Registry`], on
//! threads that may block; here stands how it is asked for and answered:
//!
//! ```json
//! {"hook": {"action": "rollback", "name": "redact"}}
//! {"worker": "ID", "hook": {"action": "rollback", "plugin": "redact", ...}}
//! {"worker": "ID", "error": {"code": 2, "error": "there is no plugin `redact`"}}
//! ```

mod answer;

use std::sync::Arc;

use async_nats::{Message, Subscriber};
use futures_util::StreamExt;
use futures_util::stream::{SelectAll, select_all};
use llamero_hooks::Registry;
use llamero_protocol::ErrorBody;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::nats::connection::Connection;
use crate::nats::intake::may_reply;
use crate::nats::outbox::{Outbox, SendError};
use crate::wire;
use crate::worker::names;

/// Commands that are carried out at once; more are answered with `worker busy`.
const AT_ONCE: usize = 16;

/// Largest command. A legitimate one has some hundred bytes.
const MAX_BYTES: usize = 16 << 10;

/// A command.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Command {
    hook: HookCommand,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct HookCommand {
    action: Action,
    /// The plugin. Reloading without a name looks at all of them; with one, it also
    /// tries a version again that was taken out of service.
    name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    List,
    Reload,
    Rollback,
    Disable,
    Enable,
}

/// Subscribed, and not listening yet: a refusal comes later than the subscription.
#[derive(Debug)]
pub struct Subscribed {
    subject: String,
    worker: String,
    subscriptions: SelectAll<Subscriber>,
}

/// Listens until it is stopped.
#[derive(Debug)]
pub struct Control {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Control {
    /// Subscribes, unless the settings say otherwise. A worker can do without, so
    /// what goes wrong is worth a warning and no more.
    pub async fn subscribe(
        connection: &Connection,
        subject: &str,
        worker: &str,
        wanted: bool,
    ) -> Subscribed {
        let mut subscriptions = Vec::new();
        for subject in subjects(subject, worker).into_iter().filter(|_| wanted) {
            match connection.client.subscribe(subject.clone()).await {
                Ok(subscriber) => subscriptions.push(subscriber),
                Err(error) => warn_deaf(&subject, &error.to_string()),
            }
        }
        Subscribed {
            subject: subject.to_owned(),
            worker: worker.to_owned(),
            subscriptions: select_all(subscriptions),
        }
    }

    /// Takes no more commands. One that is being carried out is not waited for.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

impl Subscribed {
    /// Begins to listen. By now the server has said what it denies.
    pub fn serve(self, hooks: Registry, outbox: Outbox) -> Control {
        let Self { subject, worker, mut subscriptions } = self;
        let denied = outbox.connection().link.denied();
        for own in subjects(&subject, &worker) {
            if let Some(refusal) = denied.iter().find(|text| names(text, &own)) {
                warn_deaf(&own, refusal);
            }
        }
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let controller =
            Controller { subject, worker, hooks, outbox, room: Arc::new(Semaphore::new(AT_ONCE)) };
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    () = stopped.cancelled() => return,
                    message = subscriptions.next() => match message {
                        Some(message) => controller.handle(message),
                        // There are none, or the connection is closed for good; the
                        // receive loop ends the worker for that.
                        None => return,
                    },
                }
            }
        });
        Control { stop, task }
    }
}

/// All workers, and this one.
fn subjects(subject: &str, worker: &str) -> [String; 2] {
    [format!("{subject}._ctl"), format!("{subject}._w.{worker}")]
}

fn warn_deaf(subject: &str, error: &str) {
    tracing::warn!(
        subject,
        error,
        "commands about hooks cannot be received there; permit it, or set hook_control = false"
    );
}

#[derive(Clone)]
struct Controller {
    subject: String,
    worker: String,
    hooks: Registry,
    outbox: Outbox,
    room: Arc<Semaphore>,
}

impl Controller {
    /// Serves one message; waits for nothing.
    fn handle(&self, message: Message) {
        let reply = message.reply.as_ref().map(|reply| reply.to_string());
        if reply.as_deref().is_some_and(|reply| !may_reply(&self.subject, reply)) {
            tracing::warn!(
                "command dropped: its reply subject is one that this worker must not publish to"
            );
            return;
        }
        let room = Arc::clone(&self.room).try_acquire_owned();
        let command = match room {
            Ok(_) => parse(&message.payload),
            Err(_) => Err(ErrorBody::busy()),
        };
        let this = self.clone();
        tokio::spawn(async move {
            // Held until the answer has been sent.
            let _room = room;
            let result = match command {
                Ok(command) => this.carry_out(command).await,
                Err(error) => Err(error),
            };
            this.answer(reply, result).await;
        });
    }

    async fn carry_out(&self, command: HookCommand) -> Result<Value, ErrorBody> {
        let hooks = self.hooks.clone();
        if command.action != Action::List {
            tracing::info!(action = ?command.action, name = command.name, "command about hooks");
        }
        let acting = tokio::task::spawn_blocking(move || act(&hooks, &command));
        acting.await.unwrap_or_else(|_| {
            tracing::error!("carrying out a command about hooks panicked");
            Err(wire::panicked())
        })
    }

    async fn answer(&self, reply: Option<String>, result: Result<Value, ErrorBody>) {
        if let Err(error) = &result {
            tracing::info!(error = error.error, "command about hooks refused");
        }
        let Some(reply) = reply else { return };
        let sent = self.send(&reply, &result).await;
        if let Err(SendError::TooLarge { max }) = sent {
            let text = format!("the answer exceeds the server's max_payload of {max} bytes");
            let _ = self.send(&reply, &Err(ErrorBody::prediction_failed(text))).await;
        }
    }

    async fn send(&self, reply: &str, result: &Result<Value, ErrorBody>) -> Result<(), SendError> {
        let body = match result {
            Ok(hook) => json!({ "worker": self.worker, "hook": hook }),
            Err(error) => json!({ "worker": self.worker, "error": error }),
        };
        let message = self.outbox.control_message(reply, &body, result.as_ref().err());
        let sent = self.outbox.send(message).await;
        if let Err(error) = &sent {
            tracing::debug!(%error, "the answer to a command was not sent");
        }
        sent
    }
}

fn parse(payload: &[u8]) -> Result<HookCommand, ErrorBody> {
    if payload.len() > MAX_BYTES {
        return Err(ErrorBody::invalid_request(format!(
            "a command of {} bytes; the limit is {MAX_BYTES}",
            payload.len()
        )));
    }
    let value: Value = serde_json::from_slice(payload).map_err(ErrorBody::illegible)?;
    let command: Command = serde_json::from_value(value)
        .map_err(|error| ErrorBody::invalid_request(format!("no command: {error}")))?;
    Ok(command.hook)
}

/// Carries out a command. Blocks for as long as that takes.
fn act(hooks: &Registry, command: &HookCommand) -> Result<Value, ErrorBody> {
    let refused =
        |error: llamero_hooks::RegistryError| ErrorBody::invalid_request(error.to_string());
    let name = || {
        let name = command.name.as_deref().filter(|name| !name.is_empty());
        name.ok_or_else(|| ErrorBody::invalid_request("this action needs the `name` of a plugin"))
    };
    match command.action {
        Action::List => Ok(answer::list(hooks)),
        Action::Reload => {
            if hooks.folder().is_none() {
                return Err(ErrorBody::invalid_request(
                    "this worker has no hooks folder; set hooks_dir",
                ));
            }
            // A file that nobody has looked at yet is known only afterwards.
            let name = command.name.as_ref();
            let unknown = name.and_then(|name| hooks.forgive(name).err());
            let report = hooks.sync(true);
            let is_there = |name: &String| hooks.list().iter().any(|plugin| plugin.id == *name);
            match unknown {
                Some(error) if !name.is_some_and(is_there) => Err(refused(error)),
                _ => Ok(answer::reload(&report)),
            }
        }
        Action::Rollback => {
            let name = name()?;
            let done = hooks.rollback(name).map_err(refused)?;
            Ok(answer::rollback(name, &done))
        }
        Action::Disable => {
            let name = name()?;
            let changed = hooks.disable(name).map_err(refused)?;
            Ok(answer::switched("disable", name, changed, hooks.generation()))
        }
        Action::Enable => {
            let name = name()?;
            let changed = hooks.enable(name).map_err(refused)?;
            Ok(answer::switched("enable", name, changed, hooks.generation()))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use std::collections::BTreeMap;
    use std::fs;

    use llamero_hooks::{HookHost, HostConfig, NoTokenizer, Services};

    use super::*;

    #[test]
    fn commands_are_read() {
        for (text, action, name) in [
            (r#"{"hook": {"action": "list"}}"#, Action::List, None),
            (r#"{"hook": {"action": "reload", "name": null}}"#, Action::Reload, None),
            (r#"{"hook": {"action": "disable", "name": "a"}}"#, Action::Disable, Some("a")),
        ] {
            let name = name.map(str::to_owned);
            assert_eq!(parse(text.as_bytes()).unwrap(), HookCommand { action, name });
        }
    }

    #[test]
    fn what_is_no_command_is_named() {
        for (text, code, part) in [
            ("", 1, "not a valid JSON object"),
            ("[", 1, "not a valid JSON object"),
            ("{}", 2, "missing field `hook`"),
            (r#"{"job": "a", "interrupt": {}}"#, 2, "unknown field `job`, expected `hook`"),
            (r#"{"hook": {}}"#, 2, "missing field `action`"),
            (r#"{"hook": {"action": "explode"}}"#, 2, "expected one of `list`, `reload`"),
            (r#"{"hook": {"action": "list", "all": true}}"#, 2, "unknown field `all`"),
            (r#"{"hook": {"action": "list", "name": 3}}"#, 2, "invalid type"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.code, code, "{text}: {error}");
            assert!(error.error.contains(part), "{text}: {error}");
        }
        let error = parse(&vec![b' '; MAX_BYTES + 1]).unwrap_err();
        assert!(error.error.contains("the limit is 16384"), "{error}");
    }

    fn ask(hooks: &Registry, text: &str) -> Value {
        match act(hooks, &parse(text.as_bytes()).unwrap()) {
            Ok(answer) => answer,
            Err(error) => json!({ "error": error }),
        }
    }

    #[test]
    fn commands_are_carried_out_and_answered() {
        let temp = tempfile::tempdir().unwrap();
        let services = Services::new(Arc::new(NoTokenizer));
        let host = HookHost::new(HostConfig::default(), services).unwrap();
        let hooks = host.open(temp.path(), Box::new(|| Ok(BTreeMap::new()))).unwrap();
        assert_eq!(
            ask(&hooks, r#"{"hook": {"action": "list"}}"#),
            json!({"action": "list", "generation": 1, "draining": 0, "plugins": []})
        );
        fs::write(temp.path().join("a.wasm"), "no plugin").unwrap();
        let answer = ask(&hooks, r#"{"hook": {"action": "reload"}}"#);
        assert_eq!(answer["kept"][0]["plugin"], "a", "{answer}");
        let error = answer["kept"][0]["error"].as_str().unwrap();
        assert!(error.contains("not a WebAssembly file"), "{error}");
        let answer = ask(&hooks, r#"{"hook": {"action": "list"}}"#);
        assert_eq!(answer["plugins"][0]["state"], "refused", "{answer}");
        for (text, part) in [
            (r#"{"hook": {"action": "rollback"}}"#, "needs the `name`"),
            (r#"{"hook": {"action": "rollback", "name": "a"}}"#, "no earlier version"),
            (r#"{"hook": {"action": "disable", "name": "b"}}"#, "there is no plugin `b`"),
            (r#"{"hook": {"action": "reload", "name": "b"}}"#, "there is no plugin `b`"),
        ] {
            let answer = ask(&hooks, text);
            let error = answer["error"]["error"].as_str().unwrap_or_default();
            assert!(error.contains(part), "{text}: {answer}");
        }
        let answer = ask(&hooks, r#"{"hook": {"action": "disable", "name": "a"}}"#);
        assert_eq!(answer["changed"], true, "{answer}");
        let nothing = host.without_folder();
        let answer = ask(&nothing, r#"{"hook": {"action": "reload"}}"#);
        assert!(answer.to_string().contains("no hooks folder"), "{answer}");
    }
}
