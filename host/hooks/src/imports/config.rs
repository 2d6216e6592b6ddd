//! The import `config`: a plugin's own configuration and secrets, as the operator
//! gave them.

use crate::bindings::v0_1::config;
use crate::guest::GuestState;

impl config::Host for GuestState {
    fn document(&mut self) -> wasmtime::Result<String> {
        Ok(self.plugin.config_text.clone())
    }

    fn get(&mut self, pointer: String) -> wasmtime::Result<Option<String>> {
        Ok(self.plugin.config.pointer(&pointer).map(ToString::to_string))
    }

    fn secret(&mut self, name: String) -> wasmtime::Result<Result<String, config::SecretError>> {
        Ok(self.plugin.secrets.get(&name).cloned().ok_or(config::SecretError::NotGranted))
    }
}
