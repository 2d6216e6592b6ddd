//! `[[echo]]`: answers with the call as this plugin sees it, as JSON. Under a file
//! name that comes last in the folder it shows what the plugins before it did.

use serde_json::{Value, json};
use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};
use test_plugins::request::llamero::hooks::types::{Content, Role};
use test_plugins::request::llamero::hooks::{call, config};

struct Echo;

impl Guest for Echo {
    fn on_request(context: CallContext, request: Request) -> Result<Verdict, HookError> {
        if !test_plugins::asked_for(&request.content, "echo") {
            return Ok(Verdict::Pass);
        }
        call::note("seen", "yes");
        let headers = context.headers.iter().map(|header| json!([header.name, header.value]));
        let options = request.options.iter().map(|option| {
            let value = serde_json::from_str(&option.json).unwrap_or(Value::Null);
            (option.name.clone(), value)
        });
        let answer = json!({
            "job": context.job,
            "subject": context.subject,
            "worker": context.worker,
            "account": context.account,
            "budget_ms": context.budget_ms,
            "traceparent": context.traceparent,
            "headers": headers.collect::<Vec<_>>(),
            "model": request.model,
            "content": content_as_json(&request.content),
            "options": options.collect::<serde_json::Map<_, _>>(),
            "wants_stream": request.wants_stream,
            "config": serde_json::from_str(&config::document()).unwrap_or(Value::Null),
            "call": {
                "model": call::model(),
                "remaining_ms": call::remaining_ms(),
                "cancelled": call::cancelled(),
                "own_note": call::read_note("echo.seen"),
                "redact_note": call::read_note("redact.masked"),
            },
        });
        Ok(Verdict::Respond(answer.to_string()))
    }
}

fn content_as_json(content: &Content) -> Value {
    match content {
        Content::Completion(completion) => json!({
            "system": completion.system,
            "input": completion.input,
        }),
        Content::Chat(messages) => messages
            .iter()
            .map(|message| json!({ "role": role_name(&message.role), "content": message.content }))
            .collect(),
    }
}

fn role_name(role: &Role) -> &str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
        Role::Other(name) => name,
    }
}

test_plugins::export!(request_plugin: Echo);
