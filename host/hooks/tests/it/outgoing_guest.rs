//! Test plugins for the outgoing phases: stream filters, response hooks and
//! observers, by hand-written canonical ABI as in `guest`.
//!
//! Most tests use [`scripted`], one filter that does what the id of the job says:
//! it is compiled once, and a test only names a job.

use crate::guest::{ARGS, Guest, Image};

/// `open` gets the call context in fifteen words, of which the first two are the
/// job's id.
const OPEN: &str = "(param $job i32) (param $job-length i32)
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)";

const PUSH: &str = "(param $seq i32) (param $text i32) (param $length i32)
    (param $tokens i32) (param $count i32) (param $held i32) (result i32)";

/// The reason's text follows the case if the case has one.
const CLOSE: &str = "(param $finish i32) (param $reason i32) (param $reason-length i32)
    (param $prompt-tokens i32) (param $cached-tokens i32) (param $completion-tokens i32)
    (param $held i32) (result i32)";

/// Offsets in the arguments of `on-response`.
pub const RESPONSE_TEXT: u32 = 60;
pub const RESPONSE_FINISH: u32 = 68;
pub const RESPONSE_COMPLETION_TOKENS: u32 = 88;

/// Offsets in the arguments of `on-complete`: the summary has words of eight bytes
/// and is aligned to them.
pub const OUTCOME: u32 = 64;
pub const OUTCOME_PAYLOAD: u32 = 68;
pub const SUMMARY_PROMPT_TOKENS: u32 = 84;
pub const SUMMARY_COMPLETION_TOKENS: u32 = 92;
pub const QUEUE_US: u32 = 96;
pub const FIRST_TOKEN: u32 = 104;
pub const FIRST_TOKEN_US: u32 = 112;
pub const TOTAL_US: u32 = 120;

/// How a filter wants its text cut.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    Token,
    Bytes(u32),
    Line,
    Sentence,
    Whole,
}

impl Image {
    /// What `open` returns for a filter that is not interested.
    pub fn no_plan(&mut self) -> u32 {
        self.words(&[0, 0, 0, 0, 0, 0])
    }

    pub fn plan(&mut self, cut: Cut, max_hold_bytes: u32, wants_tokens: bool) -> u32 {
        let (case, bytes) = match cut {
            Cut::Token => (0, 0),
            Cut::Bytes(bytes) => (1, bytes),
            Cut::Line => (2, 0),
            Cut::Sentence => (3, 0),
            Cut::Whole => (4, 0),
        };
        self.words(&[0, 1, case, bytes, max_hold_bytes, u32::from(wants_tokens)])
    }

    /// A verdict or a tail without a payload, by its case.
    pub fn case(&mut self, case: u32) -> u32 {
        self.words(&[0, case, 0, 0, 0, 0])
    }

    /// `release(n)`.
    pub fn release(&mut self, n: u32) -> u32 {
        self.words(&[0, 2, n, 0, 0, 0])
    }

    fn two_texts(&mut self, case: u32, first: &str, second: &str) -> u32 {
        let [first, first_length] = self.text(first);
        let [second, second_length] = self.text(second);
        self.words(&[0, case, first, first_length, second, second_length])
    }

    pub fn rewrite(&mut self, emit: &str, hold: &str) -> u32 {
        self.two_texts(3, emit, hold)
    }

    pub fn halt(&mut self, text: &str, reason: &str) -> u32 {
        self.two_texts(4, text, reason)
    }
}

impl Guest {
    /// Adds a stream filter: bodies of open, push and close, each of which leaves
    /// the address of its result.
    pub fn stream_filter(mut self, open: &str, push: &str, close: &str) -> Self {
        self.add("stream-filter", "open", OPEN, open);
        self.add("stream-filter", "push", PUSH, push);
        self.add("stream-filter", "close", CLOSE, close);
        self
    }

    pub fn on_response(mut self, body: &str) -> Self {
        self.add("response-hook", "on-response", ARGS, body);
        self
    }

    pub fn on_complete(mut self, body: &str) -> Self {
        self.add("observer", "on-complete", "(param $args i32)", body);
        self
    }

    /// A plugin whose response hook returns what `verdict` places.
    pub fn responding(verdict: impl FnOnce(&mut Image) -> u32) -> Self {
        let mut guest = Self::new();
        let area = verdict(&mut guest.image);
        guest.on_response(&format!("(i32.const {area})"))
    }

    /// A filter that answers every push and its end with what `push` and `close`
    /// place.
    pub fn filtering(
        push: impl FnOnce(&mut Image) -> u32,
        close: impl FnOnce(&mut Image) -> u32,
    ) -> Self {
        let mut guest = Self::new();
        let plan = guest.image.plan(Cut::Token, u32::MAX, false);
        let (push, close) = (push(&mut guest.image), close(&mut guest.image));
        guest.stream_filter(
            &format!("(i32.const {plan})"),
            &format!("(i32.const {push})"),
            &format!("(i32.const {close})"),
        )
    }

    /// A filter that is not interested in any job, and traps if it is asked to be.
    pub fn not_interested() -> Self {
        let mut guest = Self::new();
        let none = guest.image.no_plan();
        guest.stream_filter(&format!("(i32.const {none})"), "unreachable", "unreachable")
    }
}

/// A filter that does what the job's id says. Its last letter is for the end, the
/// others are for one push each, and pushes beyond them pass.
///
/// | letter | push | end |
/// |---|---|---|
/// | `p` | pass | replace with `[tail]` |
/// | `h` | hold | |
/// | `r` | release the first half | release |
/// | `w` | rewrite to `W`, hold nothing | |
/// | `k` | rewrite to nothing, hold `K` | |
/// | `d` | | discard |
/// | `H` | halt with `[end]`, because `enough` | |
/// | `R` | reject with 1003 | reject with 1004 |
/// | `1` | release one byte | |
/// | `0` | release nothing | |
/// | `x` | release a byte more than there is | |
/// | `e` | return an error | return an error |
/// | `t` | trap | trap |
/// | `l` | loop for ever | loop for ever |
///
/// It leaves notes: the text of each push under `a`, `b` and so on to `z`; how often
/// its end came, and with which finish reason, under `end`; the bytes that the host
/// says are held with each push, as letters from `a` on, under `held`.
pub fn scripted(cut: Cut) -> Guest {
    scripted_with(cut, u32::MAX)
}

/// [`scripted`], with a plan that says how much is held at most.
pub fn scripted_with(cut: Cut, max_hold_bytes: u32) -> Guest {
    let mut guest = Guest::new();
    let plan = guest.image.plan(cut, max_hold_bytes, true);
    let pushes = [
        ('p', guest.image.case(0)),
        ('h', guest.image.case(1)),
        ('1', guest.image.release(1)),
        ('0', guest.image.release(0)),
        ('w', guest.image.rewrite("W", "")),
        ('k', guest.image.rewrite("", "K")),
        ('H', guest.image.halt("[end]", "enough")),
        ('R', guest.image.reject(5, Some(1003), "not that")),
        ('e', guest.image.error(2, "no idea")),
    ];
    let ends = [
        ('r', guest.image.case(0)),
        ('p', guest.image.replace("[tail]")),
        ('d', guest.image.case(2)),
        ('R', guest.image.reject(3, Some(1004), "not even that")),
        ('e', guest.image.error(2, "no idea")),
    ];
    let release = guest.image.release(0);
    let key = guest.image.place(b"\0");
    let [end_key, _] = guest.image.text("end");
    let end_value = guest.image.place(b"0x0");
    let [held_key, _] = guest.image.text("held");
    let held_value = guest.image.place(&[0; 32]);
    let arm = |(letter, area): &(char, u32)| {
        format!(
            "(if (i32.eq (local.get $n) (i32.const {}))
                (then (return (i32.const {area}))))",
            u32::from(*letter)
        )
    };
    let is = |letter: char| format!("(i32.eq (local.get $n) (i32.const {}))", u32::from(letter));
    let stop = format!(
        "(if {} (then (loop $ever (br $ever))))
         (if {} (then unreachable))",
        is('l'),
        is('t')
    );
    let push_arms: String = pushes.iter().map(arm).collect();
    let end_arms: String = ends.iter().map(arm).collect();
    let total = "(i32.add (local.get $held) (local.get $length))";
    let push = format!(
        "(if (i32.lt_u (local.get $seq) (i32.const 26)) (then
            (i32.store8 (i32.const {key}) (i32.add (local.get $seq) (i32.const 97)))
            (call $note (i32.const {key}) (i32.const 1) (local.get $text) (local.get $length))
            (i32.store8 (i32.add (i32.const {held_value}) (local.get $seq))
                (i32.add (i32.const 97) (select (local.get $held) (i32.const 25)
                    (i32.lt_u (local.get $held) (i32.const 25)))))
            (call $note (i32.const {held_key}) (i32.const 4)
                (i32.const {held_value}) (i32.add (local.get $seq) (i32.const 1)))))
        (local.set $n (i32.const 112))
        (if (i32.lt_u (i32.add (local.get $seq) (i32.const 1)) (global.get $script-length))
            (then (local.set $n
                (i32.load8_u (i32.add (global.get $script) (local.get $seq))))))
        {stop} {push_arms}
        (i32.store (i32.const {release_n}) (i32.add {total} (i32.const 1)))
        (if {x} (then (return (i32.const {release}))))
        (i32.store (i32.const {release_n}) (i32.shr_u {total} (i32.const 1)))
        (i32.const {release})",
        release_n = release + 8,
        x = is('x'),
    );
    let close = format!(
        "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
        (i32.store8 (i32.const {end_value}) (i32.add (global.get $calls) (i32.const 48)))
        (i32.store8 (i32.const {end_value_2}) (i32.add (local.get $finish) (i32.const 48)))
        (call $note (i32.const {end_key}) (i32.const 3) (i32.const {end_value}) (i32.const 3))
        (local.set $n (i32.load8_u (i32.sub
            (i32.add (global.get $script) (global.get $script-length)) (i32.const 1))))
        {stop} {end_arms}
        unreachable",
        end_value_2 = end_value + 2,
    );
    let open = format!(
        "(global.set $script (local.get $job))
        (global.set $script-length (local.get $job-length))
        (i32.const {plan})"
    );
    guest
        .import("call", "note", "(param i32 i32 i32 i32)")
        .with("(global $script (mut i32) (i32.const 0)) (global $script-length (mut i32) (i32.const 0))")
        .stream_filter(&open, &push, &close)
}
