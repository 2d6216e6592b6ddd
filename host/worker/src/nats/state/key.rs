//! Names: how a plugin's key is called in the bucket.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Where the worker tries out what it may do. No plugin's id begins so.
pub const PROBE: &str = "_probe";

/// The part of a key that is the plugin. An id has no `=`, but may have dots,
/// which would make the keys of `a` contain those of `a.b`.
pub fn plugin_token(plugin: &str) -> String {
    plugin.replace('.', "=")
}

/// A key as it stands in the bucket.
pub fn token(plugin: &str, key: &str) -> String {
    format!("{}.{}", plugin_token(plugin), URL_SAFE_NO_PAD.encode(key))
}

/// Bytes of the plugin's key in a key of the bucket.
pub fn token_bytes(token: &str) -> usize {
    let encoded = token.split_once('.').map_or("", |(_, encoded)| encoded);
    encoded.len() * 3 / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_plugin_are_never_those_of_another() {
        assert_eq!(token("a.b", "k"), "a=b.aw");
        assert_eq!(token("a", "b.k"), "a.Yi5r");
        // Whatever a key contains, nothing of it has a meaning for NATS.
        for key in ["*", ">", "a b", "\u{0}", "ä.*.>", "$KV", "..", "="] {
            let token = token("a", key);
            let (plugin, encoded) = token.split_once('.').unwrap_or_default();
            assert_eq!(plugin, "a");
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
            assert!(!encoded.is_empty() && encoded.chars().all(plain), "{token}");
        }
    }

    #[test]
    fn the_size_of_a_key_is_known_from_its_name_in_the_bucket() {
        for length in 0..100 {
            assert_eq!(token_bytes(&token("a.b", &"k".repeat(length))), length);
        }
    }
}
