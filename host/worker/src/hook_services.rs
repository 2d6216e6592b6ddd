//! What hooks reach through the host: the vocabularies of loaded models, a store
//! for their state, and a place for their metrics.
//!
//! Hooks are loaded before the worker connects, so a store on NATS is given to
//! them first and opened later.

use std::sync::Arc;

use llamero_hooks::{Limits, Services};

use crate::metrics::PluginMetrics;
use crate::models::ModelStore;
use crate::models::tokenizers::LoadedTokenizers;
use crate::nats::connection::Connection;
use crate::nats::state::{HookStateError, NatsState};
use crate::settings::{HookSettings, HookState};

/// The services of one worker.
pub struct HookServices {
    services: Services,
    /// The bucket that is to be opened once there is a connection.
    shared: Option<SharedState>,
}

struct SharedState {
    store: NatsState,
    bucket: String,
    value_bytes: usize,
}

impl HookServices {
    /// Services as the settings say.
    pub fn new(settings: &HookSettings, models: ModelStore) -> Self {
        let mut services = Services::new(Arc::new(LoadedTokenizers(models)));
        services.metrics = Arc::new(PluginMetrics::new(settings.metric_series));
        let shared = match &settings.state {
            HookState::Nats { bucket } if settings.dir.is_some() => {
                let store = NatsState::default();
                services.state = Arc::new(store.clone());
                let value_bytes = largest_value(settings);
                Some(SharedState { store, bucket: bucket.clone(), value_bytes })
            }
            // Without hooks there is nothing to keep, so no bucket is made.
            HookState::Nats { .. } | HookState::Memory => None,
        };
        Self { services, shared }
    }

    /// For the host.
    pub fn services(&self) -> Services {
        self.services.clone()
    }

    /// Opens what needs the connection.
    ///
    /// # Errors
    /// The state of hooks is to be kept in NATS, and that does not work.
    pub async fn connected(&self, connection: &Connection) -> Result<(), HookStateError> {
        match &self.shared {
            Some(SharedState { store, bucket, value_bytes }) => {
                store.open(connection, bucket, *value_bytes).await
            }
            None => Ok(()),
        }
    }
}

/// The most that any hook may write as one value.
fn largest_value(settings: &HookSettings) -> usize {
    let all = settings.limits.over(&Limits::default());
    let each = settings.plugins.values().map(|plugin| plugin.limits.over(&all).state_bytes);
    each.fold(all.state_bytes, usize::max)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use llamero_hooks::{LimitOverrides, PluginSettings};

    use super::*;
    use crate::settings::{Flags, MapSource, Settings};

    #[test]
    fn the_bucket_takes_what_any_hook_may_write() {
        let mut settings = Settings::load(&MapSource::default(), &Flags::default()).unwrap().hooks;
        assert_eq!(largest_value(&settings), Limits::default().state_bytes);
        for (id, bytes) in [("small", 10), ("large", 5 << 20)] {
            let limits = LimitOverrides { state_bytes: Some(bytes), ..LimitOverrides::default() };
            let plugin = PluginSettings { limits, ..PluginSettings::default() };
            settings.plugins.insert(id.to_owned(), plugin);
        }
        assert_eq!(largest_value(&settings), 5 << 20);
    }
}
