//! From bytes and settings to a plugin that has proved itself: inspected,
//! compiled, linked, and tried on an instance of its own.
//!
//! Everything here blocks, for seconds where a large component is compiled.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Semaphore;
use tracing::warn;
use wasmtime::component::{Component, InstancePre};

use crate::artifact;
use crate::bindings::experimental::token_guard;
use crate::bindings::v0_1::{
    lifecycle, observer, prompt_hook, request_hook, response_hook, stream_filter,
};
use crate::breaker::Breaker;
use crate::chain::PluginInfo;
use crate::classify::{CallError, Stage};
use crate::config::{MAX_MEMORY_BYTES, PluginSettings};
use crate::data::JobContext;
use crate::engine::{MAX_MEMORIES, MAX_TABLE_ELEMENTS, MAX_TABLES};
use crate::error::{FailureKind, LoadCause};
use crate::golden;
use crate::guest::GuestState;
use crate::host::Shared;
use crate::imports::LogBudget;
use crate::inspect::{Found, inspect};
use crate::instance::{Budget, JobInstance, begin, guard, settle};
use crate::job::JobShared;
use crate::plugin::{Exports, Plugin, PluginShared};
use crate::policy::Policy;
use crate::ready::ReadyPool;
use crate::schema;
use crate::services::Services;
use crate::slice::Slow;
use crate::stats::Stats;

/// Most bytes of the texts that a plugin gives about itself.
const INFO_BYTES: usize = 256 << 10;

/// Bytes of a page of linear memory.
const PAGE_BYTES: u64 = 64 << 10;

/// Loads one plugin.
pub(crate) fn load(
    host: &Arc<Shared>,
    id: &str,
    bytes: Vec<u8>,
    settings: &PluginSettings,
) -> Result<Plugin, LoadCause> {
    check_id(id)?;
    if let Some(reason) = &settings.unusable {
        return Err(LoadCause::Settings(reason.clone()));
    }
    artifact::check_size(bytes.len() as u64, host.config.max_component_bytes)?;
    let digest = artifact::digest(&bytes);
    let size_bytes = bytes.len() as u64;
    check_digest(&settings.policy, &digest)?;
    let shared = settle_settings(host, id, settings, host.services.clone())?;
    // The trial must leave no trace: not a counter of a tenant's quota, not a metric.
    let at_trial = Services::new(Arc::clone(&host.services.tokenizer));
    let at_trial = settle_settings(host, id, settings, at_trial)?;

    let features = host.engine.get_wasm_features();
    let component = artifact::component(bytes, features)?;
    let found = inspect(&component)?;
    check_grants(&found, &shared.policy)?;
    if !found.reads_config && !matches!(&shared.config, Value::Object(map) if map.is_empty()) {
        warn!(plugin = id, "a configuration is given, and the plugin does not read it");
    }
    let compiled = host.compiler.compile(id, &component)?;
    check_resources(&compiled.component)?;
    let pre = host.linker.instantiate_pre(&compiled.component).map_err(|error| {
        LoadCause::UnknownImport {
            import: "(see the reason)".to_owned(),
            reason: format!("{error:#}"),
        }
    })?;
    let exports = exports(&found, &pre)?;
    check_phases(&exports, &shared.policy)?;
    // Otherwise the first job would pay for it.
    compiled
        .component
        .initialize_copy_on_write_image()
        .map_err(|error| LoadCause::Compile(format!("{error:#}")))?;

    let info = PluginInfo {
        id: id.to_owned(),
        name: String::new(),
        version: String::new(),
        description: String::new(),
        config_schema: None,
        digest,
        phases: exports.phases().into_iter().filter(|p| shared.policy.includes(*p)).collect(),
        size_bytes,
        compile: compiled.took,
        cached: compiled.cached,
        memory_bytes: 0,
    };
    let calls = at_trial.limits.calls.min(Semaphore::MAX_PERMITS);
    let plugin = Plugin {
        info,
        shared: Arc::new(at_trial),
        pre,
        exports,
        ready: ReadyPool::default(),
        calls: Arc::new(Semaphore::new(calls)),
    };
    let plugin = try_out(host, plugin)?;
    Ok(Plugin { shared: Arc::new(shared), ..plugin })
}

fn check_id(id: &str) -> Result<(), LoadCause> {
    let fits = (1..=64).contains(&id.len())
        && id.starts_with(|c: char| c.is_ascii_alphanumeric())
        && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if fits { Ok(()) } else { Err(LoadCause::BadName(id.chars().take(80).collect())) }
}

fn check_digest(policy: &Policy, found: &str) -> Result<(), LoadCause> {
    match &policy.sha256 {
        Some(wanted) if !wanted.eq_ignore_ascii_case(found) => {
            Err(LoadCause::DigestMismatch { wanted: wanted.clone(), found: found.to_owned() })
        }
        _ => Ok(()),
    }
}

/// Refuses an interface that must be granted and is not.
fn check_grants(found: &Found, policy: &Policy) -> Result<(), LoadCause> {
    let denied = found.needs.iter().find(|(grant, _)| !policy.grants.contains(grant));
    let Some((grant, interface)) = denied else {
        return Ok(());
    };
    let names: Vec<&str> = policy.grants.iter().chain([grant]).map(|g| g.as_str()).collect();
    let grant_line = format!("grant = {names:?}");
    Err(LoadCause::NotGranted { interface: interface.clone(), grant_line })
}

/// Refuses phases that would never come, and a plugin that would never be called.
fn check_phases(exports: &Exports, policy: &Policy) -> Result<(), LoadCause> {
    let has = || exports.phases().iter().map(|p| p.as_str()).collect::<Vec<_>>().join(", ");
    let Some(phases) = &policy.phases else {
        return Ok(());
    };
    if phases.is_empty() {
        return Err(LoadCause::Settings(format!(
            "`phases` is empty, so it would never be called; it exports {}; for a plugin that is \
             not called there is `mode = \"off\"`",
            has()
        )));
    }
    match phases.iter().find(|phase| !exports.has(**phase)) {
        None => Ok(()),
        Some(phase) => Err(LoadCause::Settings(format!(
            "`phases` names `{phase}`, which the plugin does not export; it exports {}",
            has()
        ))),
    }
}

fn settle_settings(
    host: &Shared,
    id: &str,
    settings: &PluginSettings,
    services: Services,
) -> Result<PluginShared, LoadCause> {
    let config = match &settings.config {
        Value::Null => Value::Object(serde_json::Map::new()),
        object @ Value::Object(_) => object.clone(),
        other => {
            return Err(LoadCause::Settings(format!(
                "the configuration must be a table or object, not `{other}`"
            )));
        }
    };
    let limits = settings.limits.over(&host.config.limits);
    if let Some(problem) = limits.problem() {
        return Err(LoadCause::Settings(problem));
    }
    Ok(PluginShared {
        id: id.to_owned(),
        config_text: config.to_string(),
        config,
        secrets: settings.secrets.clone(),
        log: LogBudget::new(limits.log_bytes_per_s),
        services,
        policy: settings.policy.clone(),
        stats: Stats::new(),
        breaker: if host.config.breaker { Breaker::new() } else { Breaker::off() },
        slow: Slow::default(),
        limits,
    })
}

/// Compares what the component needs with what an instance can have.
fn check_resources(component: &Component) -> Result<(), LoadCause> {
    let Some(needed) = component.resources_required() else {
        return Err(LoadCause::Invalid(
            "it imports core modules, which nothing here can give it".to_owned(),
        ));
    };
    let first_memory =
        needed.max_initial_memory_size.map_or(0, |pages| pages.saturating_mul(PAGE_BYTES));
    for (what, needed, limit) in [
        ("memories", u64::from(needed.num_memories), u64::from(MAX_MEMORIES)),
        ("tables", u64::from(needed.num_tables), u64::from(MAX_TABLES)),
        (
            "elements in one table",
            needed.max_initial_table_size.unwrap_or(0),
            MAX_TABLE_ELEMENTS as u64,
        ),
        ("bytes in one memory", first_memory, MAX_MEMORY_BYTES as u64),
    ] {
        if needed > limit {
            return Err(LoadCause::PoolLimit { what, needed, limit });
        }
    }
    Ok(())
}

/// Looks up the functions of every interface that is exported. Here only names
/// count; types are checked on the trial instance.
fn exports(found: &Found, pre: &InstancePre<GuestState>) -> Result<Exports, LoadCause> {
    fn look_up<T>(
        export: Option<&String>,
        new: impl FnOnce() -> wasmtime::Result<T>,
    ) -> Result<Option<T>, LoadCause> {
        let Some(export) = export else {
            return Ok(None);
        };
        new().map(Some).map_err(|error| LoadCause::BrokenExport {
            export: export.clone(),
            reason: format!("{error:#}"),
        })
    }
    Ok(Exports {
        lifecycle: look_up(found.lifecycle.as_ref(), || lifecycle::GuestIndices::new(pre))?,
        request: look_up(found.request.as_ref(), || request_hook::GuestIndices::new(pre))?,
        prompt: look_up(found.prompt.as_ref(), || prompt_hook::GuestIndices::new(pre))?,
        guard: look_up(found.guard.as_ref(), || token_guard::GuestIndices::new(pre))?,
        stream: look_up(found.stream.as_ref(), || stream_filter::GuestIndices::new(pre))?,
        response: look_up(found.response.as_ref(), || response_hook::GuestIndices::new(pre))?,
        observer: look_up(found.observer.as_ref(), || observer::GuestIndices::new(pre))?,
    })
}

/// Runs the trial on the hooks' runtime and waits for it. A channel, because
/// blocking on a runtime's handle panics inside another runtime.
fn try_out(host: &Arc<Shared>, plugin: Plugin) -> Result<Plugin, LoadCause> {
    let (result, ended) = mpsc::sync_channel(1);
    let of_task = Arc::clone(host);
    host.runtime.handle().spawn(async move {
        let tried = trial(&of_task, plugin).await;
        // Nobody listens any more only if the loading thread is gone.
        let _ = result.send(tried);
    });
    ended.recv().unwrap_or_else(|_| {
        Err(LoadCause::Trial {
            step: "instantiate",
            kind: FailureKind::Host,
            detail: "the trial panicked".to_owned(),
        })
    })
}

async fn trial(host: &Shared, mut plugin: Plugin) -> Result<Plugin, LoadCause> {
    let failed = |step: &'static str| {
        move |error: CallError| LoadCause::Trial { step, kind: error.kind, detail: error.detail }
    };
    let job = JobShared::new(JobContext::default());
    let (wall, cpu) = (host.config.trial_wall, plugin.shared.limits.cpu);
    let budget = || Budget::trial(wall, cpu);

    let first = budget();
    let mut instance =
        JobInstance::make(host, &plugin, &job, None, first).await.map_err(failed("instantiate"))?;
    instance.load(&plugin).map_err(|broken| LoadCause::BrokenExport {
        export: format!("llamero:hooks/{}", broken.interface),
        reason: broken.reason,
    })?;
    if let Some(guest) = instance.lifecycle.clone() {
        let clock = Arc::clone(&instance.store.data().call.clock);
        let step = budget();
        enter(&mut instance, step);
        let call = guest.call_describe(&mut instance.store);
        let ended = guard(host, &job, &clock, step, call).await;
        let described = settle(&instance.store, Stage::Call, ended).map_err(failed("describe"))?;
        add_description(&mut plugin.info, described)?;
        if let Some(schema) = plugin.info.config_schema.clone() {
            schema::check(schema, plugin.shared.config.clone()).await?;
        }

        let step = budget();
        enter(&mut instance, step);
        let configured = instance.configure(host, &job, step).await.map_err(failed("configure"))?;
        configured.map_err(|text| LoadCause::Config(instance.with_stderr(printable(&text))))?;

        let step = budget();
        enter(&mut instance, step);
        let call = guest.call_self_test(&mut instance.store);
        let ended = guard(host, &job, &clock, step, call).await;
        settle(&instance.store, Stage::Call, ended)
            .map_err(failed("self-test"))?
            .map_err(|text| LoadCause::SelfTest(instance.with_stderr(printable(&text))))?;
    }
    plugin.info.memory_bytes = instance.store.data().limiter.used();
    // Each case has its own instance, and the pool one for a trial.
    drop(instance);
    for case in &plugin.shared.policy.golden {
        golden::run::run(host, &plugin, case).await?;
    }
    Ok(plugin)
}

fn enter(instance: &mut JobInstance, budget: Budget) {
    begin(&mut instance.store, None, budget);
    instance.store.set_epoch_deadline(1);
}

fn add_description(info: &mut PluginInfo, given: lifecycle::PluginInfo) -> Result<(), LoadCause> {
    let invalid = |detail: String| LoadCause::Trial {
        step: "describe",
        kind: FailureKind::InvalidOutput,
        detail,
    };
    let schema = given.config_schema.unwrap_or_default();
    let bytes = given.name.len() + given.version.len() + given.description.len() + schema.len();
    if bytes > INFO_BYTES {
        return Err(invalid(format!(
            "it says {bytes} bytes about itself, the limit is {INFO_BYTES}"
        )));
    }
    if !schema.is_empty() {
        serde_json::from_str::<Value>(&schema)
            .map_err(|error| invalid(format!("its config-schema is not JSON: {error}")))?;
        info.config_schema = Some(schema);
    }
    info.name = printable(&given.name);
    info.version = printable(&given.version);
    info.description = printable(&given.description);
    Ok(())
}

/// A plugin's own words, fit for a terminal.
fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n').collect()
}

/// Longest sensible value of [`crate::HostConfig::trial_wall`].
pub(crate) const MAX_TRIAL_WALL: Duration = Duration::from_secs(600);
