//! The example plugins, one in each language, with the work that they really do:
//! the Rust and the JavaScript one change the request, the Python one searches it.
//!
//! * `instantiate`: a store and an instance, and nothing else. It is measured on
//!   an engine with the host's pool, because the host has no door for half a job.
//! * `first-ready`: a job with an instance that was made and configured ahead.
//! * `first-inline`: a job that makes and configures its instance.
//! * `warm`: a further call of the same job.

use std::env;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use criterion::Criterion;
use llamero_hooks::{JobContext, PluginSettings};
use serde_json::{Value, json};
use wasmtime::component::{Component, InstancePre, Linker};
use wasmtime::{
    Config, Enabled, Engine, PoolingAllocationConfig, Store, StoreLimits, StoreLimitsBuilder,
};
use wit_component::ComponentEncoder;

use crate::calls::Group;
use crate::{READY, call, host, jobs, ready, request, runtime};

/// Calls of one job that are measured as warm ones.
const WARM: u64 = 16;

pub fn benches(c: &mut Criterion) {
    let text = json!({"text": "You are a clerk.", "separator": "\n"});
    let template = json!({"template": "Question: {{input}}\nAnswer:"});
    let topics = json!({"topics": {"finance": ["stock market", "invest*"]}});
    // Time for the pool to make half of its instances again, generously: there is
    // no harm in waiting longer.
    let ms = Duration::from_millis;
    plugin(c, "plugin-rust", "system-prompt", text, ms(5));
    plugin(c, "plugin-javascript", "prompt-template", template, ms(50));
    plugin(c, "plugin-python", "topic-guard", topics, ms(50));
}

fn plugin(c: &mut Criterion, group: &str, name: &str, config: Value, refill: Duration) {
    let file = dist().join(format!("{name}.wasm"));
    if !file.is_file() {
        eprintln!(
            "\n*** {group} is SKIPPED: {} is missing. Run `make plugins`, or point \
             LLAMERO_PLUGINS_DIST at the built plugins. ***\n",
            file.display()
        );
        return;
    }
    let bytes = std::fs::read(&file).unwrap();
    let mut group = Group::new(c, group);

    let runtime = runtime();
    let instances = Instances::new(&bytes);
    group.calls("instantiate", |n, calls| {
        runtime.block_on(async {
            for _ in 0..n {
                let began = Instant::now();
                let store = instances.make().await;
                calls.add(began.elapsed());
                // Giving the memory back is not the request's time.
                drop(store);
            }
        });
    });
    drop(instances);

    let host = host();
    let chain = |instances: usize| {
        let settings = PluginSettings { config: config.clone(), ..ready(instances) };
        host.load_bytes(&[(name, bytes.as_slice(), settings)]).unwrap()
    };
    jobs(&mut group, "first-ready", &chain(READY), Some(refill));
    let inline = chain(0);
    jobs(&mut group, "first-inline", &inline, None);
    let request = request();
    group.calls("warm", |n, calls| {
        runtime.block_on(async {
            let mut job = None;
            for done in 0..n {
                if done % WARM == 0 {
                    let mut fresh = inline.begin(JobContext::default());
                    call(&mut fresh, request.clone()).await;
                    job = Some(fresh);
                }
                let request = request.clone();
                let began = Instant::now();
                call(job.as_mut().unwrap(), request).await;
                calls.add(began.elapsed());
            }
        });
    });
}

/// The folder of the built plugins.
fn dist() -> PathBuf {
    env::var_os("LLAMERO_PLUGINS_DIST").filter(|value| !value.is_empty()).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/dist"),
        PathBuf::from,
    )
}

/// A component on an engine as the host has it, whose imports all trap: nothing is
/// called but what instantiating calls.
struct Instances {
    pre: InstancePre<StoreLimits>,
}

impl Instances {
    fn new(bytes: &[u8]) -> Self {
        let mut pool = PoolingAllocationConfig::new();
        // As in the host's `engine.rs`.
        pool.total_component_instances(4)
            .total_stacks(4)
            .total_core_instances(200)
            .total_memories(20)
            .total_tables(60)
            .max_component_instance_size(16 << 20)
            .max_core_instance_size(16 << 20)
            .max_core_instances_per_component(200)
            .max_memories_per_component(20)
            .max_tables_per_component(60)
            .table_elements(200_000)
            .max_memory_size(512 << 20)
            .max_unused_warm_slots(8)
            .pagemap_scan(Enabled::Auto)
            .linear_memory_keep_resident(2 << 20)
            .table_keep_resident(512 << 10);
        let mut config = Config::new();
        config
            .wasm_component_model(true)
            .epoch_interruption(true)
            .concurrency_support(false)
            .wasm_threads(false)
            .allocation_strategy(pool);
        let engine = Engine::new(&config).unwrap();
        // Rust's toolchain leaves a core module, the others a component.
        let encoded;
        let bytes = if wasmparser::Parser::is_component(bytes) {
            bytes
        } else {
            encoded = ComponentEncoder::default().module(bytes).unwrap().encode().unwrap();
            &encoded
        };
        let component = Component::new(&engine, bytes).unwrap();
        let mut linker = Linker::new(&engine);
        linker.define_unknown_imports_as_traps(&component).unwrap();
        Self { pre: linker.instantiate_pre(&component).unwrap() }
    }

    async fn make(&self) -> Store<StoreLimits> {
        let limits = StoreLimitsBuilder::new().memory_size(256 << 20).build();
        let mut store = Store::new(self.pre.engine(), limits);
        store.limiter(|limits| limits);
        store.set_epoch_deadline(1);
        self.pre.instantiate_async(&mut store).await.unwrap();
        store
    }
}
