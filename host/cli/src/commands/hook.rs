//! `llamero hook …`: plugins of running workers, and plugins as files.

use serde_json::{Value, json};

use super::{connect, init_log, load_client};
use crate::args::hook::{FleetArgs, HookArgs, HookCommand};
use crate::client::{Client, ClientError};
use crate::control::{self, Answer, Whom};
use crate::exit::{Exit, Failure};
use crate::output;

mod file;
mod list;

/// Runs the command.
///
/// # Errors
/// The failure to print, with its exit code.
pub async fn run(args: HookArgs) -> Result<Exit, Failure> {
    match args.command {
        HookCommand::List(args) => {
            let (client, fleet) = (connect(&args.fleet.connect).await?, args.fleet);
            let answers = control::list(&client, whom(&fleet), args.timeout).await;
            print(&client, &fleet, answers, list::table)
        }
        HookCommand::Reload(args) => {
            let (client, fleet) = (connect(&args.fleet.connect).await?, args.fleet);
            let name = args.name.as_deref();
            let answers =
                control::command(&client, whom(&fleet), "reload", name, args.timeout).await;
            print(&client, &fleet, answers, outcomes)
        }
        HookCommand::Rollback(args) => act("rollback", args).await,
        HookCommand::Disable(args) => act("disable", args).await,
        HookCommand::Enable(args) => act("enable", args).await,
        HookCommand::Inspect(args) => file::inspect(&args),
        HookCommand::Check(args) => {
            let settings = load_client(&args.connect)?;
            init_log(&settings)?;
            // Compiling blocks, for seconds.
            let checking = tokio::task::spawn_blocking(move || file::check(&args, &settings));
            checking.await.map_err(anyhow::Error::from)?
        }
    }
}

async fn act(action: &str, args: crate::args::hook::HookNamedArgs) -> Result<Exit, Failure> {
    if args.name.is_empty() {
        return Err(Failure::new(Exit::Usage, "the plugin's name is empty"));
    }
    let client = connect(&args.fleet.connect).await?;
    let name = Some(args.name.as_str());
    let answers = control::command(&client, whom(&args.fleet), action, name, args.timeout).await;
    print(&client, &args.fleet, answers, outcomes)
}

fn whom(fleet: &FleetArgs) -> Whom<'_> {
    fleet.worker.as_deref().map_or(Whom::All, Whom::One)
}

/// Prints the answers and finds the exit code: every worker has to have answered,
/// and none with a failure.
fn print(
    client: &Client,
    fleet: &FleetArgs,
    answers: Result<Vec<Answer>, ClientError>,
    show: impl Fn(&[Value]) -> String,
) -> Result<Exit, Failure> {
    let (mut bodies, mut missing) = (Vec::new(), None);
    for Answer { worker, result } in answers.map_err(|error| no_answer(client, error))? {
        match result {
            Ok(body) => bodies.push(body),
            Err(ClientError::NoWorker { .. }) => {
                let text = format!("no worker {worker} listens on {}", client.subject());
                output::note(&format!("error: {text}"));
                missing = missing.or(Some(Exit::Unavailable));
            }
            Err(error) => {
                let failure = Failure::from(error);
                output::note(&format!("error: worker {worker}: {}", failure.message));
                missing = missing.or(Some(failure.exit));
            }
        }
    }
    if fleet.json {
        let text = json!({ "workers": bodies }).to_string();
        output::line(&text).map_err(anyhow::Error::from)?;
    } else {
        let refusals = bodies.iter().filter(|body| body["error"].is_object());
        for body in refusals {
            let error = body["error"]["error"].as_str().unwrap_or_default();
            output::note(&format!("error: worker {}: {error}", worker_of(body)));
        }
        let text = show(&bodies);
        if !text.is_empty() {
            output::line(&text).map_err(anyhow::Error::from)?;
        }
    }
    Ok(missing.unwrap_or_else(|| exit_of(&bodies)))
}

/// Whether the answers are those of workers that could do what they were asked for.
fn exit_of(bodies: &[Value]) -> Exit {
    let failed = |body: &Value| {
        body["error"].is_object()
            || body["hook"]["kept"].as_array().is_some_and(|kept| !kept.is_empty())
    };
    if bodies.iter().any(failed) { Exit::Failure } else { Exit::Ok }
}

fn no_answer(client: &Client, error: ClientError) -> Failure {
    let failure = Failure::from(error);
    match failure.exit {
        // Workers and clients may need different rights for these subjects.
        Exit::Timeout => failure.with_hint(format!(
            "workers listen for this on {0}._ctl and {0}._w.ID unless hook_control is off; the \
             NATS user of this command must be allowed to publish there",
            client.subject()
        )),
        _ => failure,
    }
}

fn worker_of(body: &Value) -> &str {
    body["worker"].as_str().unwrap_or("?")
}

/// One line for each thing that a worker did.
fn outcomes(bodies: &[Value]) -> String {
    let lines = bodies.iter().filter(|body| body["hook"].is_object()).flat_map(|body| {
        let worker = worker_of(body);
        outcome(&body["hook"]).into_iter().map(move |line| format!("{worker}: {line}"))
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn outcome(hook: &Value) -> Vec<String> {
    let text = |name: &str| hook[name].as_str().unwrap_or("?");
    let plugin = text("plugin");
    match text("action") {
        "rollback" => {
            let [from, to] = ["from", "to"].map(|name| short(text(name)));
            vec![format!("{plugin} rolled back from {from} to {to}")]
        }
        action @ ("disable" | "enable") => {
            let done = if hook["changed"] == true { "" } else { " already" };
            vec![format!("{plugin} is{done} {action}d")]
        }
        _ => reloaded(hook),
    }
}

fn reloaded(hook: &Value) -> Vec<String> {
    let ids = |name: &str| {
        let ids = hook[name].as_array().into_iter().flatten().filter_map(Value::as_str);
        ids.map(str::to_owned).collect::<Vec<_>>()
    };
    let mut lines: Vec<String> =
        ids("loaded").into_iter().map(|id| format!("{id} loaded")).collect();
    lines.extend(ids("removed").into_iter().map(|id| format!("{id} removed")));
    for kept in hook["kept"].as_array().into_iter().flatten() {
        let [plugin, error] = ["plugin", "error"].map(|name| kept[name].as_str().unwrap_or("?"));
        let plugin = if plugin.is_empty() { "hooks folder" } else { plugin };
        lines.push(format!("{plugin} stays as it was: {error}"));
    }
    if lines.is_empty() {
        lines.push(format!("nothing has changed ({} plugins)", ids("unchanged").len()));
    }
    lines
}

/// The first digits of a digest, enough for people.
fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_told_worker_by_worker() {
        insta::assert_snapshot!(outcomes(&[
            json!({"worker": "W1", "hook": {"action": "reload", "loaded": ["a"], "removed": ["b"],
                "kept": [{"plugin": "c", "error": "not a WebAssembly file"},
                         {"plugin": "", "error": "9 plugins in the folder; the limit is 8"}],
                "unchanged": ["d"]}}),
            json!({"worker": "W2", "hook": {"action": "reload", "loaded": [], "removed": [],
                "kept": [], "unchanged": ["d", "e"]}}),
            json!({"worker": "W3", "hook": {"action": "rollback", "plugin": "a",
                "from": "0123456789abcdef", "to": "fedcba9876543210"}}),
            json!({"worker": "W4", "hook": {"action": "disable", "plugin": "a", "changed": true}}),
            json!({"worker": "W5", "hook": {"action": "enable", "plugin": "a", "changed": false}}),
            json!({"worker": "W6", "error": {"code": 2, "error": "there is no plugin `a`"}}),
        ]));
    }

    #[test]
    fn one_failure_is_a_failure() {
        let fine = json!({"worker": "a", "hook": {"action": "reload", "kept": []}});
        let kept = json!({"worker": "b", "hook": {"kept": [{"plugin": "x", "error": "y"}]}});
        let refused = json!({"worker": "c", "error": {"error": "z"}});
        assert_eq!(exit_of(std::slice::from_ref(&fine)), Exit::Ok);
        assert_eq!(exit_of(&[fine.clone(), kept]), Exit::Failure);
        assert_eq!(exit_of(&[fine, refused]), Exit::Failure);
    }
}
