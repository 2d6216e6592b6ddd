//! Which window a request is counted in, and whether that is full.

use crate::config::{Config, Per};

/// What is known of a request.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// Who asks; `None` when the worker cannot tell.
    pub account: Option<&'a str>,
    /// The model that is asked for.
    pub model: &'a str,
    /// The NATS subject on which the request arrived.
    pub subject: &'a str,
}

/// Longest part of a key, in bytes. Names that are longer and begin alike share a
/// window, which can only make it fuller.
const MAX_PART: usize = 200;

/// The key of the counter. Each part says how long it is, so that no two callers
/// have the same key by a clever choice of names.
pub fn key(config: &Config, caller: Caller<'_>) -> String {
    let mut key = String::from("n");
    for per in &config.per {
        let (letter, value) = match per {
            Per::Account => ('a', caller.account),
            Per::Model => ('m', Some(caller.model)),
            Per::Subject => ('s', Some(caller.subject)),
        };
        key.push('|');
        key.push(letter);
        if let Some(value) = value {
            let value = &value[..value.floor_char_boundary(MAX_PART)];
            key.push_str(&value.len().to_string());
            key.push(':');
            key.push_str(value);
        }
    }
    key
}

/// What the client is told when its window is full; `None` while it is not.
/// `count` includes the request itself.
pub fn refusal(config: &Config, caller: Caller<'_>, count: i64) -> Option<String> {
    if count <= config.requests {
        return None;
    }
    let mut whose = String::new();
    for per in &config.per {
        whose.push_str(&match per {
            Per::Account => match caller.account {
                Some(account) => format!(", account {account}"),
                None => ", all unknown accounts together".to_owned(),
            },
            Per::Model => format!(", model {}", caller.model),
            Per::Subject => format!(", subject {}", caller.subject),
        });
    }
    let Config { requests, window_s, .. } = config;
    let plural = if *requests == 1 { "" } else { "s" };
    Some(format!(
        "quota used up: {requests} request{plural} in {window_s} s{whose}; try again later"
    ))
}

/// The last request of a window must be served and the next one refused.
///
/// # Errors
/// A text that says which of the two went wrong.
pub fn self_test(config: &Config) -> Result<(), String> {
    let caller = Caller { account: Some("self-test"), model: "m", subject: "s" };
    if refusal(config, caller, config.requests).is_some() {
        return Err("quota: self-test failed: a request within the quota was refused".to_owned());
    }
    if refusal(config, caller, config.requests + 1).is_none() {
        return Err("quota: self-test failed: a request beyond the quota was served".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test should panic")]
    use super::*;

    fn config(per: &str) -> Config {
        Config::parse(&format!(r#"{{"requests": 3, "per": {per}}}"#)).unwrap()
    }

    const CALLER: Caller<'_> = Caller { account: Some("acme"), model: "m.gguf", subject: "llm" };

    #[test]
    fn keys_tell_callers_apart() {
        let all = config(r#"["account", "model", "subject"]"#);
        assert_eq!(key(&all, CALLER), "n|a4:acme|m6:m.gguf|s3:llm");
        assert_eq!(key(&config("[]"), CALLER), "n");
        let keys = [
            CALLER,
            Caller { account: None, ..CALLER },
            Caller { account: Some(""), ..CALLER },
            Caller { account: Some("acme|m6:m.gguf"), model: "", ..CALLER },
            Caller { model: "n.gguf", ..CALLER },
            Caller { subject: "llm2", ..CALLER },
        ]
        .map(|caller| key(&all, caller));
        for (index, one) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(one), "{one}");
        }
    }

    #[test]
    fn keys_are_not_longer_than_any_store_takes() {
        let name = "é".repeat(10_000);
        let caller = Caller { account: Some(&name), model: &name, subject: &name };
        assert!(key(&config(r#"["account", "model", "subject"]"#), caller).len() < 700);
    }

    #[test]
    fn refused_is_what_goes_beyond_with_a_reason() {
        let config = config(r#"["account", "model"]"#);
        for count in [1, 2, 3] {
            assert_eq!(refusal(&config, CALLER, count), None);
        }
        assert_eq!(
            refusal(&config, CALLER, 4).unwrap(),
            "quota used up: 3 requests in 60 s, account acme, model m.gguf; try again later"
        );
        let nobody = Caller { account: None, ..CALLER };
        assert!(refusal(&config, nobody, i64::MAX).unwrap().contains("unknown accounts"));
    }

    #[test]
    fn self_test_holds() {
        self_test(&config("[]")).unwrap();
    }
}
