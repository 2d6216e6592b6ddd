//! Answers `ping` with `pong`, through the whole worker but without the model.

wit_bindgen::generate!({ path: "../../wit", world: "request-plugin" });
use exports::llamero::hooks::request_hook::*;
struct Ping;
impl Guest for Ping {
    fn on_request(_: CallContext, request: Request) -> Result<Verdict, HookError> {
        Ok(match request.content {
            Content::Completion(text) if text.input == ["ping"] => Verdict::Respond("pong".into()),
            _ => Verdict::Pass,
        })
    }
}
export!(Ping);
