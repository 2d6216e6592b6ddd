//! The engine and its stores: configuration, pool sizes, and the one function
//! that makes a store.
//!
//! A store that misses one of its limits is a hole, so there is no second way to
//! make one. Running a guest in a store is `instance`; compiling is `compile`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use tracing::warn;
use wasmtime::{
    Cache, Config, Enabled, Engine, PoolingAllocationConfig, Store, StoreContextMut, UpdateDeadline,
};

use crate::config::MAX_MEMORY_BYTES;
use crate::error::{FailureKind, HostError};
use crate::guest::GuestState;
use crate::job::JobShared;
use crate::plugin::PluginShared;
use crate::ticker::TICK;

/// Core instances in one component. Python needs a few dozen.
pub(crate) const MAX_INSTANCES_PER_COMPONENT: u32 = 200;
/// Memories in one component.
pub(crate) const MAX_MEMORIES: u32 = 20;
/// Tables in one component.
pub(crate) const MAX_TABLES: u32 = 60;
/// Elements in one table.
pub(crate) const MAX_TABLE_ELEMENTS: usize = 200_000;

/// Bytes of a memory that stay with its slot for the next instance and are copied back
/// instead of being given back and faulted in again, which is most of a small plugin's
/// first call. Where the kernel can say which pages were written (Linux 6.7) it is the
/// first of those, elsewhere the beginning of the memory, written or not. It is also
/// what a plugin that fills its memory leaves behind in each slot. With 8 MiB an
/// instance in JavaScript that is made for its job answers a fifth sooner, but such a
/// plugin leaves 24 MiB behind.
const KEPT: usize = 2 << 20;
/// Slots that keep their memory while no instance is in them. Each plugin version has
/// slots of its own, so more would be held by versions that are long gone.
const WARM_SLOTS: u32 = 8;

/// Ticks between two yields of a guest to the other calls on its thread.
const TICKS_BETWEEN_YIELDS: u32 = 5;

/// Sizes of the instance pool; all of it is address space, taken at start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PoolSize {
    /// Component instances, and stacks.
    pub(crate) instances: u32,
}

impl PoolSize {
    fn config(self) -> PoolingAllocationConfig {
        let mut pool = PoolingAllocationConfig::new();
        // Measured components hold one memory; two each leaves room for those
        // that hold more, beside many that do not.
        let memories = self.instances.saturating_mul(2).max(MAX_MEMORIES);
        let tables = self.instances.saturating_mul(8).max(MAX_TABLES);
        let core = self.instances.saturating_mul(32).max(MAX_INSTANCES_PER_COMPONENT);
        pool.total_component_instances(self.instances)
            .total_stacks(self.instances)
            .total_core_instances(core)
            .total_memories(memories)
            .total_tables(tables)
            .max_component_instance_size(16 << 20)
            .max_core_instance_size(16 << 20)
            .max_core_instances_per_component(MAX_INSTANCES_PER_COMPONENT)
            .max_memories_per_component(MAX_MEMORIES)
            .max_tables_per_component(MAX_TABLES)
            .table_elements(MAX_TABLE_ELEMENTS)
            .max_memory_size(MAX_MEMORY_BYTES)
            .max_unused_warm_slots(WARM_SLOTS)
            .pagemap_scan(Enabled::Auto)
            .linear_memory_keep_resident(KEPT)
            .table_keep_resident(512 << 10);
        pool
    }
}

/// How instances get their memory.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Allocation {
    /// From a pool that is reserved at start.
    Pooled(PoolSize),
    /// From the system, one by one.
    OnDemand,
}

/// Whether an engine that has to compile may use every core for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cores {
    /// It may: nothing else is to be done.
    All,
    /// It may not: jobs are running.
    One,
}

/// The serving engine, pooled where the machine has the address space for it.
pub(crate) fn serving(
    instances: u32,
    cache: Option<&Cache>,
) -> Result<(Engine, Allocation), HostError> {
    let pooled = Allocation::Pooled(PoolSize { instances });
    // With a cache it compiles only what the cache cannot keep, which must not
    // take the cores from running jobs.
    let cores = if cache.is_some() { Cores::One } else { Cores::All };
    match build(pooled, cache, cores) {
        Ok(engine) => Ok((engine, pooled)),
        Err(error) => {
            warn!(
                error = format!("{error:#}"),
                "no address space for the instance pool, falling back to on-demand allocation"
            );
            build(Allocation::OnDemand, cache, cores)
                .map(|engine| (engine, Allocation::OnDemand))
                .map_err(|error| HostError::Engine(format!("{error:#}")))
        }
    }
}

/// An engine to compile in and throw away, equal to `serving` in everything that
/// compiled code depends on. A long-lived engine would keep the compiler's memory.
pub(crate) fn compiling(
    serving: &Engine,
    allocation: Allocation,
    cache: &Cache,
    cores: Cores,
) -> wasmtime::Result<Engine> {
    let allocation = match allocation {
        Allocation::Pooled(_) => Allocation::Pooled(PoolSize { instances: 1 }),
        Allocation::OnDemand => Allocation::OnDemand,
    };
    let engine = build(allocation, Some(cache), cores)?;
    if compatibility(&engine) != compatibility(serving) {
        wasmtime::bail!("the compiling engine differs from the serving one; this is a defect");
    }
    Ok(engine)
}

fn compatibility(engine: &Engine) -> u64 {
    let mut hasher = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.finish()
}

fn build(allocation: Allocation, cache: Option<&Cache>, cores: Cores) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .wasm_component_model(true)
        .epoch_interruption(true)
        // Components with the asynchronous ABI are refused at load, and the
        // bookkeeping for them costs more than a call does.
        .concurrency_support(false)
        // A shared memory would escape the limiter, and no plugin may have
        // threads.
        .wasm_threads(false)
        // No part of the code's compatibility, nor of the cache's key.
        .parallel_compilation(cores == Cores::All)
        .cache(cache.cloned());
    match allocation {
        Allocation::Pooled(size) => config.allocation_strategy(size.config()),
        Allocation::OnDemand => {
            config.allocation_strategy(wasmtime::InstanceAllocationStrategy::OnDemand)
        }
    };
    Engine::new(&config)
}

/// Makes a store with every limit set. There is no other place that does.
pub(crate) fn store(
    engine: &Engine,
    plugin: &Arc<PluginShared>,
    job: &Arc<JobShared>,
) -> wasmtime::Result<Store<GuestState>> {
    let state = GuestState::new(Arc::clone(plugin), Arc::clone(job));
    let mut store = Store::try_new(engine, state)?;
    store.limiter(|state| &mut state.limiter);
    store.set_hostcall_fuel(plugin.limits.host_call_bytes);
    store.set_max_component_handles(plugin.limits.handles);
    store.epoch_deadline_callback(on_tick);
    // Without a deadline a store traps at its first tick; every call sets its own.
    store.set_epoch_deadline(1);
    Ok(store)
}

/// Decides at each tick of a running guest whether it may go on.
fn on_tick(mut store: StoreContextMut<'_, GuestState>) -> wasmtime::Result<UpdateDeadline> {
    let call = &mut store.data_mut().call;
    let used = call.clock.at_tick();
    let over = if used.cpu > call.budget.cpu {
        Some(FailureKind::Cpu)
    } else if Instant::now() > call.budget.ends(used.starved) {
        Some(FailureKind::Wall)
    } else {
        None
    };
    if over.is_some() {
        // The cause is recorded and the trap is wasmtime's own: an error made
        // here would be filed as a failure of the host.
        call.cause = over;
        return Ok(UpdateDeadline::Interrupt);
    }
    call.ticks = call.ticks.wrapping_add(1);
    let yields = call.ticks.is_multiple_of(TICKS_BETWEEN_YIELDS);
    let state = store.data();
    // A tick says nothing by itself: the guest may have been entered just before, or
    // have had no processor since. Its CPU time up to its first tick is taken to be no
    // more than a tick, and known from then on.
    let computed = used.cpu > TICK;
    let used_up = computed && state.job.slice_end().is_some_and(|end| Instant::now() > end);
    if used_up {
        state.plugin.slow.mark();
    }
    if yields || used_up {
        state.call.clock.yields();
        // wasmtime's own `Yield` wakes itself at once, which can keep tokio from
        // running anything else.
        Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
    } else {
        Ok(UpdateDeadline::Continue(1))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::compile::open_cache;

    #[test]
    fn code_of_the_compiling_engine_fits_the_serving_one() {
        let dir = tempfile::tempdir().unwrap();
        let cache = open_cache(&dir.path().join("cache")).unwrap();
        let pooled = Allocation::Pooled(PoolSize { instances: 4 });
        for allocation in [pooled, Allocation::OnDemand] {
            for cores in [Cores::All, Cores::One] {
                let serving = build(allocation, Some(&cache), cores).unwrap();
                compiling(&serving, allocation, &cache, Cores::All).unwrap();
                compiling(&serving, allocation, &cache, Cores::One).unwrap();
            }
        }
    }

    #[test]
    fn code_of_another_configuration_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = open_cache(&dir.path().join("cache")).unwrap();
        let mut config = Config::new();
        config.epoch_interruption(false);
        let other = Engine::new(&config).unwrap();
        let error = compiling(&other, Allocation::OnDemand, &cache, Cores::All).unwrap_err();
        assert!(error.to_string().contains("differs"), "{error}");
    }
}
