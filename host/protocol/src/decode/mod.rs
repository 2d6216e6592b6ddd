//! From bytes to messages, by the rules of Go's `encoding/json` where they
//! differ from serde's, for the reasons the wire protocol gives:
//!
//! ```text
//! bytes -> repair (UTF-8, surrogates, nesting) -> node (any JSON, every member
//!       -> kept in order) -> request / response (known fields picked by name)
//! ```
//!
//! One rule covers names, duplicates and `null`: of all members whose name
//! matches a field in any ASCII case the last one counts, and `null` counts as
//! no member. Unknown members are never looked at.
//!
//! Not a derive, because derived visitors refuse duplicates, mind the case, and
//! stop at the first wrong type, when the job to answer may stand behind it.
//! Checks that need configuration (stream subject, options) come later, in
//! `names` and `options`. Writing is beside the types, in `request` and
//! `response`.

mod fields;
mod node;
mod repair;
mod request;
mod response;

pub use repair::MAX_NESTING;
pub use request::{MAX_JOB_BYTES, Rejected, decode_request};
pub use response::{DecodeError, decode_response};

use fields::Fields;
use node::Node;

/// Reads a payload as one JSON object; `null` is an object without members. The
/// error says what is wrong and quotes nothing.
fn read_object(payload: &[u8]) -> Result<Fields, String> {
    if payload.is_empty() {
        return Err("the payload is empty".to_owned());
    }
    let text = repair::repair(payload)?;
    match Node::parse(&text)? {
        Node::Object(members) => Ok(Fields::new("", members)),
        Node::Null => Ok(Fields::new("", Vec::new())),
        other => Err(format!("it is {}, not an object", other.type_name())),
    }
}
