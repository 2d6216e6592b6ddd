//! The secrets of hooks: where they are, and taking them from there.
//!
//! A secret never stands in a configuration file itself, and never in a problem's
//! text. Relative paths are relative to the worker's folder, as those of all other
//! settings.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Entry, Reader};

const SECRET_PLACES: &str = "must say where the secret is: \"env:VARIABLE\" or \"file:PATH\"";

impl Reader<'_> {
    pub(super) fn secrets(
        &mut self,
        members: &BTreeMap<&str, Entry<'_>>,
    ) -> BTreeMap<String, String> {
        let mut secrets = BTreeMap::new();
        for (name, entry) in members {
            let key = format!("secrets.{name}");
            match entry.value.as_str().map(|place| self.secret(place)) {
                Some(Ok(secret)) => {
                    secrets.insert((*name).to_owned(), secret);
                }
                Some(Err(reason)) => self.problem(*entry, &key, reason),
                None => self.problem(*entry, &key, SECRET_PLACES.into()),
            }
        }
        secrets
    }

    fn secret(&self, place: &str) -> Result<String, String> {
        if let Some(variable) = place.strip_prefix("env:") {
            let value = self
                .source
                .variable(variable)
                .filter(|value| !value.is_empty())
                .ok_or_else(|| format!("the variable {variable} is not set"))?;
            return value
                .into_string()
                .map_err(|_| format!("the variable {variable} is not valid UTF-8"));
        }
        let path = place.strip_prefix("file:").ok_or(SECRET_PLACES)?;
        let text = self
            .source
            .read(Path::new(path))
            .map_err(|error| format!("{path} cannot be read: {error}"))?;
        // Editors end files with a newline that belongs to no secret.
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}
