//! Checks of options that hooks have changed.
//!
//! A hook answers for what it set, not for what the client sent: a client's own
//! wrong option is the client's error (code 7 or 10), so both checks compare the
//! options before and after the hooks. Running hooks is `llamero-hooks`'.

use super::table::known_option;
use super::{OptionError, Options};

/// Checks the options that differ from the client's: a hook may set known
/// options only, with right types and within their ranges, each alone. What
/// options mean together is checked by [`resolve`](super::resolve).
pub fn check_hook_options(client: &Options, patched: &Options) -> Result<(), OptionError> {
    for (name, value) in patched.iter() {
        let from_client = client.get(name) == Some(value);
        if from_client {
            continue;
        }
        known_option(name).ok_or_else(|| OptionError::unknown(name))?.check(value)?;
    }
    Ok(())
}

/// True when the grammar, if there is one, was set by a hook and not by the
/// client. Hooks may always set it:
/// `resolve(&patched, defaults, allow_grammar || grammar_set_by_hook(&client, &patched))`.
pub fn grammar_set_by_hook(client: &Options, patched: &Options) -> bool {
    patched.get("grammar").is_some_and(|grammar| client.get("grammar") != Some(grammar))
}
