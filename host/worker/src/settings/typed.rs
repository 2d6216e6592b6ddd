//! From checked JSON values to [`Settings`], and the rules that concern several
//! settings.

use std::path::PathBuf;
use std::time::Duration;

use llamero_engine::{ConstraintLimits, EmbeddingConfig, KvType};
use llamero_hooks::PluginSettings;
use llamero_protocol::{OptionDefaults, check_subject_pattern};
use secrecy::SecretString;
use serde_json::Value;

use super::layers::{self, Layered, Layers, is_secret};
use super::nats::{self, NatsAuth, NatsSettings, Urls};
use super::source::{Flags, Origin, Problem, Problems, Source};
use super::spec::{self, Kind};
use super::{
    AnswerSettings, Effective, EmbedPolicy, EmbedRules, HookSettings, HookState, JobSettings,
    KvSettings, LogFormat, LogSettings, ModelSettings, PluginTables, Settings, plugins,
};

const REDACTED: &str = "[redacted]";

pub fn load(source: &dyn Source, flags: &Flags) -> Result<Settings, Problems> {
    let specs = spec::all();
    let layers = layers::read(&specs, source, flags);
    let mut reader = Reader { problems: Vec::new(), layers: &layers };

    reader.driver();
    let nats = reader.nats();
    let options = reader.options();
    let stream_subjects = reader.stream_subjects();
    let origin = layers.file.clone().map_or(Origin::Default, Origin::File);
    let tables = PluginTables::new(layers.plugins.clone(), &origin, &mut reader.problems);
    let alone = tables.settings(source, &mut reader.problems);
    let hook_state = reader.hook_state();
    let hooks = reader.hooks(source, tables, alone, hook_state);
    let settings = Settings {
        nats,
        models: reader.models(),
        jobs: JobSettings {
            slots: reader.u32("slots"),
            queue: reader.usize("queue"),
            interrupt_peers: Duration::from_millis(reader.u64("interrupt_peers_ms")),
            allow_grammar: reader.bool("allow_grammar"),
            embed: reader.embed(),
            shutdown_grace: reader.duration("shutdown_grace"),
        },
        answers: AnswerSettings {
            extras: reader.bool("response_extras"),
            ack_delay: Duration::from_millis(reader.u64("ack_delay_ms")),
            flush_interval: Duration::from_millis(reader.u64("flush_interval_ms")),
            flush_bytes: reader.usize("flush_bytes"),
            stream_subjects,
        },
        hooks,
        options,
        log: LogSettings {
            filter: reader.text("log"),
            format: match reader.text("log_format").as_str() {
                "json" => LogFormat::Json,
                _ => LogFormat::Text,
            },
        },
        effective: specs.iter().map(|spec| effective(&layers.settings[spec.name])).collect(),
    };

    let late = std::mem::take(&mut reader.problems);
    let mut problems = layers.problems;
    problems.extend(late);
    if problems.is_empty() { Ok(settings) } else { Err(Problems(problems)) }
}

/// Values by name. Every name that is asked for stands in the table and every
/// value has been checked, so the fallbacks below are never used; a test reads
/// all of them.
struct Reader<'a> {
    layers: &'a Layers,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn get(&self, name: &str) -> Option<&Layered> {
        let found = self.layers.settings.get(name);
        debug_assert!(found.is_some(), "{name} is not in the table");
        found
    }

    fn text(&self, name: &str) -> String {
        let value = self.get(name).and_then(|layered| layered.value.as_str());
        value.unwrap_or_default().to_owned()
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.text(name)).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    fn bool(&self, name: &str) -> bool {
        let value = self.get(name).and_then(|layered| layered.value.as_bool());
        value.unwrap_or_default()
    }

    fn u64(&self, name: &str) -> u64 {
        let value = self.get(name).and_then(|layered| layered.value.as_u64());
        value.unwrap_or_default()
    }

    fn u32(&self, name: &str) -> u32 {
        u32::try_from(self.u64(name)).unwrap_or(u32::MAX)
    }

    fn usize(&self, name: &str) -> usize {
        usize::try_from(self.u64(name)).unwrap_or(usize::MAX)
    }

    fn duration(&self, name: &str) -> Duration {
        let value = self.get(name).and_then(|layered| layered.value.as_f64());
        Duration::from_secs_f64(value.unwrap_or_default())
    }

    fn kv_type(&self, name: &str) -> KvType {
        KvType::from_name(&self.text(name)).unwrap_or_default()
    }

    fn texts(&self, name: &str) -> Vec<String> {
        let items = self.get(name).and_then(|layered| layered.value.as_array());
        let texts = items.into_iter().flatten().filter_map(Value::as_str);
        texts.map(str::to_owned).collect()
    }

    fn origin(&self, name: &str) -> Origin {
        self.get(name).map_or(Origin::Default, |layered| layered.origin.clone())
    }

    fn is_set(&self, name: &str) -> bool {
        self.get(name).is_some_and(|layered| layered.value != layered.spec.default.to_value())
    }

    fn problem(&mut self, key: &str, reason: impl Into<String>) {
        self.problems.push(Problem {
            key: key.into(),
            origin: self.origin(key),
            reason: reason.into(),
        });
    }

    fn driver(&mut self) {
        if self.text("type") != "llama" {
            // The text is that of the Go program.
            self.problem("type", "llm_type not found: the only driver is llama");
        }
    }

    fn nats(&mut self) -> NatsSettings {
        let urls = nats::parse_urls(&self.text("nats_url")).unwrap_or_else(|reason| {
            self.problem("nats_url", reason);
            Urls { servers: Vec::new(), auth: None }
        });
        let subject = self.text("nats_worker_subject");
        if let Err(reason) = check_plain_subject(&subject) {
            self.problem("nats_worker_subject", reason);
        }
        let inbox_prefix = self.text("nats_inbox_prefix");
        if let Err(reason) = check_plain_subject(&inbox_prefix) {
            self.problem("nats_inbox_prefix", reason);
        }
        let client_cert = match (self.path("nats_cert"), self.path("nats_key")) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => {
                self.problem("nats_cert", "needs nats_key as well");
                None
            }
            (None, Some(_)) => {
                self.problem("nats_key", "needs nats_cert as well");
                None
            }
        };
        NatsSettings {
            servers: urls.servers,
            subject,
            client_name: self.text("nats_client_name"),
            auth: self.nats_auth(urls.auth),
            ca: self.path("nats_ca"),
            client_cert,
            require_tls: self.bool("nats_tls"),
            tls_first: self.bool("nats_tls_first"),
            inbox_prefix,
        }
    }

    /// The one way of authenticating that is configured.
    fn nats_auth(&mut self, from_url: Option<NatsAuth>) -> NatsAuth {
        let mut ways: Vec<(&str, NatsAuth)> = Vec::new();
        if let Some(auth) = from_url {
            ways.push(("nats_url", auth));
        }
        if let Some(path) = self.path("nats_nk") {
            ways.push(("nats_nk", NatsAuth::NkeyFile(path)));
        }
        if let Some(path) = self.path("nats_creds") {
            ways.push(("nats_creds", NatsAuth::CredentialsFile(path)));
        }
        if self.is_set("nats_token") {
            let token = SecretString::from(self.text("nats_token"));
            ways.push(("nats_token", NatsAuth::Token(token)));
        }
        match (self.is_set("nats_user"), self.is_set("nats_password")) {
            (true, true) => {
                let password = SecretString::from(self.text("nats_password"));
                let auth = NatsAuth::UserPassword(self.text("nats_user"), password);
                ways.push(("nats_user", auth));
            }
            (true, false) => self.problem("nats_user", "needs nats_password as well"),
            (false, true) => self.problem("nats_password", "needs nats_user as well"),
            (false, false) => {}
        }
        if ways.len() > 1 {
            let names: Vec<&str> = ways.iter().map(|(name, _)| *name).collect();
            let reason = format!(
                "only one way of authenticating can be used, but there are {}",
                names.join(", ")
            );
            self.problem(names[1], reason);
        }
        ways.into_iter().next().map_or(NatsAuth::None, |(_, auth)| auth)
    }

    fn options(&mut self) -> OptionDefaults {
        let configured: Vec<(&str, Value)> = self
            .layers
            .settings
            .values()
            .filter(|layered| matches!(layered.spec.kind, Kind::RequestOption(_)))
            .filter(|layered| layered.origin != Origin::Default)
            .map(|layered| (layered.spec.name, layered.value.clone()))
            .collect();
        OptionDefaults::new(configured).unwrap_or_else(|errors| {
            for error in errors {
                self.problem(&error.name, error.reason);
            }
            OptionDefaults::default()
        })
    }

    fn stream_subjects(&mut self) -> Vec<String> {
        let subjects = self.texts("stream_subjects");
        for subject in &subjects {
            if let Err(reason) = check_subject_pattern(subject) {
                self.problem("stream_subjects", format!("{subject:?} {reason}"));
            }
        }
        subjects
    }

    fn models(&self) -> ModelSettings {
        ModelSettings {
            dir: self.path("dir").unwrap_or_else(|| PathBuf::from(".")),
            follow_links: self.bool("follow_links"),
            max_ctx_size: self.u32("max_ctx_size"),
            max_loaded: self.usize("max_loaded_models"),
            keep_alive: Some(self.duration("keep_alive")).filter(|time| !time.is_zero()),
            // At most 2^32 MiB.
            ram: Some(self.u64("models_ram_mib") << 20).filter(|bytes| *bytes > 0),
            preload: self.bool("preload"),
            threads: self.u32("threads"),
            gpu_layers: self.u32("gpu_layers"),
            n_batch: self.u32("n_batch"),
            kv: KvSettings {
                cells: self.u32("kv_cells"),
                reserve: self.u32("kv_reserve"),
                type_k: self.kv_type("kv_type_k"),
                type_v: self.kv_type("kv_type_v"),
                stall_target_ms: self.u32("stall_target_ms"),
                fair_preempt_ms: self.u32("fair_preempt_ms"),
                prefix_cache: self.bool("prefix_cache"),
                cache_leaves: self.u32("cache_leaves"),
                cache_cells: self.u32("cache_cells"),
                cache_pin_cells: self.u32("cache_pin_cells"),
                cache_block: self.u32("cache_block"),
            },
            speculate_tokens: self.u32("speculate_tokens"),
            embedding: EmbeddingConfig {
                max_tokens: self.u32("embed_max_tokens"),
                threads: self.u32("embed_threads"),
                idle: self.duration("embed_idle"),
            },
            constraints: ConstraintLimits {
                max_bytes: self.usize("constraint_max_bytes"),
                max_rules: self.usize("constraint_max_rules"),
                max_depth: self.usize("constraint_max_depth"),
                max_repetition: self.usize("constraint_max_repetition"),
                max_symbols: self.usize("constraint_max_symbols"),
                max_multiple: self.usize("constraint_max_multiple"),
                max_step_items: self.usize("constraint_max_step_items"),
            },
            max_adapters: self.usize("max_adapters"),
            huge_pages: self.bool("huge_pages"),
            use_mmap: self.bool("use_mmap"),
            use_mlock: self.bool("use_mlock"),
        }
    }

    fn embed(&self) -> EmbedRules {
        let policy = match self.text("embed").as_str() {
            "on" => EmbedPolicy::Served,
            "off" => EmbedPolicy::Off,
            // A folder that holds no hook now may hold one with the next request.
            _ if self.path("hooks_dir").is_some() => EmbedPolicy::UnseenByHooks,
            _ => EmbedPolicy::Served,
        };
        EmbedRules { policy, max_inputs: self.usize("embed_max_inputs") }
    }

    fn hook_state(&mut self) -> HookState {
        let bucket = self.text("hook_state_bucket");
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if bucket.is_empty() || !bucket.chars().all(is_name) {
            self.problem(
                "hook_state_bucket",
                format!("{bucket:?} is no name of a bucket: it may have a-z, A-Z, 0-9, - and _"),
            );
        }
        match self.text("hook_state").as_str() {
            "nats" => HookState::Nats { bucket },
            _ => HookState::Memory,
        }
    }

    fn hooks(
        &self,
        source: &dyn Source,
        plugin_tables: PluginTables,
        plugins: std::collections::BTreeMap<String, PluginSettings>,
        state: HookState,
    ) -> HookSettings {
        HookSettings {
            dir: self.path("hooks_dir"),
            cache_dir: self.path("hooks_cache_dir").or_else(|| user_cache(source)),
            limits: plugins::global_limits(|name| self.u64(name)),
            concurrency: self.usize("hook_concurrency"),
            instances: self.u32("hook_instances"),
            max_ready: self.u32("hook_max_ready"),
            threads: self.usize("hook_threads"),
            max_component_bytes: self.u64("hook_max_component_bytes"),
            max_plugins: self.usize("hook_max_plugins"),
            trial_wall: self.duration("hook_trial_wall"),
            state,
            metric_series: self.usize("hook_metric_series"),
            headers: self.texts("hook_headers"),
            log_text: self.bool("log_hook_text"),
            breaker: self.bool("hook_breaker"),
            reload: self.bool("hook_reload"),
            control: self.bool("hook_control"),
            plugins,
            plugin_tables,
        }
    }
}

/// A subject to subscribe to or to build subjects from: no wildcards.
fn check_plain_subject(subject: &str) -> Result<(), String> {
    if subject.is_empty() {
        return Err("must not be empty".into());
    }
    if subject.contains(['*', '>']) {
        return Err("must not contain wildcards".into());
    }
    if subject.starts_with('$') {
        return Err("must not start with $".into());
    }
    check_subject_pattern(subject)
}

/// `llamero/hooks` in the user's cache folder, by the XDG rules.
fn user_cache(source: &dyn Source) -> Option<PathBuf> {
    let absolute =
        |name: &str| source.variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("llamero").join("hooks"))
}

fn effective(layered: &Layered) -> Effective {
    let Layered { spec, value, origin } = layered;
    let value = match value {
        Value::String(text) if is_secret(spec.kind) && !text.is_empty() => REDACTED.into(),
        Value::String(text) if spec.name == "nats_url" => nats::redact_urls(text).into(),
        value => value.clone(),
    };
    Effective {
        name: spec.name.into(),
        use_text: spec.help.into(),
        value,
        default: spec.default.to_value(),
        origin: origin.to_string(),
    }
}

#[cfg(test)]
mod tests;
