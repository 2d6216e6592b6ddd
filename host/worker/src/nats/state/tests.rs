//! State over a real nats-server with JetStream: several workers on one bucket,
//! lost connections, missing rights.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

use std::path::PathBuf;
use std::process::Stdio;

use async_nats::jetstream;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::key::token_bytes;
use super::*;
use crate::nats::connection::{Role, connect};
use crate::settings::{Flags, MapSource, Settings};

const JETSTREAM: &str = "jetstream { store_dir: \"store\" }";
const BUCKET: &str = "hooks";
const QUOTA: StateQuota = StateQuota { bytes: 1 << 20, keys: 1000 };

/// Only a hang reaches it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A nats-server in a folder of its own.
struct Server {
    child: Child,
    folder: TempDir,
    settings: String,
    port: u16,
}

fn executable() -> PathBuf {
    let given = std::env::var_os("NATS_SERVER_BIN").filter(|path| !path.is_empty());
    given.map_or_else(
        || {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let mut places = std::env::split_paths(&path).map(|folder| folder.join("nats-server"));
            places.find(|place| place.is_file()).unwrap_or_else(|| "/usr/sbin/nats-server".into())
        },
        PathBuf::from,
    )
}

async fn launch(folder: &TempDir, settings: &str, port: i32) -> Option<(Child, u16)> {
    let config = folder.path().join("nats.conf");
    std::fs::write(&config, format!("listen: \"127.0.0.1:{port}\"\n{settings}\n")).unwrap();
    let program = executable();
    let mut child = Command::new(&program)
        .arg("--config")
        .arg(&config)
        .current_dir(folder.path())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{} cannot be started: {error}; see `make setup`", program.display())
        });
    let mut lines = BufReader::new(child.stderr.take()?).lines();
    let mut port = None;
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some((_, address)) = line.split_once("for client connections on ") {
            port = address.trim().rsplit(':').next().and_then(|port| port.parse().ok());
        }
        if line.contains("Server is ready") {
            // The pipe must not fill up.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Some((child, port?));
        }
    }
    None
}

impl Server {
    async fn start(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (child, port) = launch(&folder, settings, -1).await.unwrap();
        Self { child, folder, settings: settings.to_owned(), port }
    }

    async fn stop(&mut self) {
        self.child.kill().await.unwrap();
    }

    /// Starts it again where it was. Another program may hold the port for a moment.
    async fn resume(&mut self) {
        let resumed = tokio::time::timeout(PATIENCE, async {
            loop {
                let port = i32::from(self.port);
                if let Some((child, _)) = launch(&self.folder, &self.settings, port).await {
                    return child;
                }
            }
        });
        self.child = resumed.await.unwrap();
    }

    async fn connect_as(&self, user: &str) -> Connection {
        let mut flags = Flags::default();
        let url = format!("nats://{user}127.0.0.1:{}", self.port);
        flags.set("nats_url", url.as_str(), "--nats");
        let settings = Settings::load(&MapSource::default(), &flags).unwrap();
        let connection = connect(&settings.nats, Role::Worker).await.unwrap();
        assert!(tokio::time::timeout(PATIENCE, connection.wait_up()).await.unwrap());
        connection
    }

    /// One more worker of the fleet.
    async fn worker(&self) -> (NatsState, Connection) {
        let connection = self.connect_as("").await;
        let state = NatsState::default();
        state.open(&connection, BUCKET, 1 << 10).await.unwrap();
        (state, connection)
    }

    async fn refusal(&self, user: &str) -> HookStateError {
        let connection = self.connect_as(user).await;
        let state = NatsState::default();
        let opened = tokio::time::timeout(PATIENCE, state.open(&connection, BUCKET, 1 << 10));
        let error = opened.await.unwrap().unwrap_err();
        let answer = state.get("p", "k").await.unwrap_err();
        assert!(matches!(answer, StateError::Unavailable(_)), "{answer}");
        error
    }
}

/// Waits until `is_so`.
async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let waiting = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{what}");
}

async fn text(state: &NatsState, key: &str) -> Option<String> {
    let value = state.get("p", key).await.unwrap();
    value.map(|bytes| String::from_utf8(bytes).unwrap())
}

#[tokio::test]
async fn workers_share_what_one_of_them_writes() {
    let server = Server::start(JETSTREAM).await;
    let ((a, _), (b, _)) = tokio::join!(server.worker(), server.worker());
    assert_eq!(text(&b, "k").await, None);
    a.set("p", "k", b"one".to_vec(), None, QUOTA).await.unwrap();
    assert_eq!(text(&b, "k").await.as_deref(), Some("one"));
    // Ids whose names contain each other are separate, as are all others.
    assert_eq!(b.get("p.x", "k").await, Ok(None));
    b.set("p.x", "k", b"other".to_vec(), None, QUOTA).await.unwrap();
    b.set("p", "k", b"two".to_vec(), None, QUOTA).await.unwrap();
    assert_eq!(text(&a, "k").await.as_deref(), Some("two"));
    a.delete("p", "k").await.unwrap();
    a.delete("p", "k").await.unwrap();
    assert_eq!(text(&b, "k").await, None);
    assert_eq!(a.get("p.x", "k").await, Ok(Some(b"other".to_vec())));
    // A deleted key leaves nothing behind, and can be made anew.
    let listed = a.bucket().unwrap().list("p").await.unwrap();
    assert_eq!(listed, []);
    assert_eq!(a.increment("p", "k", 2, None, QUOTA).await, Ok(2));
    assert_eq!(text(&b, "k").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn counters_of_a_fleet_lose_nothing() {
    let server = Server::start(JETSTREAM).await;
    let ((a, _), (b, _)) = tokio::join!(server.worker(), server.worker());
    let mut counting = Vec::new();
    for state in [&a, &b] {
        for _ in 0..8 {
            let state = state.clone();
            counting.push(tokio::spawn(async move {
                let mut counted = 0;
                while counted < 25 {
                    match state.increment("p", "n", 1, None, QUOTA).await {
                        Ok(_) => counted += 1,
                        // Not counted: the other one was faster ten times.
                        Err(StateError::Unavailable(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }));
        }
    }
    for task in counting {
        tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap();
    }
    assert_eq!(a.increment("p", "n", 0, None, QUOTA).await, Ok(400));
    let error = a.increment("p", "n", i64::MAX, None, QUOTA).await.unwrap_err();
    assert_eq!(error, StateError::counter_overflow());
    b.set("p", "text", b"5".to_vec(), None, QUOTA).await.unwrap();
    let error = a.increment("p", "text", 1, None, QUOTA).await.unwrap_err();
    assert_eq!(error, StateError::no_counter());
}

#[tokio::test]
async fn one_of_many_takes_the_lock() {
    let server = Server::start(JETSTREAM).await;
    let ((a, _), (b, _)) = tokio::join!(server.worker(), server.worker());
    let mut taking = Vec::new();
    for n in 0..10u8 {
        let state = if n % 2 == 0 { a.clone() } else { b.clone() };
        taking.push(tokio::spawn(async move {
            state.compare_and_set("p", "lock", None, vec![n], QUOTA).await.unwrap().then_some(n)
        }));
    }
    let mut winners = Vec::new();
    for task in taking {
        winners.extend(task.await.unwrap());
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(a.get("p", "lock").await, Ok(Some(winners.clone())));
    let swap = |expected: &[u8], value: &[u8]| {
        let (expected, value) = (Some(expected.to_vec()), value.to_vec());
        let b = b.clone();
        async move { b.compare_and_set("p", "lock", expected, value, QUOTA).await }
    };
    assert_eq!(swap(b"nobody", b"x").await, Ok(false));
    assert_eq!(swap(&winners, b"x").await, Ok(true));
    // A counter is expected as its number.
    a.increment("p", "n", 41, None, QUOTA).await.unwrap();
    let swapped = b.compare_and_set("p", "n", Some(b"41".to_vec()), b"x".to_vec(), QUOTA).await;
    assert_eq!(swapped, Ok(true));
}

#[tokio::test]
async fn what_has_ended_is_absent_and_is_swept() {
    let server = Server::start(JETSTREAM).await;
    let (state, _connection) = server.worker().await;
    let short = Some(Duration::from_millis(100));
    state.set("p", "k", b"x".to_vec(), short, QUOTA).await.unwrap();
    assert_eq!(state.increment("p", "n", 7, short, QUOTA).await, Ok(7));
    until("a value that ends", || async { text(&state, "k").await.is_none() }).await;
    until("a counter that ends", || async { text(&state, "n").await.is_none() }).await;
    // A counter begins anew, and what is absent is what a swap finds.
    assert_eq!(state.increment("p", "n", 1, None, QUOTA).await, Ok(1));
    let swapped = state.compare_and_set("p", "k", None, b"y".to_vec(), QUOTA).await;
    assert_eq!(swapped, Ok(true));
    assert_eq!(text(&state, "k").await.as_deref(), Some("y"));

    for n in 0..50 {
        let key = format!("k{n}");
        state.set("p", &key, b"x".to_vec(), Some(Duration::ZERO), QUOTA).await.unwrap();
    }
    let bucket = state.bucket().unwrap();
    let listed = bucket.list("p").await.unwrap();
    assert_eq!(listed.len(), 52);
    let ended: Vec<_> = listed.into_iter().filter(|line| line.ends.is_some()).collect();
    assert_eq!(ended.len(), 50);
    assert!(ended.iter().all(|line| line.bytes == token_bytes(&line.token) + 1));
    // One is written again before the sweep comes to it.
    state.set("p", "k0", b"new".to_vec(), None, QUOTA).await.unwrap();
    bucket.sweep(&ended, |_| {}).await;
    assert_eq!(bucket.list("p").await.unwrap().len(), 3);
    assert_eq!(text(&state, "k0").await.as_deref(), Some("new"));
}

#[tokio::test]
async fn quotas_count_what_other_workers_wrote() {
    let server = Server::start(JETSTREAM).await;
    let ((a, _), (b, _)) = tokio::join!(server.worker(), server.worker());
    let quota = StateQuota { bytes: 100, keys: 3 };
    let set = |state: &NatsState, key: &'static str, length: usize| {
        let state = state.clone();
        async move { state.set("p", key, vec![b'x'; length], None, quota).await }
    };
    for key in ["a", "b", "c"] {
        set(&a, key, 1).await.unwrap();
    }
    let full = Err(StateError::QuotaExceeded);
    assert_eq!(set(&a, "d", 1).await, full);
    assert_eq!(set(&b, "d", 1).await, full);
    assert_eq!(b.increment("p", "d", 1, None, quota).await, full.clone().map(|()| 0));
    assert_eq!(set(&a, "a", 96).await, full);
    assert_eq!(set(&a, "a", 95).await, Ok(()));
    // Room that another worker made is found.
    a.delete("p", "b").await.unwrap();
    until("room for a third key", || async { set(&b, "d", 1).await.is_ok() }).await;
    assert_eq!(set(&b, "e", 1).await, full);
    // What has ended takes no room.
    let short = Some(Duration::from_millis(50));
    for key in ["x", "y", "z"] {
        a.set("q", key, Vec::new(), short, quota).await.unwrap();
    }
    let later = || async { a.set("q", "later", vec![b'x'; 95], None, quota).await.is_ok() };
    until("room after the end", later).await;
}

#[tokio::test]
async fn sizes_are_limited_by_the_bucket_and_the_server() {
    let server = Server::start(&format!("{JETSTREAM}\nmax_payload: 2048")).await;
    let (state, connection) = server.worker().await;
    let quota = StateQuota { bytes: 1 << 20, keys: 10 };
    let set = async |state: &NatsState, length: usize| {
        state.set("p", "k", vec![0; length], None, quota).await
    };
    assert_eq!(set(&state, 1024).await, Ok(()));
    let error = set(&state, 1025).await.unwrap_err();
    assert!(error.to_string().contains("1025 bytes is more than the max_value_size"), "{error}");
    let large = NatsState::default();
    large.open(&connection, "large", 1 << 20).await.unwrap();
    let error = set(&large, 2048).await.unwrap_err();
    assert!(error.to_string().contains("2048 bytes is more than the max_payload"), "{error}");
}

#[tokio::test]
async fn what_no_worker_wrote_is_not_taken_for_a_value() {
    let server = Server::start(JETSTREAM).await;
    let (state, connection) = server.worker().await;
    let bucket = jetstream::new(connection.client.clone()).get_key_value(BUCKET).await.unwrap();
    bucket.put(token("p", "k"), "by hand".into()).await.unwrap();
    for error in [
        state.get("p", "k").await.unwrap_err(),
        state.increment("p", "k", 1, None, QUOTA).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("something else"), "{error}");
    }
    // The marker of a deletion by other means is an absent key.
    bucket.delete(token("p", "k")).await.unwrap();
    assert_eq!(text(&state, "k").await, None);
    assert_eq!(state.increment("p", "k", 1, None, QUOTA).await, Ok(1));
}

#[tokio::test]
async fn a_lost_connection_is_said_at_once_and_ends() {
    let mut server = Server::start(JETSTREAM).await;
    let (state, connection) = server.worker().await;
    state.set("p", "k", b"kept".to_vec(), None, QUOTA).await.unwrap();
    server.stop().await;
    until("the loss to be noticed", || async { !connection.is_up() }).await;
    for error in [
        state.get("p", "k").await.unwrap_err(),
        state.set("p", "k", Vec::new(), None, QUOTA).await.unwrap_err(),
        state.increment("p", "n", 1, None, QUOTA).await.unwrap_err(),
        state.delete("p", "k").await.unwrap_err(),
    ] {
        assert_eq!(error, StateError::Unavailable("no connection to NATS".to_owned()));
    }
    server.resume().await;
    until("the server to be back", || async { state.get("p", "k").await.is_ok() }).await;
    assert_eq!(text(&state, "k").await.as_deref(), Some("kept"));
}

#[tokio::test]
async fn a_server_without_jetstream_is_named_at_the_start() {
    let server = Server::start("").await;
    let error = server.refusal("").await;
    assert!(matches!(error, HookStateError::NoJetStream(_)), "{error}");
    assert!(error.to_string().contains("hook_state = \"memory\""), "{error}");
}

#[tokio::test]
async fn missing_rights_are_named_at_the_start() {
    let user = |name: &str, deny: &str| {
        format!(
            "{{ user: {name}, password: p, permissions: {{ publish: {{ deny: [\"{deny}\"] }} }} }}"
        )
    };
    let denied = [("api", "$JS.API.>"), ("keys", "$KV.>"), ("purge", "$JS.API.STREAM.PURGE.>")];
    let users: Vec<_> = denied.iter().map(|(name, deny)| user(name, deny)).collect();
    let settings = format!("{JETSTREAM}\nauthorization {{ users: [ {} ] }}", users.join(", "));
    let server = Server::start(&settings).await;
    for (name, deny) in denied {
        let error = server.refusal(&format!("{name}:p@")).await;
        let text = error.to_string();
        assert!(matches!(error, HookStateError::Denied { .. }), "{text}");
        assert!(text.contains(deny.trim_end_matches('>')), "{text}");
    }
}

#[tokio::test]
async fn a_bucket_that_cannot_be_used_is_named_at_the_start() {
    let server = Server::start(JETSTREAM).await;
    let connection = server.connect_as("").await;
    let context = jetstream::new(connection.client.clone());
    let config = jetstream::stream::Config {
        name: format!("KV_{BUCKET}"),
        subjects: vec![format!("$KV.{BUCKET}.>")],
        max_messages_per_subject: 1,
        deny_purge: true,
        ..Default::default()
    };
    context.create_stream(config).await.unwrap();
    let error = server.refusal("").await.to_string();
    assert!(error.contains(BUCKET) && error.contains("denies purging"), "{error}");
}

#[tokio::test]
async fn a_bucket_that_is_just_being_made_is_waited_for() {
    let server = Server::start(JETSTREAM).await;
    let connection = server.connect_as("").await;
    let context = jetstream::new(connection.client.clone());
    let bucket = |subject: &str| jetstream::stream::Config {
        name: format!("KV_{BUCKET}"),
        subjects: vec![subject.to_owned()],
        max_messages_per_subject: 1,
        allow_rollup: true,
        allow_direct: true,
        ..jetstream::stream::Config::default()
    };
    // There, and without anybody who takes a message for it.
    context.create_stream(bucket("elsewhere.>")).await.unwrap();
    let error = server.refusal("").await.to_string();
    assert!(error.contains("writing does not work"), "{error}");
    let ready = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        context.update_stream(bucket(&format!("$KV.{BUCKET}.>"))).await.unwrap();
    };
    let ((state, _connection), _) = tokio::join!(server.worker(), ready);
    state.set("p", "k", b"x".to_vec(), None, QUOTA).await.unwrap();
    assert_eq!(text(&state, "k").await.as_deref(), Some("x"));
}

#[tokio::test]
async fn before_the_worker_is_connected_there_is_no_state() {
    let state = NatsState::default();
    let error = state.set("p", "k", Vec::new(), None, QUOTA).await.unwrap_err();
    assert!(error.to_string().contains("not connected"), "{error}");
    // What is wrong with the call itself is said first.
    let error = state.get("p", "").await.unwrap_err();
    assert!(error.to_string().contains("1 to 1024 bytes"), "{error}");
}
