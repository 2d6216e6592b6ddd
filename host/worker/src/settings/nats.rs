//! Where to connect and as whom: the typed form of the `nats_*` settings.
//!
//! Secrets are held in types that do not print them. Connecting is
//! [`crate::connection`]'s.

use std::path::PathBuf;

use async_nats::ServerAddr;
use secrecy::SecretString;

/// Everything needed to connect to NATS.
#[derive(Debug, Clone)]
pub struct NatsSettings {
    /// Servers, without the credentials that the URLs may have carried.
    pub servers: Vec<ServerAddr>,
    /// The worker subject.
    pub subject: String,
    /// Name of the connection; empty for none.
    pub client_name: String,
    /// How to authenticate.
    pub auth: NatsAuth,
    /// File with CA certificates.
    pub ca: Option<PathBuf>,
    /// Client certificate and its key.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// Whether a server without TLS is refused.
    pub require_tls: bool,
    /// Whether TLS begins before the server's greeting.
    pub tls_first: bool,
    /// Prefix of the connection's own inboxes.
    pub inbox_prefix: String,
}

/// How to authenticate. Files are read again at each connect.
#[derive(Debug, Clone)]
pub enum NatsAuth {
    /// Not at all, or by the client certificate alone.
    None,
    /// With a token.
    Token(SecretString),
    /// As a user with a password.
    UserPassword(String, SecretString),
    /// With the nkey seed in this file.
    NkeyFile(PathBuf),
    /// With the credentials file, which holds a JWT and a seed.
    CredentialsFile(PathBuf),
}

/// What the URLs of `nats_url` say.
#[derive(Debug)]
pub struct Urls {
    /// The servers, without credentials.
    pub servers: Vec<ServerAddr>,
    /// The credentials, if a URL carries any.
    pub auth: Option<NatsAuth>,
}

/// Reads a comma-separated list of server URLs.
///
/// Credentials are taken out of the URLs, for two reasons: async-nats does not
/// use them, and it logs addresses.
pub fn parse_urls(text: &str) -> Result<Urls, String> {
    let mut servers = Vec::new();
    let mut found: Option<(String, Option<String>)> = None;
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        // The text of the error is the parser's and does not quote the URL.
        let address: ServerAddr = part.parse().map_err(|error| format!("{error}"))?;
        if address.is_websocket() {
            return Err("websocket URLs are not supported, use nats:// or tls://".into());
        }
        if address.host().is_empty() {
            return Err("a server URL has no host".into());
        }
        if let Some(user) = address.username() {
            let credentials = (decode(user)?, address.password().map(decode).transpose()?);
            if found.as_ref().is_some_and(|known| *known != credentials) {
                return Err("all server URLs must carry the same user and password".into());
            }
            found = Some(credentials);
        }
        let mut url = address.into_inner();
        // These fail only for URLs without a host, which were refused above.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        servers.push(ServerAddr::from_url(url).map_err(|error| error.to_string())?);
    }
    if servers.is_empty() {
        return Err("must name at least one server, such as nats://127.0.0.1:4222".into());
    }
    let auth = found.map(|(user, password)| match password {
        Some(password) => NatsAuth::UserPassword(user, password.into()),
        // As in all NATS clients: a lone word before the @ is a token.
        None => NatsAuth::Token(user.into()),
    });
    Ok(Urls { servers, auth })
}

/// The list with everything before an `@` replaced, for printing.
pub fn redact_urls(text: &str) -> String {
    let redact = |part: &str| {
        let (scheme, rest) = part.split_once("://").map_or(("", part), |(s, r)| (s, r));
        let separator = if part.contains("://") { "://" } else { "" };
        match rest.rsplit_once('@') {
            Some((_, host)) => format!("{scheme}{separator}[redacted]@{host}"),
            None => part.to_owned(),
        }
    };
    text.split(',').map(redact).collect::<Vec<_>>().join(",")
}

/// Undoes percent-encoding: passwords in URLs need it for `@`, `:` and `/`.
fn decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let hex = tail
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok())
            .ok_or("the credentials in a server URL are not percent-encoded rightly")?;
        bytes.push(hex);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| "the credentials in a server URL are not UTF-8".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use secrecy::ExposeSecret;

    use super::*;

    fn hosts(urls: &Urls) -> Vec<String> {
        urls.servers.iter().map(|server| format!("{}:{}", server.host(), server.port())).collect()
    }

    #[test]
    fn lists_and_schemes() {
        let urls = parse_urls("nats://a:1, b ,tls://c:3").unwrap();
        assert_eq!(hosts(&urls), ["a:1", "b:4222", "c:3"]);
        assert!(urls.auth.is_none());
        for wrong in ["", " , ", "http://a", "ws://a", "nats://"] {
            assert!(parse_urls(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn credentials_are_taken_out_of_the_urls() {
        let urls = parse_urls("nats://me:p%40ss@a:1,me:p%40ss@b").unwrap();
        let Some(NatsAuth::UserPassword(user, password)) = &urls.auth else {
            panic!("no user and password");
        };
        assert_eq!((user.as_str(), password.expose_secret()), ("me", "p@ss"));
        let printed = format!("{urls:?}");
        assert!(!printed.contains("p@ss") && !printed.contains("p%40ss"), "{printed}");

        let urls = parse_urls("nats://s3cr3t@a").unwrap();
        assert!(
            matches!(&urls.auth, Some(NatsAuth::Token(token)) if token.expose_secret() == "s3cr3t")
        );
        assert!(parse_urls("nats://a:b@x,nats://a:c@y").is_err());
        assert!(parse_urls("nats://a:%zz@x").is_err());
    }

    #[test]
    fn printed_lists_carry_no_credentials() {
        assert_eq!(
            redact_urls("nats://u:p@a:1,tls://b:2,t@c"),
            "nats://[redacted]@a:1,tls://b:2,[redacted]@c"
        );
    }
}
