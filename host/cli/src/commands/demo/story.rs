//! The scenes of the demo. Each does something real and checks what came back,
//! so that a demo that runs through is a proof and not a film.

use std::time::{Duration, Instant};

use llamero_protocol::{ErrorBody, Message, PredictRequest};
use serde_json::{Value, json};

use super::child::Worker;
use super::stage::Stage;
use super::{Narrator, changes, say};
use crate::client::{Client, Delivery};
use crate::collector::{Done, Fragments, Step};
use crate::exit::{Exit, Failure};
use crate::output;
use crate::stats;

/// Longest wait for an answer of the worker to a list or an interrupt.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Longest wait for one message of a prediction.
const MESSAGE_LIMIT: Duration = Duration::from_secs(30);

/// Private data as a client might send it. All three are set aside for examples
/// and tests, so nobody can be called, written to, or charged.
const PRIVATE: [&str; 3] = ["ada@example.com", "+1 202 555 0143", "4111 1111 1111 1111"];

/// The end of a prediction and what the client measured.
struct Outcome {
    result: Result<Done, ErrorBody>,
    first_text: Option<Duration>,
    total: Duration,
    n_fragments: usize,
}

/// All scenes in order.
pub async fn play(
    tell: &mut Narrator,
    client: &Client,
    worker: &mut Worker,
    stage: &Stage,
) -> Result<(), Failure> {
    models(tell, client).await?;
    let answer = private_data(tell, client, worker, stage).await?;
    if stage.has("prompt-window") {
        long_context(tell, client, worker).await?;
    }
    if stage.has("topic-guard") {
        forbidden_topic(tell, client).await?;
    }
    if stage.has_trap() {
        crash(tell, client).await?;
    }
    interrupt(tell, client).await?;
    tell.scene("Numbers of the first answer")?;
    for part in stats::summary(&answer.0, answer.1, answer.2).split("; ") {
        say(&format!("  {part}"))?;
    }
    Ok(())
}

async fn models(tell: &mut Narrator, client: &Client) -> Result<(), Failure> {
    tell.scene("What the worker offers (llamero models)")?;
    let response = client.list(ANSWER_LIMIT).await?;
    let models = response.list.unwrap_or_default().models;
    if models.is_empty() {
        return Err(unexpected("a model", "an empty list"));
    }
    for line in crate::commands::models::models_table(&models).lines() {
        say(&format!("  {line}"))?;
    }
    Ok(())
}

type Numbers = (llamero_protocol::PredictResponse, Option<Duration>, Duration);

async fn private_data(
    tell: &mut Narrator,
    client: &Client,
    worker: &mut Worker,
    stage: &Stage,
) -> Result<Numbers, Failure> {
    tell.scene("Private data is masked before the model sees it; the answer is streamed")?;
    let [mail, phone, card] = PRIVATE;
    let text =
        format!("My mail is {mail}, my phone is {phone}, and my card is {card}. Repeat that.");
    say(&format!("  client:  {text}"))?;
    // Greedy and without penalty: the model shall repeat what it was given.
    let request = chat(&text, json!({ "max_tokens": 60, "temperature": 0, "repeat_penalty": 1 }));
    let mut line = Indented::begin("  model:   ")?;
    let job = nuid::next().to_string();
    let outcome = predict(client, &job, request, |text| line.add(text)).await?;
    line.end()?;
    let done = outcome.result.map_err(|error| Failure::from_worker(&error))?;
    let events = show_changes(worker, &job).await?;
    if stage.has("redact") && !is_masked(&events) {
        return Err(unexpected("masked private data", "the log above"));
    }
    Ok((done.response, outcome.first_text, outcome.total))
}

async fn long_context(
    tell: &mut Narrator,
    client: &Client,
    worker: &mut Worker,
) -> Result<(), Failure> {
    tell.scene("Retrieved context is cut to a token budget, chunk by chunk")?;
    let text = "<context>The llama is a domesticated animal of South America.\n\n\
                Llamas are kept for their wool and as pack animals.\n\n\
                A group of llamas is called a herd, and a young one is called a cria.\n\n\
                Llamas hum, and they spit when they are annoyed.</context>\n\
                What is a llama?";
    let request = chat(text, json!({ "max_tokens": 30, "temperature": 0 }));
    let mut line = Indented::begin("  model:   ")?;
    let job = nuid::next().to_string();
    let outcome = predict(client, &job, request, |text| line.add(text)).await?;
    line.end()?;
    outcome.result.map_err(|error| Failure::from_worker(&error))?;
    show_changes(worker, &job).await?;
    Ok(())
}

async fn forbidden_topic(tell: &mut Narrator, client: &Client) -> Result<(), Failure> {
    tell.scene("A hook in Python rejects a topic with a code of its own")?;
    let text = "What will the weather be like in Oslo tomorrow?";
    say(&format!("  client:  {text}"))?;
    let request = chat(text, json!({}));
    let outcome = predict(client, &nuid::next().to_string(), request, |_| Ok(())).await?;
    match outcome.result {
        Err(error) if error.hook.is_some() && error.code >= 1000 => {
            say(&format!("  worker:  {}", Failure::from_worker(&error).message))?;
            say(&format!("           after {}; nothing was generated", show(outcome.total)))
        }
        Err(error) => Err(Failure::from_worker(&error)),
        Ok(_) => Err(unexpected("a rejection", "an answer")),
    }
}

async fn crash(tell: &mut Narrator, client: &Client) -> Result<(), Failure> {
    tell.scene("A hook crashes: its request fails at once, a stream beside it goes on")?;
    let long = completion(
        "Once upon a time there was a llama",
        json!({ "max_tokens": 100, "ignore_eos": true, "seed": 7 }),
    );
    let (started, mut stream) = tokio::sync::mpsc::channel(1024);
    let neighbour = {
        let client = client.clone();
        tokio::spawn(async move {
            predict(&client, &nuid::next().to_string(), long, |_| {
                // A full channel only means that nobody counts any more.
                let _ = started.try_send(());
                Ok(())
            })
            .await
        })
    };
    if stream.recv().await.is_none() {
        return match flatten(neighbour.await)?.result {
            Err(error) => Err(Failure::from_worker(&error)),
            Ok(_) => Err(unexpected("a stream", "an answer without fragments")),
        };
    }
    say("  a story is being streamed to a first client ...")?;
    let request = chat("Please [[trap]] now.", json!({}));
    let crashed = predict(client, &nuid::next().to_string(), request, |_| Ok(())).await?;
    match crashed.result {
        Err(error) if error.code == 9 => {
            say(&format!("  worker:  {}", Failure::from_worker(&error).message))?;
            say(&format!("           after {}", show(crashed.total)))?;
        }
        Err(error) => return Err(Failure::from_worker(&error)),
        Ok(_) => return Err(unexpected("ErrHookFailed", "an answer")),
    }
    let outcome = flatten(neighbour.await)?;
    let done = outcome.result.map_err(|error| Failure::from_worker(&error))?;
    if done.fragments == Fragments::Lost {
        return Err(unexpected("an intact stream", "lost fragments"));
    }
    let tokens = done.response.usage.map_or(0, |usage| usage.completion_tokens);
    say(&format!(
        "  the first client got its story to the end: {tokens} tokens in {} fragments, {}",
        outcome.n_fragments,
        show(outcome.total)
    ))
}

async fn interrupt(tell: &mut Narrator, client: &Client) -> Result<(), Failure> {
    tell.scene("A running generation is interrupted (Ctrl-C, or llamero interrupt JOB)")?;
    let request = completion(
        "A very long list of all the animals in the world: llama,",
        json!({ "max_tokens": 1500, "ignore_eos": true, "seed": 7 }),
    );
    let job = nuid::next().to_string();
    let mut prediction = client.predict(&job, request, Delivery::Streamed).await?;
    let mut asked: Option<(Instant, tokio::task::JoinHandle<_>)> = None;
    loop {
        match next(&mut prediction).await? {
            Step::Fragment(_) if asked.is_none() => {
                let (client, job) = (client.clone(), job.clone());
                let answer =
                    tokio::spawn(async move { client.interrupt(&job, ANSWER_LIMIT).await });
                asked = Some((Instant::now(), answer));
            }
            Step::Accepted | Step::Fragment(_) | Step::Ignored => {}
            Step::Done(_) => return Err(unexpected("an interruption", "a complete answer")),
            Step::Failed(error) => {
                let Some((since, answer)) = asked.filter(|_| error.code == 8) else {
                    return Err(Failure::from_worker(&error));
                };
                say(&format!("  worker:  {}", Failure::from_worker(&error).message))?;
                let after = show(since.elapsed());
                say(&format!("           {after} after the interrupt was sent"))?;
                let answer = answer.await.map_err(anyhow::Error::from)??;
                return match answer.error {
                    None => Ok(()),
                    Some(error) => Err(Failure::from_worker(&error)),
                };
            }
        }
    }
}

/// Prints what the worker's log says about the hooks of a job.
async fn show_changes(worker: &mut Worker, job: &str) -> Result<Vec<Value>, Failure> {
    say("  what the hooks did (phase, plugin, verdict, time; - before, + after):")?;
    let events = worker.events(|event| event["job"] == job && event["plugin"].is_string()).await;
    let lines = changes::describe(&events);
    if lines.is_empty() {
        return Err(unexpected("log lines of the hooks", "none"));
    }
    for line in lines {
        say(&format!("    {line}"))?;
    }
    Ok(events)
}

/// Whether `redact` left none of the private data in the text that it changed.
fn is_masked(events: &[Value]) -> bool {
    let mut texts = events
        .iter()
        .filter(|event| event["plugin"] == "redact")
        .filter_map(|event| event["after"].as_str())
        .peekable();
    texts.peek().is_some()
        && texts.all(|text| PRIVATE.iter().all(|private| !text.contains(private)))
}

/// Runs a streamed prediction to its end.
async fn predict(
    client: &Client,
    job: &str,
    request: PredictRequest,
    mut on_text: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<Outcome, Failure> {
    let started = Instant::now();
    let mut prediction = client.predict(job, request, Delivery::Streamed).await?;
    let mut first_text = None;
    let mut n_fragments = 0;
    let result = loop {
        match next(&mut prediction).await? {
            Step::Accepted | Step::Ignored => {}
            Step::Fragment(text) => {
                first_text.get_or_insert_with(|| started.elapsed());
                n_fragments += 1;
                on_text(&text)?;
            }
            Step::Done(done) => {
                on_text(&done.rest)?;
                break Ok(done);
            }
            Step::Failed(error) => break Err(error),
        }
    };
    Ok(Outcome { result, first_text, total: started.elapsed(), n_fragments })
}

async fn next(prediction: &mut crate::client::Prediction) -> Result<Step, Failure> {
    match tokio::time::timeout(MESSAGE_LIMIT, prediction.next()).await {
        Ok(step) => Ok(step?),
        Err(_) => Err(unexpected("a message of the worker", "silence")),
    }
}

fn flatten(
    joined: Result<Result<Outcome, Failure>, tokio::task::JoinError>,
) -> Result<Outcome, Failure> {
    joined.map_err(anyhow::Error::from)?
}

fn chat(text: &str, options: Value) -> PredictRequest {
    let message = Message { role: "user".to_owned(), content: text.to_owned() };
    PredictRequest { messages: vec![message], ..with_options(options) }
}

fn completion(text: &str, options: Value) -> PredictRequest {
    PredictRequest { input: vec![text.to_owned()], ..with_options(options) }
}

fn with_options(options: Value) -> PredictRequest {
    let options = match options {
        Value::Object(map) => map.into_iter().collect(),
        _ => llamero_protocol::Options::default(),
    };
    PredictRequest { options, ..PredictRequest::default() }
}

fn unexpected(wanted: &str, found: &str) -> Failure {
    Failure::new(Exit::Failure, format!("the demo expected {wanted} and got {found}"))
}

fn show(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

/// Streamed text behind a label, its lines lined up below each other.
struct Indented {
    margin: String,
}

impl Indented {
    fn begin(label: &str) -> Result<Self, Failure> {
        output::text(label).map_err(anyhow::Error::from)?;
        Ok(Self { margin: format!("\n{}", " ".repeat(label.len())) })
    }

    fn add(&mut self, text: &str) -> Result<(), Failure> {
        output::text(&text.replace('\n', &self.margin)).map_err(anyhow::Error::from)?;
        Ok(())
    }

    fn end(self) -> Result<(), Failure> {
        say("")
    }
}
