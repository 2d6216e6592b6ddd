//! Questions and answers against a server that follows a script: what is sent, what is
//! heard, and what is not.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

use super::*;
use crate::nats::script::{Op, Peer, Script};
use crate::settings::Settings;

const SUBJECT: &str = "llm.worker.default._peers";

/// A worker that listens, and what it would tell its dispatcher.
struct Setup {
    server: Peer,
    peers: Peers,
    link: PeerLink,
    dispatched: mpsc::Receiver<Command>,
}

/// Accepts the connection and answers the round trip of the start.
async fn accept(script: &Script) -> Peer {
    let mut server = script.accept(1 << 20).await;
    while let Some(op) = server.next().await {
        if let Op::Pub(probe) = op {
            server.no_responders(&probe).await;
            break;
        }
    }
    server
}

async fn setup() -> Setup {
    let script = Script::bind().await;
    let Settings { nats, .. } = script.settings();
    let (joined, server) = tokio::join!(Joined::join(&nats, "me"), accept(&script));
    let (peers, questions) = Peers::new();
    let (dispatch, dispatched) = mpsc::channel(16);
    let link = joined.unwrap().serve(questions, dispatch);
    Setup { server, peers, link, dispatched }
}

impl Setup {
    async fn heard(&mut self) -> Heard {
        match self.dispatched.recv().await.unwrap() {
            Command::Peer(heard) => heard,
            other => panic!("{other:?}"),
        }
    }
}

fn asked(number: u64, job: &str, mark: Mark) -> Heard {
    let question = Question { worker: "other".into(), number };
    Heard::Asked { question, job: job.into(), mark }
}

fn answered(job: &str, id: Option<u64>, ended: bool) -> Heard {
    Heard::Answered { job: job.into(), id: id.map(InterruptId), ended }
}

#[tokio::test]
async fn a_question_that_meets_nobody_is_refused_by_the_server() {
    let mut setup = setup().await;
    assert!(setup.server.wishes.contains(r#""echo":false"#), "{}", setup.server.wishes);
    assert!(setup.peers.ask(InterruptId(7), &"a".into(), Mark::Leave));
    let question = setup.server.next_message().await.unwrap();
    assert_eq!(question.subject, SUBJECT);
    assert_eq!(question.payload, r#"{"ask":{"from":"me","number":7,"job":"a","mark":true}}"#);
    // What somebody else publishes to the inbox says nothing.
    let reply = question.reply.clone().unwrap();
    assert!(setup.server.deliver(&reply, "").await);
    setup.server.no_responders(&question).await;
    assert_eq!(setup.heard().await, Heard::Nobody(InterruptId(7)));
    assert!(setup.dispatched.try_recv().is_err());
}

#[tokio::test]
async fn what_others_say_is_handed_on_and_nothing_else() {
    let mut setup = setup().await;
    for text in [
        "",
        "{",
        "\u{0}\u{1}\u{2}",
        r#"{"job":"a","interrupt":{}}"#,
        r#"{"hook":{"action":"list"}}"#,
        // Its own words.
        r#"{"ask":{"from":"me","number":1,"job":"a","mark":true}}"#,
        r#"{"answer":{"from":"me","to":"other","number":1,"job":"a","ended":true}}"#,
        r#"{"ask":{"from":"other","number":1,"job":"a","mark":true}}"#,
        r#"{"ask":{"from":"other","number":2,"job":"b"}}"#,
        r#"{"answer":{"from":"other","to":"me","number":3,"job":"c","ended":false}}"#,
        r#"{"answer":{"from":"other","to":"third","number":4,"job":"d","ended":true}}"#,
    ] {
        assert!(setup.server.deliver(SUBJECT, text).await);
    }
    assert_eq!(setup.heard().await, asked(1, "a", Mark::Leave));
    assert_eq!(setup.heard().await, asked(2, "b", Mark::Omit));
    assert_eq!(setup.heard().await, answered("c", Some(3), false));
    assert_eq!(setup.heard().await, answered("d", None, true));
    assert!(setup.dispatched.try_recv().is_err());
}

#[tokio::test]
async fn without_a_connection_nobody_is_asked() {
    let mut setup = setup().await;
    drop(setup.server);
    // The loss is noticed a moment later; until then a question is lost with it.
    let heard = loop {
        assert!(setup.peers.ask(InterruptId(1), &"a".into(), Mark::Leave));
        let heard = tokio::time::timeout(Duration::from_millis(20), setup.dispatched.recv());
        if let Ok(Some(Command::Peer(heard))) = heard.await {
            break heard;
        }
    };
    assert_eq!(heard, Heard::Nobody(InterruptId(1)));
}

#[tokio::test]
async fn once_stopped_it_takes_no_question() {
    let Setup { mut server, peers, link, mut dispatched } = setup().await;
    let rest = tokio::spawn(async move { server.next_message().await });
    link.stop().await;
    assert!(!peers.ask(InterruptId(1), &"a".into(), Mark::Leave));
    assert!(dispatched.recv().await.is_none());
    assert_eq!(rest.await.unwrap(), None, "the connection is closed");
}

#[test]
fn answers_name_the_question() {
    let question = Question { worker: "other".into(), number: 7 };
    assert_eq!(
        question.answer("me", "a", true).to_string(),
        r#"{"answer":{"from":"me","to":"other","number":7,"job":"a","ended":true}}"#
    );
    assert_eq!(subject_of_peers("llm.work"), "llm.work._peers");
}
