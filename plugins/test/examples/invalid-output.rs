//! Answers that a host must refuse. `[[invalid-output]]`: a rejection with code
//! 500, which is neither the protocol's nor a plugin's. `:option`: an option that
//! does not exist. `:json`: an option's value that is not JSON. `:type`: one of the
//! wrong type. `:range`: one out of range.

use test_plugins::request::exports::llamero::hooks::request_hook::Patch;
use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};
use test_plugins::request::llamero::hooks::types::{OptionValue, Rejection};

struct InvalidOutput;

impl Guest for InvalidOutput {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        let option = |name: &str, json: &str| {
            Ok(Verdict::Patch(Patch {
                model: None,
                content: None,
                options: vec![OptionValue { name: name.to_owned(), json: json.to_owned() }],
            }))
        };
        match test_plugins::argument(&request.content, "invalid-output").as_deref() {
            None => Ok(Verdict::Pass),
            Some("option") => option("no_such_option", "1"),
            Some("json") => option("top_k", "{"),
            Some("type") => option("top_k", "\"many\""),
            Some("range") => option("seed", "-1"),
            Some(_) => Ok(Verdict::Reject(Rejection {
                code: Some(500),
                reason: "internal server error".to_owned(),
            })),
        }
    }
}

test_plugins::export!(request_plugin: InvalidOutput);
