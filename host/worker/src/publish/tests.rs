//! Whole streams, as a server sees them.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is the test's failure")]

use llamero_protocol::decode_response;

use super::*;
use crate::nats::script::{Peer, Published, Script, outbox};

struct Setup {
    script: Script,
    publisher: Publisher,
    peer: Peer,
}

/// A job `j` that was acknowledged just now and streams to `_INBOX.s`.
async fn acknowledged(max_payload: usize) -> Setup {
    let script = Script::bind().await;
    let (connection, mut peer) = script.connect(max_payload).await;
    let outbox = outbox(&connection).await;
    let ack = outbox.message("_INBOX.r", &WorkerResponse::ack("j"));
    let receipt = outbox.send_with_receipt(ack).await.unwrap();
    assert_eq!(peer.next_message().await.unwrap().payload, r#"{"job":"j"}"#);
    let settings = StreamSettings {
        job: "j".into(),
        subject: "_INBOX.s".into(),
        ack_delay: Duration::from_millis(10),
        pace: Pace { interval: Duration::from_millis(5), bytes: 1024 },
    };
    let (publisher, task) = Publisher::new(outbox, Arc::default(), settings, receipt);
    tokio::spawn(task);
    Setup { script, publisher, peer }
}

fn done(output: &str) -> Ending {
    Ending::Done(PredictResponse { output: output.into(), ..PredictResponse::default() })
}

/// Reads up to the last message: the fragments, and the last one.
async fn read(peer: &mut Peer) -> (Vec<String>, Published) {
    let mut fragments = Vec::new();
    loop {
        let message = peer.next_message().await.unwrap();
        assert_eq!(message.subject, "_INBOX.s");
        let response = decode_response(message.payload.as_bytes()).unwrap();
        assert_eq!(response.job, "j");
        match response.stream {
            Some(stream) => {
                assert!(!stream.output.is_empty());
                fragments.push(stream.output);
            }
            None => return (fragments, message),
        }
    }
}

fn output(message: &Published) -> String {
    let response = decode_response(message.payload.as_bytes()).unwrap();
    response.predict.unwrap().output
}

#[tokio::test]
async fn fragments_add_up_to_the_output() {
    let mut setup = acknowledged(1 << 20).await;
    let mut expected = String::new();
    let sending = tokio::spawn(async move {
        for index in 0..200 {
            setup.publisher.text(format!("{index} "));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let all: String = (0..200).map(|index| format!("{index} ")).collect();
        setup.publisher.end(done(&all)).await.unwrap();
    });
    (0..200).for_each(|index| expected += &format!("{index} "));
    let (fragments, last) = read(&mut setup.peer).await;
    assert_eq!(fragments.concat(), expected);
    assert_eq!(output(&last), expected);
    assert!(last.headers.contains("Llm-Worker: worker"));
    // Joined: far fewer messages than texts, and more than one.
    assert!((2..150).contains(&fragments.len()), "{}", fragments.len());
    sending.await.unwrap();
}

#[tokio::test]
async fn the_first_message_keeps_its_distance_from_the_acknowledgement() {
    let began = Instant::now();
    let mut setup = acknowledged(1 << 20).await;
    // Everything is there at once: one fragment with all of it, then the end.
    setup.publisher.text("a".into());
    setup.publisher.text("b".into());
    let sent = setup.publisher.end(done("ab"));
    let (fragments, last) = read(&mut setup.peer).await;
    assert!(began.elapsed() >= Duration::from_millis(10));
    assert_eq!(fragments, ["ab"]);
    assert_eq!(output(&last), "ab");
    sent.await.unwrap();
}

#[tokio::test]
async fn a_stream_without_output_is_only_its_end() {
    let mut setup = acknowledged(1 << 20).await;
    let _sent = setup.publisher.end(done(""));
    let (fragments, last) = read(&mut setup.peer).await;
    assert_eq!(fragments, [""; 0]);
    assert_eq!(last.payload, r#"{"job":"j","predict":{}}"#);
}

#[tokio::test]
async fn an_error_ends_a_stream_without_the_text_that_waits() {
    let mut setup = acknowledged(1 << 20).await;
    setup.publisher.text("not sent any more".into());
    let _sent = setup.publisher.end(Ending::Failed(ErrorBody::interrupted()));
    let (fragments, last) = read(&mut setup.peer).await;
    assert_eq!(fragments, [""; 0]);
    assert!(last.payload.contains(r#""code":8"#), "{}", last.payload);
}

#[tokio::test]
async fn what_is_too_large_is_cut_at_characters_and_the_final_left_empty() {
    let mut setup = acknowledged(250).await;
    // Quotes take two bytes in JSON, which the first cut does not know.
    let text = "ö\"".repeat(300);
    setup.publisher.text(text.clone());
    let _sent = setup.publisher.end(done(&text));
    let (fragments, last) = read(&mut setup.peer).await;
    assert_eq!(fragments.concat(), text);
    assert!(fragments.len() > 3);
    assert_eq!(output(&last), "");
    assert!(last.headers.contains("Llm-Output-Omitted: true"), "{}", last.headers);
}

#[tokio::test]
async fn after_a_lost_connection_only_the_final_message_follows() {
    let mut setup = acknowledged(1 << 20).await;
    setup.publisher.text("one ".into());
    let first = setup.peer.next_message().await.unwrap();
    assert!(first.payload.contains("one "));
    // Whether this one is read by anyone is not known to the worker.
    drop(setup.peer);
    setup.publisher.text("two ".into());
    let mut peer = setup.script.accept(1 << 20).await;
    setup.publisher.text("three".into());
    let sent = setup.publisher.end(done("one two three"));
    let (fragments, last) = read(&mut peer).await;
    // "one " and a gap would be no beginning of the output.
    assert_eq!(fragments, [""; 0]);
    assert_eq!(output(&last), "one two three");
    sent.await.unwrap();
}

#[tokio::test]
async fn an_output_that_fits_nowhere_is_an_error_if_fragments_were_lost() {
    let mut setup = acknowledged(700).await;
    setup.publisher.text("one ".into());
    setup.peer.next_message().await.unwrap();
    drop(setup.peer);
    let mut peer = setup.script.accept(700).await;
    let long = "x".repeat(2_000);
    setup.publisher.text(long.clone());
    let _sent = setup.publisher.end(done(&format!("one {long}")));
    let (_, last) = read(&mut peer).await;
    assert!(last.payload.contains(r#""code":7"#), "{}", last.payload);
}
