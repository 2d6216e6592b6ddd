//! The one table of the worker's own settings.
//!
//! A row is all that a new setting needs to be read from every layer, listed and
//! explained; its typed value is then taken out in [`super::typed`].

use llamero_engine::KvType;

use super::spec::{Kind, Spec, SpecDefault};

const fn spec(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Spec {
    Spec { name, kind, default: SpecDefault::Json(default), help, flag: None, aliases: &[] }
}

const fn with_flag(mut spec: Spec, flag: &'static str) -> Spec {
    spec.flag = Some(flag);
    spec
}

const fn with_aliases(mut spec: Spec, aliases: &'static [&'static str]) -> Spec {
    spec.aliases = aliases;
    spec
}

const fn int(min: u64, max: u64) -> Kind {
    Kind::Int { min, max }
}

const U32_MAX: u64 = u32::MAX as u64;

/// The worker's own settings, in the order in which they are listed.
pub static SETTINGS: &[Spec] = &[
    // NATS.
    with_aliases(
        with_flag(
            spec(
                "nats_url",
                Kind::Text,
                "\"nats://127.0.0.1:4222\"",
                "NATS servers, separated by commas; may carry user:password@.",
            ),
            "nats",
        ),
        &["NATS_URL"],
    ),
    with_flag(
        spec(
            "nats_worker_subject",
            Kind::Text,
            "\"llm.worker.default\"",
            "Subject on which requests arrive.",
        ),
        "subject",
    ),
    spec(
        "nats_client_name",
        Kind::Text,
        "\"llm-worker\"",
        "Name of the connection, as NATS monitoring shows it; empty for none.",
    ),
    with_aliases(
        spec(
            "nats_nk",
            Kind::Path,
            "\"\"",
            "File with the nkey seed to authenticate with; read again at each connect.",
        ),
        &["NATS_NKEY"],
    ),
    with_aliases(
        spec(
            "nats_creds",
            Kind::Path,
            "\"\"",
            "Credentials file (JWT and seed); read again at each connect.",
        ),
        &["NATS_CREDS"],
    ),
    with_aliases(
        spec("nats_token", Kind::Secret, "\"\"", "Token to authenticate with."),
        &["NATS_TOKEN"],
    ),
    with_aliases(
        spec("nats_user", Kind::Text, "\"\"", "User to authenticate as; needs nats_password."),
        &["NATS_USER"],
    ),
    with_aliases(
        spec("nats_password", Kind::Secret, "\"\"", "Password of nats_user."),
        &["NATS_PASSWORD"],
    ),
    with_aliases(
        spec(
            "nats_ca",
            Kind::Path,
            "\"\"",
            "PEM file with the certificates of the CA that signed the server's.",
        ),
        &["NATS_CA"],
    ),
    with_aliases(
        spec(
            "nats_cert",
            Kind::Path,
            "\"\"",
            "PEM file with the client certificate; needs nats_key.",
        ),
        &["NATS_CERT"],
    ),
    with_aliases(
        spec("nats_key", Kind::Path, "\"\"", "PEM file with the key of nats_cert."),
        &["NATS_KEY"],
    ),
    spec("nats_tls", Kind::Bool, "false", "Refuse to talk to a server without TLS."),
    spec(
        "nats_tls_first",
        Kind::Bool,
        "false",
        "Start TLS before the server's greeting; the server must be configured so.",
    ),
    spec("nats_inbox_prefix", Kind::Text, "\"_INBOX\"", "Prefix of the connection's own inboxes."),
    // Models.
    spec("type", Kind::Text, "\"llama\"", "Driver of the models; only llama."),
    with_flag(
        spec("dir", Kind::Path, "\".\"", "Folder of the model files (*.gguf, *.bin)."),
        "models",
    ),
    spec(
        "max_ctx_size",
        int(0, U32_MAX),
        "0",
        "Largest ctx_size that a request may ask for; 0: the larger of ctx_size and what the model was trained with.",
    ),
    spec(
        "max_loaded_models",
        int(1, 64),
        "1",
        "Models kept loaded; the one used longest ago goes first.",
    ),
    spec(
        "keep_alive",
        Kind::Duration,
        "300",
        "Seconds for which a model stays loaded after its last job, or a text such as \"90s\" or \"1h\"; 0: until another one takes its place.",
    ),
    spec(
        "models_ram_mib",
        int(0, U32_MAX),
        "0",
        "Memory that all loaded models may take together, in MiB, with KV caches and buffers; models make room for others. 0: no limit.",
    ),
    spec(
        "preload",
        Kind::Bool,
        "false",
        "Load the default model at start instead of at the first request.",
    ),
    spec(
        "follow_links",
        Kind::Bool,
        "true",
        "Follow symbolic links that lead out of the models folder.",
    ),
    spec("threads", int(0, 1024), "0", "Compute threads of a model; 0: one for each core."),
    spec(
        "gpu_layers",
        int(0, U32_MAX),
        "0",
        "Layers to compute on a GPU, where the build supports one.",
    ),
    spec("n_batch", int(32, 65536), "512", "Most tokens computed in one step."),
    spec(
        "kv_cells",
        int(0, U32_MAX),
        "0",
        "Tokens that the KV cache of a model has room for, over all jobs; 0: ctx_size for each slot.",
    ),
    spec(
        "kv_reserve",
        int(1, U32_MAX),
        "64",
        "Tokens that must be free beyond its prompt for a job to begin.",
    ),
    spec(
        "kv_type_k",
        Kind::Choice(KvType::NAMES),
        "\"f16\"",
        "Type of the keys in the KV cache; q8_0 takes about half of f16's memory, q4_0 a good quarter, for less accuracy.",
    ),
    spec(
        "kv_type_v",
        Kind::Choice(KvType::NAMES),
        "\"f16\"",
        "Type of the values in the KV cache; quantised ones need a model that works with flash attention.",
    ),
    spec(
        "stall_target_ms",
        int(1, 60_000),
        "200",
        "Milliseconds for which the prompts of new jobs may hold up running ones at a time.",
    ),
    spec(
        "fair_preempt_ms",
        int(0, 3_600_000),
        "500",
        "Milliseconds after which a client without a running job gets a slot of the one that has most; 0: never.",
    ),
    spec(
        "prefix_cache",
        Kind::Bool,
        "true",
        "Compute equal beginnings of prompts once, where the model allows it.",
    ),
    spec("cache_leaves", int(0, 255), "16", "Prompts kept for later after their jobs have ended."),
    spec(
        "cache_cells",
        int(0, U32_MAX),
        "0",
        "Tokens that kept prompts may hold in the KV cache; 0: a quarter of it.",
    ),
    spec(
        "cache_pin_cells",
        int(0, U32_MAX),
        "2048",
        "Tokens that pinned prompts may hold in the KV cache.",
    ),
    spec(
        "cache_block",
        int(1, 1024),
        "16",
        "Tokens in a block; prompts are shared by whole blocks.",
    ),
    spec(
        "speculate_tokens",
        int(0, 16),
        "0",
        "Most tokens computed ahead of a job in a step, on the guess that its text repeats itself, while one or two jobs generate; 0: none.",
    ),
    spec(
        "embed_max_tokens",
        int(1, 65536),
        "512",
        "Most tokens of one text of an embed request; longer ones are refused. Each takes 8 bytes for each token of the vocabulary while vectors are computed.",
    ),
    spec(
        "embed_threads",
        int(0, 512),
        "1",
        "Threads that compute vectors, beside those that generate; 0: as many as those.",
    ),
    spec(
        "embed_idle",
        Kind::Duration,
        "60",
        "Seconds for which the memory to compute vectors is kept after the last embed request, or a text such as \"5m\".",
    ),
    spec(
        "max_adapters",
        int(0, 1024),
        "8",
        "LoRA adapters kept loaded for each model; 0: requests cannot use any.",
    ),
    spec(
        "huge_pages",
        Kind::Bool,
        "true",
        "Put KV cache and weights into huge pages where the kernel gives them; models that take up to half of the available memory are read for it, not mapped.",
    ),
    spec(
        "use_mmap",
        Kind::Bool,
        "true",
        "Map model files into memory instead of reading them, unless they go into huge pages.",
    ),
    spec("use_mlock", Kind::Bool, "false", "Lock model memory, so that it is never paged out."),
    // Jobs.
    spec("slots", int(1, 256), "4", "Jobs served at once."),
    spec(
        "queue",
        int(0, 65536),
        "4",
        "Jobs that may wait; beyond that clients are told that the worker is busy.",
    ),
    spec(
        "interrupt_peers_ms",
        int(0, 600_000),
        "300",
        "Milliseconds for which other workers of the subject are asked about an interrupt of a job that is not here; 0: they are not, nor are they answered.",
    ),
    spec("allow_grammar", Kind::Bool, "false", "Let clients send a GBNF grammar."),
    spec(
        "constraint_max_bytes",
        int(1, 16 << 20),
        "65536",
        "Bytes that a grammar or a JSON schema may have.",
    ),
    spec("constraint_max_rules", int(1, 1_000_000), "2000", "Rules that a grammar may have."),
    // Requests themselves are no deeper.
    spec(
        "constraint_max_depth",
        int(1, 128),
        "64",
        "How deep the groups of a grammar and the values of a JSON schema may be.",
    ),
    spec(
        "constraint_max_repetition",
        int(1, 1_000_000),
        "1000",
        "Largest count in a repetition of a grammar, such as {0,1000}.",
    ),
    spec(
        "constraint_max_symbols",
        int(1, 100_000_000),
        "100000",
        "Symbols that an expanded grammar may have, and parts that a JSON schema may have, written out.",
    ),
    spec(
        "constraint_max_multiple",
        int(1, 1_000_000_000),
        "1000000",
        "Largest least common multiple of all multipleOf of a JSON schema, in units of the finest of them.",
    ),
    spec(
        "constraint_max_step_items",
        int(1, 100_000_000),
        "50000",
        "Parser items that a constraint may need for one token; 50000 take about 2.5 ms.",
    ),
    spec(
        "embed",
        Kind::Choice(&["auto", "on", "off"]),
        "\"auto\"",
        "Serve embed requests, which hooks do not see; auto: only without hooks_dir.",
    ),
    spec("embed_max_inputs", int(1, 4096), "64", "Most texts in one embed request."),
    spec(
        "shutdown_grace",
        Kind::Duration,
        "25",
        "Seconds for which running jobs may go on after the first signal to stop, or a text such as \"500ms\" or \"2m\".",
    ),
    // Answers.
    spec(
        "response_extras",
        Kind::Bool,
        "true",
        "Send finish_reason, usage, timings and the options beyond the 13 common ones.",
    ),
    spec(
        "ack_delay_ms",
        int(0, 10_000),
        "10",
        "Milliseconds between the acknowledgement and the first message of a stream.",
    ),
    spec(
        "flush_interval_ms",
        int(0, 10_000),
        "25",
        "Milliseconds for which generated text is joined before it is sent.",
    ),
    spec(
        "flush_bytes",
        int(1, 1 << 20),
        "1024",
        "Bytes of generated text that are sent without waiting for the interval.",
    ),
    spec(
        "stream_subjects",
        Kind::Texts,
        "[\"_INBOX.>\"]",
        "Subjects that requests may stream to; * and > as in subscriptions.",
    ),
    // Hooks.
    with_flag(
        spec(
            "hooks_dir",
            Kind::Path,
            "\"\"",
            "Folder of the hooks: its *.wasm files, in name order; empty for none.",
        ),
        "hooks",
    ),
    spec(
        "hooks_cache_dir",
        Kind::Path,
        "\"\"",
        "Folder for compiled hooks and their last good versions; empty: llamero/hooks in the user's cache folder.",
    ),
    spec(
        "hook_wall_ms",
        int(1, 600_000),
        "250",
        "Milliseconds that one hook call may take, with making its instance and waiting in it; waiting for an instance may take as long again.",
    ),
    spec(
        "hook_cpu_ms",
        int(1, 600_000),
        "50",
        "Milliseconds of CPU time that one hook call may take; time in which the machine did other things is not counted.",
    ),
    spec(
        "hook_push_wall_ms",
        int(1, 600_000),
        "20",
        "Milliseconds that a stream filter may take for one piece of text; the stream waits for it.",
    ),
    spec(
        "hook_push_cpu_ms",
        int(1, 600_000),
        "5",
        "Milliseconds of CPU time that a stream filter may take for one piece of text.",
    ),
    spec(
        "hook_observer_wall_ms",
        int(1, 600_000),
        "100",
        "Milliseconds that an observer may take after the answer; no client waits for it.",
    ),
    spec(
        "hook_observer_cpu_ms",
        int(1, 600_000),
        "20",
        "Milliseconds of CPU time that an observer may take after the answer.",
    ),
    spec(
        "hook_hold_bytes",
        int(1, 1 << 30),
        "4096",
        "Bytes of text that a stream filter may hold back; holding more ends the stream with an error.",
    ),
    spec(
        "hook_hold_ms",
        int(1, 600_000),
        "30000",
        "Milliseconds for which a stream filter may hold text back; longer ends the stream with an error.",
    ),
    spec(
        "hook_state_bytes",
        int(0, 1 << 30),
        "1048576",
        "Bytes of keys and values that one hook may keep in state; beyond that it is told that its quota is exceeded.",
    ),
    spec(
        "hook_state_keys",
        int(0, 10_000_000),
        "10000",
        "Keys that one hook may keep in state; beyond that it is told that its quota is exceeded.",
    ),
    spec(
        "hook_calls",
        int(1, 1024),
        "16",
        "Calls of one hook at once; hook_concurrency bounds those of all hooks together.",
    ),
    spec(
        "hook_ready",
        int(0, 4096),
        "4",
        "Instances of one hook that are made ahead, so that no request waits for that; each takes its memory while it waits. As many as slots, so that all may begin at once.",
    ),
    spec(
        "hook_memory_mib",
        int(1, 512),
        "64",
        "Memory of one hook instance, in MiB, all its memories and tables together; hooks in Python need 128 or more.",
    ),
    spec(
        "hook_output_bytes",
        int(1, 1 << 30),
        "4194304",
        "Bytes of text that one hook call may return.",
    ),
    spec(
        "hook_host_call_bytes",
        int(1, 1 << 30),
        "8388608",
        "Bytes that a hook may pass in one call of the host, such as a log line or a text to tokenize.",
    ),
    spec(
        "hook_handles",
        int(1, 1_000_000),
        "1000",
        "Component handles that one hook instance may hold.",
    ),
    spec(
        "hook_reason_bytes",
        int(1, 1 << 20),
        "4096",
        "Bytes of the reason that a hook may give for a rejection; it becomes the client's error text.",
    ),
    spec(
        "hook_tokenizer_bytes",
        int(1, 1 << 30),
        "1048576",
        "Bytes of text that a hook may pass in one call of the tokenizer; for more it is told that it is too large.",
    ),
    spec(
        "hook_log_bytes_per_s",
        int(0, 1 << 30),
        "65536",
        "Bytes that one hook may log in a second; more is dropped and counted.",
    ),
    spec(
        "hook_notes",
        int(0, 10_000),
        "32",
        "Notes that one hook may leave on one job; more are dropped with a warning.",
    ),
    spec("hook_concurrency", int(1, 1024), "16", "Hook calls at once, over all jobs and hooks."),
    spec(
        "hook_instances",
        int(1, 4096),
        "128",
        "Hook instances that jobs may have at once; a job needs one for each hook.",
    ),
    spec(
        "hook_max_ready",
        int(0, 4096),
        "64",
        "Hook instances that may be kept ready over all hooks, beside hook_instances.",
    ),
    spec("hook_threads", int(1, 64), "2", "Threads that run hooks; they run nothing else."),
    spec(
        "hook_max_component_bytes",
        int(1, 1 << 32),
        "67108864",
        "Largest hook file that is loaded, in bytes.",
    ),
    spec("hook_max_plugins", int(1, 1024), "32", "Most hooks in the folder."),
    spec(
        "hook_trial_wall",
        Kind::Duration,
        "10",
        "Seconds that each step of a hook's trial at load may take, or a text such as \"500ms\"; hook_cpu_ms holds in a trial as well.",
    ),
    spec(
        "hook_state",
        Kind::Choice(&["memory", "nats"]),
        "\"memory\"",
        "Where hooks keep their state: in this worker, or in a bucket that a fleet of workers shares.",
    ),
    spec(
        "hook_state_bucket",
        Kind::Text,
        "\"llamero-hooks\"",
        "Key-value bucket of the hooks' state in NATS; made if there is none.",
    ),
    spec(
        "hook_metric_series",
        int(0, 1_000_000),
        "1000",
        "Series of metrics that all hooks together may have; more are dropped and counted.",
    ),
    spec(
        "hook_breaker",
        Kind::Bool,
        "true",
        "Set a hook that fails 5 times in a row aside for a while; its calls then fail at once.",
    ),
    spec(
        "hook_reload",
        Kind::Bool,
        "true",
        "Watch the folder of the hooks and put changed ones into service while jobs run.",
    ),
    spec(
        "hook_control",
        Kind::Bool,
        "true",
        "Take commands about hooks over NATS, on SUBJECT._ctl and SUBJECT._w.ID.",
    ),
    spec("hook_headers", Kind::Texts, "[]", "Names of the request headers that hooks may see."),
    spec(
        "log_hook_text",
        Kind::Bool,
        "false",
        "Log the texts that hooks change, before and after; for trying hooks out, never where prompts are private.",
    ),
    // Logs.
    spec(
        "log",
        Kind::Text,
        "\"info,async_nats=off,llama.cpp=warn\"",
        "Filter of log lines, in the syntax of RUST_LOG; what happens to the connection is logged without async_nats.",
    ),
    spec("log_format", Kind::Choice(&["text", "json"]), "\"text\"", "Form of log lines."),
];
