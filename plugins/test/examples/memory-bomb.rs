//! `[[memory-bomb]]`: keeps allocating until the host refuses.

use test_plugins::request::exports::llamero::hooks::request_hook::{
    CallContext, Guest, HookError, Request, Verdict,
};

struct MemoryBomb;

impl Guest for MemoryBomb {
    fn on_request(_context: CallContext, request: Request) -> Result<Verdict, HookError> {
        let mut hoard: Vec<Vec<u8>> = Vec::new();
        while test_plugins::asked_for(&request.content, "memory-bomb") {
            // Written to, so that the memory is really used and not only reserved.
            hoard.push(std::hint::black_box(vec![1; 1 << 20]));
        }
        Ok(Verdict::Pass)
    }
}

test_plugins::export!(request_plugin: MemoryBomb);
