//! Answers the server's question who is connecting.
//!
//! Files with secrets are read at each connect, so that a rotated credential is
//! used without a restart. If a file cannot be read just then, what was read
//! last is used: a file that is being replaced must not end the connection.

use std::path::Path;
use std::sync::Mutex;

use async_nats::{Auth, AuthError};
use nkeys::KeyPair;
use secrecy::{ExposeSecret, SecretString};

use crate::settings::NatsAuth;

/// One way of authenticating, with the last good contents of its file.
pub struct Authenticator {
    auth: NatsAuth,
    last_good: Mutex<Option<SecretString>>,
}

impl Authenticator {
    /// Reads the file, if the way has one, so that a missing file or a broken
    /// seed is found before the first connect.
    pub fn new(auth: NatsAuth) -> Result<Self, String> {
        let authenticator = Self { auth, last_good: Mutex::new(None) };
        authenticator.answer(b"").map_err(|error| error.to_string())?;
        Ok(authenticator)
    }

    /// What to send for this nonce of the server.
    pub fn answer(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let mut answer = Auth::new();
        match &self.auth {
            NatsAuth::None => {}
            NatsAuth::Token(token) => answer.token = Some(token.expose_secret().to_owned()),
            NatsAuth::UserPassword(user, password) => {
                answer.username = Some(user.clone());
                answer.password = Some(password.expose_secret().to_owned());
            }
            NatsAuth::NkeyFile(path) => {
                let text = self.read(path, |text| key_pair(text).map(drop))?;
                let pair = key_pair(text.expose_secret())?;
                answer.nkey = Some(pair.public_key());
                answer.signature = Some(sign(&pair, nonce)?);
            }
            NatsAuth::CredentialsFile(path) => {
                let text = self.read(path, |text| credentials(text).map(drop))?;
                let (jwt, pair) = credentials(text.expose_secret())?;
                answer.jwt = Some(jwt.to_owned());
                answer.signature = Some(sign(&pair, nonce)?);
            }
        }
        Ok(answer)
    }

    /// The contents of the file, or those of last time if it cannot be read or
    /// does not pass `check`.
    fn read(
        &self,
        path: &Path,
        check: impl Fn(&str) -> Result<(), AuthError>,
    ) -> Result<SecretString, AuthError> {
        let fresh = std::fs::read_to_string(path)
            .map_err(|error| AuthError::new(format!("{}: {error}", path.display())))
            .and_then(|text| {
                check(&text)
                    .map_err(|error| AuthError::new(format!("{}: {error}", path.display())))?;
                Ok(SecretString::from(text))
            });
        // The lock is held for a moment only and nothing can panic under it.
        let mut last_good =
            self.last_good.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match (fresh, &*last_good) {
            (Ok(text), _) => {
                *last_good = Some(text.clone());
                Ok(text)
            }
            (Err(error), Some(text)) => {
                tracing::warn!(%error, "NATS credentials cannot be read again, using the last ones");
                Ok(text.clone())
            }
            (Err(error), None) => Err(error),
        }
    }
}

fn sign(pair: &KeyPair, nonce: &[u8]) -> Result<Vec<u8>, AuthError> {
    pair.sign(nonce)
        .map_err(|error| AuthError::new(format!("cannot sign with the nkey seed: {error}")))
}

fn key_pair(text: &str) -> Result<KeyPair, AuthError> {
    // Seed files carry comments and decoration; a seed is a line of its own
    // that begins with S.
    let seed = text
        .lines()
        .map(str::trim)
        .find(|line| line.starts_with('S'))
        .ok_or_else(|| AuthError::new("holds no nkey seed"))?;
    KeyPair::from_seed(seed).map_err(|_| AuthError::new("holds an nkey seed that is not valid"))
}

/// The JWT and the key of a credentials file.
fn credentials(text: &str) -> Result<(&str, KeyPair), AuthError> {
    let jwt = block(text, "NATS USER JWT")
        .ok_or_else(|| AuthError::new("holds no block BEGIN NATS USER JWT"))?;
    let seed = block(text, "USER NKEY SEED")
        .ok_or_else(|| AuthError::new("holds no block BEGIN USER NKEY SEED"))?;
    Ok((jwt, key_pair(seed)?))
}

/// The line between `-----BEGIN title-----` and the end of the block.
fn block<'a>(text: &'a str, title: &str) -> Option<&'a str> {
    let begin = format!("BEGIN {title}");
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| line.starts_with("---") && line.contains(&begin))?;
    lines.find(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

    use super::*;

    #[test]
    fn a_seed_file_is_read_at_each_answer_and_the_last_good_one_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seed.nk");
        let (first, second) = (KeyPair::new_user(), KeyPair::new_user());
        std::fs::write(&path, format!("# comment\n{}\n", first.seed().unwrap())).unwrap();
        let auth = Authenticator::new(NatsAuth::NkeyFile(path.clone())).unwrap();

        let answer = auth.answer(b"nonce").unwrap();
        assert_eq!(answer.nkey, Some(first.public_key()));
        first.verify(b"nonce", &answer.signature.unwrap()).unwrap();

        std::fs::write(&path, second.seed().unwrap()).unwrap();
        assert_eq!(auth.answer(b"n").unwrap().nkey, Some(second.public_key()));

        std::fs::write(&path, "broken").unwrap();
        assert_eq!(auth.answer(b"n").unwrap().nkey, Some(second.public_key()));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(auth.answer(b"n").unwrap().nkey, Some(second.public_key()));
    }

    #[test]
    fn a_credentials_file_gives_jwt_and_signature() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("user.creds");
        let pair = KeyPair::new_user();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\nthe.jwt.text\n------END NATS USER JWT------\n\n\
             *** IMPORTANT ***\n-----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            pair.seed().unwrap()
        );
        std::fs::write(&path, text).unwrap();
        let auth = Authenticator::new(NatsAuth::CredentialsFile(path)).unwrap();
        let answer = auth.answer(b"nonce").unwrap();
        assert_eq!(answer.jwt.as_deref(), Some("the.jwt.text"));
        pair.verify(b"nonce", &answer.signature.unwrap()).unwrap();
    }

    #[test]
    fn a_file_that_was_never_good_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none.nk");
        let error = Authenticator::new(NatsAuth::NkeyFile(path.clone())).err().unwrap();
        assert!(error.contains("none.nk"), "{error}");
        std::fs::write(&path, "no seed here").unwrap();
        let error = Authenticator::new(NatsAuth::NkeyFile(path)).err().unwrap();
        assert!(error.contains("nkey seed"), "{error}");
    }
}
