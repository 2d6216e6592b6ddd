//! What becomes of single messages. No server is needed: the connection is still
//! trying to reach one, and answers are taken out of their queue.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

use async_nats::Subject;
use bytes::Bytes;

use super::*;
use crate::nats::connection::{Role, connect};
use crate::nats::inbox::Inbox;
use crate::nats::outbox::Outbox;
use crate::replies::HeldReplies;
use crate::settings::{EmbedPolicy, Flags, MapSource, Settings};

struct Setup {
    intake: Intake,
    dispatched: mpsc::Receiver<Command>,
    listed: mpsc::Receiver<ListJob>,
    replies: HeldReplies,
}

async fn setup() -> Setup {
    setup_with(EmbedPolicy::Served).await
}

async fn setup_with(policy: EmbedPolicy) -> Setup {
    let embed = EmbedRules { policy, max_inputs: 2 };
    let mut flags = Flags::default();
    // Port 1 is nobody's; the worker's role goes on trying.
    flags.set("nats_url", "nats://127.0.0.1:1", "--nats");
    let settings = Settings::load(&MapSource::default(), &flags).unwrap();
    let connection = connect(&settings.nats, Role::Worker).await.unwrap();
    let inbox = Inbox::open(&connection).await.unwrap();
    let outbox = Outbox::new(connection, inbox, "worker");
    let (replies, held) = Replies::held(outbox);
    let (dispatch, dispatched) = mpsc::channel(16);
    let (lister, listed) = mpsc::channel(16);
    let actors = Actors { dispatch, lister, replies };
    let stream_subjects = vec!["_INBOX.>".to_owned()];
    let headers = vec!["X-Tier".to_owned()];
    Setup {
        intake: Intake::new(actors, "llm.work".into(), stream_subjects, headers, embed),
        dispatched,
        listed,
        replies: held,
    }
}

fn message(payload: &str, reply: Option<&str>, headers: Option<HeaderMap>) -> Message {
    Message {
        subject: Subject::from("llm.work"),
        reply: reply.map(Subject::from),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        headers,
        status: None,
        description: None,
        length: payload.len(),
    }
}

impl Setup {
    async fn handle(&self, payload: &str) {
        let message = message(payload, Some("_INBOX.r"), None);
        self.intake.handle(message).await;
    }

    fn is_quiet(&mut self) -> bool {
        self.dispatched.try_recv().is_err()
            && self.listed.try_recv().is_err()
            && self.replies.take().is_none()
    }
}

#[tokio::test]
async fn commands_go_to_those_who_act() {
    let mut setup = setup().await;
    setup.handle(r#"{"job":"a","list":{}}"#).await;
    assert_eq!(setup.listed.try_recv().unwrap().job, "a");

    setup.handle(r#"{"job":"b","interrupt":{}}"#).await;
    match setup.dispatched.try_recv().unwrap() {
        Command::Interrupt { job, reply, mark, .. } => {
            assert_eq!((&*job, reply.as_deref()), ("b", Some("_INBOX.r")));
            assert_eq!(mark, Mark::Leave);
        }
        other => panic!("{other:?}"),
    }

    setup.handle(r#"{"job":"c","predict":{"input":"x"}}"#).await;
    match setup.dispatched.try_recv().unwrap() {
        Command::Job(incoming) => {
            assert_eq!((&*incoming.job, incoming.reply.as_str()), ("c", "_INBOX.r"));
            assert!(matches!(&incoming.work, Work::Predict(predict) if predict.input == ["x"]));
        }
        other => panic!("{other:?}"),
    }

    setup.handle(r#"{"job":"d","embed":{"input":"x"}}"#).await;
    match setup.dispatched.try_recv().unwrap() {
        Command::Job(incoming) => {
            assert_eq!((&*incoming.job, incoming.reply.as_str()), ("d", "_INBOX.r"));
            assert!(matches!(&incoming.work, Work::Embed(embed) if embed.input == ["x"]));
        }
        other => panic!("{other:?}"),
    }
    assert!(setup.is_quiet());
}

#[tokio::test]
async fn what_cannot_be_served_is_answered_once() {
    let mut setup = setup().await;
    for (payload, body) in [
        (r#"{"list":{}}"#, r#"{"error":{"code":2,"error":"job id is required"}}"#),
        (r#"{"job":"a"}"#, r#"{"job":"a","error":{"code":3,"error":"command not supported"}}"#),
        (
            r#"{"job":"a","predict":{"input":"x","stream":"llm.work"}}"#,
            r#"{"job":"a","error":{"code":2,"error":"stream subject is the worker's own"}}"#,
        ),
    ] {
        setup.handle(payload).await;
        let (subject, got) = setup.replies.take().unwrap();
        assert_eq!((subject.as_str(), got.as_str()), ("_INBOX.r", body));
        assert!(setup.is_quiet(), "{payload}");
    }
    for stream in ["llm.other", "_INBOX.>", "$SYS.x", "a..b", "a b"] {
        let payload = serde_json::json!({"job": "a", "predict": {"input": "x", "stream": stream}});
        setup.handle(&payload.to_string()).await;
        let (_, got) = setup.replies.take().unwrap();
        assert!(got.starts_with(r#"{"job":"a","error":{"code":2,"#), "{got}");
        assert!(setup.is_quiet(), "{stream}");
    }
}

#[tokio::test]
async fn requests_that_must_not_be_answered_are_dropped() {
    let mut setup = setup().await;
    for (payload, reply) in [
        (r#"{"job":"a","predict":{"input":"x"}}"#, None),
        (r#"{"job":"a","list":{}}"#, None),
        ("illegible", None),
        (r#"{"job":"a","list":{}}"#, Some("$SYS.REQ.x")),
        (r#"{"job":"a","list":{}}"#, Some("llm.work")),
        (r#"{"job":"a","interrupt":{}}"#, Some("llm.work._w.x")),
        ("illegible", Some("llm.work")),
    ] {
        setup.intake.handle(message(payload, reply, None)).await;
        assert!(setup.is_quiet(), "{payload} {reply:?}");
    }
    // An interrupt acts even if nobody wants its answer, and a subject that only
    // begins like the worker's is somebody else's.
    let interrupt = r#"{"job":"a","interrupt":{}}"#;
    setup.intake.handle(message(interrupt, None, None)).await;
    assert!(setup.dispatched.try_recv().is_ok());
    let reply = Some("llm.worker2");
    setup.intake.handle(message(interrupt, reply, None)).await;
    assert!(setup.dispatched.try_recv().is_ok());
}

#[tokio::test]
async fn headers_tell_who_calls() {
    let mut setup = setup().await;
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Request-Info", r#"{"acc":"ACME"}"#);
    headers.insert("traceparent", "00-1-2-01");
    headers.insert("x-tier", "gold");
    headers.insert("Authorization", "secret");
    let payload = r#"{"job":"a","predict":{"input":"x"}}"#;
    let request = message(payload, Some("_INBOX.r"), Some(headers.clone()));
    setup.intake.handle(request).await;
    match setup.dispatched.try_recv().unwrap() {
        Command::Job(incoming) => {
            let caller = incoming.caller;
            assert_eq!(caller.account.as_deref(), Some("ACME"));
            assert_eq!(caller.traceparent.as_deref(), Some("00-1-2-01"));
            assert_eq!(caller.headers, [("X-Tier".to_owned(), "gold".to_owned())]);
        }
        other => panic!("{other:?}"),
    }
    // A stream cannot leave the worker's account.
    let payload = r#"{"job":"a","predict":{"input":"x","stream":"_INBOX.s"}}"#;
    let request = message(payload, Some("_INBOX.r"), Some(headers));
    setup.intake.handle(request).await;
    let (_, body) = setup.replies.take().unwrap();
    assert!(body.contains("another account"), "{body}");
    assert!(setup.is_quiet());
}

#[tokio::test]
async fn several_commands_are_served_one_after_the_other() {
    let mut setup = setup().await;
    setup.handle(r#"{"job":"a","list":{},"interrupt":{},"predict":{"input":"x"}}"#).await;
    let list = setup.listed.recv().await.unwrap();
    // Nothing else before the list is answered.
    tokio::task::yield_now().await;
    assert!(setup.dispatched.try_recv().is_err());
    list.done.unwrap().send(()).unwrap();
    let done = match setup.dispatched.recv().await.unwrap() {
        Command::Interrupt { mark, done, .. } => {
            assert_eq!(mark, Mark::Omit);
            done.unwrap()
        }
        other => panic!("{other:?}"),
    };
    tokio::task::yield_now().await;
    assert!(setup.dispatched.try_recv().is_err());
    done.send(()).unwrap();
    assert!(matches!(setup.dispatched.recv().await.unwrap(), Command::Job(_)));

    setup.handle(r#"{"job":"a","embed":{"input":"x"},"predict":{"input":"x"}}"#).await;
    for is_predict in [true, false] {
        match setup.dispatched.recv().await.unwrap() {
            Command::Job(incoming) => {
                assert_eq!(matches!(incoming.work, Work::Predict(_)), is_predict);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn embed_requests_that_are_not_served_are_answered_once() {
    let mut setup = setup().await;
    setup.handle(r#"{"job":"a","list":{},"embed":{"input":["x","y","z"]}}"#).await;
    let (_, body) = setup.replies.take().unwrap();
    assert!(
        body.starts_with(r#"{"job":"a","error":{"code":2,"error":"embed.input has 3 "#),
        "{body}"
    );
    assert!(setup.is_quiet());
    for policy in [EmbedPolicy::Off, EmbedPolicy::UnseenByHooks] {
        let mut setup = setup_with(policy).await;
        setup.handle(r#"{"job":"a","embed":{"input":"x"}}"#).await;
        let (_, body) = setup.replies.take().unwrap();
        let text = r#"{"job":"a","error":{"code":3,"error":"command not supported: "#;
        assert!(body.starts_with(text), "{body}");
        setup.handle(r#"{"job":"a","predict":{"input":"x"}}"#).await;
        assert!(matches!(setup.dispatched.try_recv().unwrap(), Command::Job(_)));
        assert!(setup.is_quiet());
    }
}

#[tokio::test]
async fn too_many_combined_requests_are_refused_as_busy() {
    let mut setup = setup().await;
    for _ in 0..COMBINED_AT_ONCE {
        setup.handle(r#"{"job":"a","interrupt":{},"predict":{"input":"x"}}"#).await;
    }
    assert!(setup.replies.take().is_none());
    setup.handle(r#"{"job":"z","interrupt":{},"predict":{"input":"x"}}"#).await;
    let (_, body) = setup.replies.take().unwrap();
    assert_eq!(body, r#"{"job":"z","error":{"code":6,"error":"worker busy"}}"#);
}
