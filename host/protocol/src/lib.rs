//! The wire protocol of Llamero: what a client of a llm-go worker may send, what
//! the worker answers, and how both are written as JSON.
//!
//! Responsible for the message types, the decode rules (which follow Go's
//! `encoding/json` where serde's derive would not), the error codes with their
//! fixed texts, the option table with typed and range-checked resolution, and
//! the checks of names that arrive inside a payload (model files, stream
//! subjects).
//!
//! Not responsible for anything that happens: there is no I/O, no clock and no
//! async code here. Connections, queues and publishing belong to
//! `llamero-worker`, inference to `llamero-engine`, plugins to `llamero-hooks`;
//! the last two do not know this crate, the worker translates for them.
//!
//! Reading order: [`request`](WorkerRequest) and [`response`](WorkerResponse) for
//! the shapes, [`ErrorBody`] for failures, [`OPTIONS`] and [`resolve`] for
//! options, [`decode_request`] for the rules.
//!
//! ```
//! use llamero_protocol::{decode_request, encode_response, WorkerResponse};
//!
//! let request = decode_request(br#"{"JOB":"a","predict":{"input":"Hello"}}"#).unwrap();
//! assert_eq!(request.predict.unwrap().input, ["Hello"]);
//! assert_eq!(encode_response(&WorkerResponse::ack("a")), br#"{"job":"a"}"#);
//! ```

mod wire_enum;

mod request;
mod response;

mod error;
mod hook_failure;

mod options;

mod names;

mod decode;

pub use decode::{
    DecodeError, MAX_JOB_BYTES, MAX_NESTING, Rejected, decode_request, decode_response,
};
pub use error::{
    ErrorBody, ErrorCode, FIRST_PLUGIN_CODE, SERVICE_ERROR_CODE_HEADER, SERVICE_ERROR_HEADER,
};
pub use hook_failure::{HookFailure, HookFailureKind, HookPhase};
pub use names::{
    DEFAULT_STREAM_SUBJECTS, MAX_MODEL_NAME_BYTES, MAX_SUBJECT_BYTES, check_model_name,
    check_stream_subject, check_subject_pattern, is_listed_model_name, subject_matches,
};
pub use options::{
    DefaultValue, InitOptions, MAX_GRAMMAR_BYTES, MAX_LOGIT_BIASES, MAX_LORAS, MAX_SALT_BYTES,
    MAX_SCHEMA_BYTES, MAX_STOP_BYTES, MAX_STOPS, OPTIONS, OptionDefaults, OptionError, OptionGroup,
    OptionSpec, Options, ResolvedOptions, check_hook_options, grammar_set_by_hook, known_option,
    list_options, model_choice, resolve,
};
pub use request::{
    EmbedRequest, InterruptRequest, ListRequest, Message, PredictRequest, WorkerRequest,
    encode_request,
};
pub use response::{
    EmbedResponse, EmbedUsage, FinishReason, InterruptResponse, ListResponse, ModelInfo,
    ModelOption, PredictResponse, StreamResponse, Timings, Usage, WorkerResponse, encode_response,
};
