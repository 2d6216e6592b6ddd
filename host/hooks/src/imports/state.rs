//! The import `state`: small values that outlive an instance.
//!
//! A plugin's id is its name space, so that it neither sees nor fills another's.
//! Sizes are bounded here; how much a plugin may keep in all is decided by the
//! store (`services`). A store on the network may take its time: the deadline of
//! the call bounds it, and a call that is stopped meanwhile may have written.

use std::time::Duration;

use crate::bindings::v0_1::state;
use crate::guest::GuestState;
use crate::plugin::PluginShared;
use crate::services::{StateError, StateQuota};
use crate::state::check_state_key;

type Answer<T> = wasmtime::Result<Result<T, state::Error>>;

fn answer<T>(result: Result<T, StateError>) -> Answer<T> {
    Ok(result.map_err(|error| match error {
        StateError::QuotaExceeded => state::Error::QuotaExceeded,
        StateError::Unavailable(text) => state::Error::Unavailable(text),
        StateError::Other(text) => state::Error::Other(text),
    }))
}

fn quota(plugin: &PluginShared) -> StateQuota {
    StateQuota { bytes: plugin.limits.state_bytes, keys: plugin.limits.state_keys }
}

/// A value that could not be kept even if it were the only one need not be
/// carried to the store.
fn check_value(plugin: &PluginShared, key: &str, value: &[u8]) -> Result<(), StateError> {
    if key.len() + value.len() > plugin.limits.state_bytes {
        return Err(StateError::QuotaExceeded);
    }
    Ok(())
}

async fn get(plugin: &PluginShared, key: &str) -> Result<Option<Vec<u8>>, StateError> {
    check_state_key(key)?;
    let value = plugin.services.state.get(&plugin.id, key).await?;
    // Another worker may allow more than this one.
    if let Some(value) = &value
        && check_value(plugin, key, value).is_err()
    {
        return Err(StateError::Other(format!(
            "the value has {} bytes, more than the limit `state_bytes` of {}",
            value.len(),
            plugin.limits.state_bytes
        )));
    }
    Ok(value)
}

async fn set(
    plugin: &PluginShared,
    key: &str,
    value: Vec<u8>,
    ttl_ms: Option<u64>,
) -> Result<(), StateError> {
    check_state_key(key)?;
    check_value(plugin, key, &value)?;
    let ttl = ttl_ms.map(Duration::from_millis);
    plugin.services.state.set(&plugin.id, key, value, ttl, quota(plugin)).await
}

async fn delete(plugin: &PluginShared, key: &str) -> Result<(), StateError> {
    check_state_key(key)?;
    plugin.services.state.delete(&plugin.id, key).await
}

async fn increment(
    plugin: &PluginShared,
    key: &str,
    delta: i64,
    ttl_ms: Option<u64>,
) -> Result<i64, StateError> {
    check_state_key(key)?;
    let ttl = ttl_ms.map(Duration::from_millis);
    plugin.services.state.increment(&plugin.id, key, delta, ttl, quota(plugin)).await
}

async fn compare_and_set(
    plugin: &PluginShared,
    key: &str,
    expected: Option<Vec<u8>>,
    value: Vec<u8>,
) -> Result<bool, StateError> {
    check_state_key(key)?;
    check_value(plugin, key, &value)?;
    let state = &plugin.services.state;
    state.compare_and_set(&plugin.id, key, expected, value, quota(plugin)).await
}

impl state::Host for GuestState {
    async fn get(&mut self, key: String) -> Answer<Option<Vec<u8>>> {
        answer(get(&self.plugin, &key).await)
    }

    async fn set(&mut self, key: String, value: Vec<u8>, ttl_ms: Option<u64>) -> Answer<()> {
        answer(set(&self.plugin, &key, value, ttl_ms).await)
    }

    async fn delete(&mut self, key: String) -> Answer<()> {
        answer(delete(&self.plugin, &key).await)
    }

    async fn increment(&mut self, key: String, delta: i64, ttl_ms: Option<u64>) -> Answer<i64> {
        answer(increment(&self.plugin, &key, delta, ttl_ms).await)
    }

    async fn compare_and_set(
        &mut self,
        key: String,
        expected: Option<Vec<u8>>,
        value: Vec<u8>,
    ) -> Answer<bool> {
        answer(compare_and_set(&self.plugin, &key, expected, value).await)
    }
}
