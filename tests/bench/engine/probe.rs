//! What has to be known before anything is measured: the vocabulary's words, and
//! whether both sides compute with the same instructions and give the same text.

use llamero_tests::prompts::{Words, candidates};
use llamero_tests::random::Random;
use serde_json::{Map, json};

use crate::drivers::{Answer, Request};
use crate::processes::Programs;
use crate::sides::{Contender, Setup};

/// Entries of the vocabulary that are looked through for words. The first ones
/// are control tokens, bytes and fragments.
const ENTRIES: std::ops::Range<u32> = 1_000..16_000;

/// Fewer words than this make prompts that resemble each other.
const ENOUGH_WORDS: usize = 500;

/// Prompts of the gate, their length, and the length of the answers, in tokens.
const GATE: (usize, usize, usize) = (50, 64, 32);

/// What the probe found.
pub struct Found {
    /// Words of one token each.
    pub words: Words,
    /// What llama-server says of its instruction sets.
    pub server_info: String,
}

/// Asks a llama-server that is measured by nobody.
pub async fn ask(programs: &Programs) -> Result<Found, String> {
    let setup = Setup::new(1, 512);
    // Its instruction sets are logged with the details only.
    let verbose = ["-np", "1", "-lv", "4"].map(str::to_owned);
    let server = programs.start_server(&setup, &verbose, Map::new()).await?;
    let http = server.http().ok_or("a llama-server has no endpoints")?;
    let ids: Vec<u32> = ENTRIES.collect();
    let told = http.call("POST", "/detokenize", &json!({"tokens": ids})).await?;
    let text = told["content"].as_str().unwrap_or_default().to_owned();
    let text: String = candidates(&text).iter().map(|word| format!(" {word}")).collect();
    let body = json!({"content": text, "with_pieces": true});
    let told = http.call("POST", "/tokenize", &body).await?;
    let pieces: Vec<String> = told["tokens"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|token| token["piece"].as_str().unwrap_or_default().to_owned())
        .collect();
    let words = Words::from_pieces(&pieces);
    if words.len() < ENOUGH_WORDS {
        return Err(format!("the vocabulary gives {} words only", words.len()));
    }
    let log = server.log();
    let info = log.lines().find_map(|line| line.split_once("system_info:")).map(|(_, info)| info);
    Ok(Found { words, server_info: info.unwrap_or_default().trim().to_owned() })
}

/// The part of llama.cpp's line that names instruction sets and options: what
/// stands before it is the number of threads.
pub fn instruction_sets(info: &str) -> &str {
    info.find("CPU :").map_or(info, |at| &info[at..]).trim_end_matches(['|', ' '])
}

/// Whether both sides give the same text.
pub struct Gate {
    /// Prompts that were tried.
    pub prompts: usize,
    /// Prompts that gave the same text on both sides.
    pub equal: usize,
    /// The first difference: prompt, worker's text, llama-server's text.
    pub difference: Option<[String; 3]>,
}

/// Compares greedy texts, one request at a time. The first error ends it, and so
/// does a prompt that has not as many tokens as were asked for.
pub async fn gate(
    programs: &Programs,
    words: &Words,
    random: &mut Random,
    prompts: Option<usize>,
) -> Result<Gate, String> {
    let (usual, tokens, out) = GATE;
    let setup = Setup::new(1, 512);
    let worker = programs.start(&Contender::uncached(), &setup).await?;
    let server = programs.start(&Contender::server("-np 1 --cache-ram 0"), &setup).await?;
    let (worker, server) = (&worker.client("gate").await?, &server.client("gate").await?);
    let mut gate = Gate { prompts: prompts.unwrap_or(usual), equal: 0, difference: None };
    for _ in 0..gate.prompts {
        let request = Request::new(words.text(random, tokens), out);
        let ours = checked("the worker", tokens, worker.run(&request).await)?;
        let theirs = checked("llama-server", tokens, server.run(&request).await)?;
        if ours == theirs {
            gate.equal += 1;
        } else if gate.difference.is_none() {
            gate.difference = Some([request.prompt, ours, theirs]);
        }
    }
    Ok(gate)
}

fn checked(side: &str, tokens: usize, answer: Answer) -> Result<String, String> {
    if let Some(error) = answer.error {
        return Err(format!("the gate: {side}: {error}"));
    }
    if answer.usage.prompt != tokens as u64 {
        return Err(format!(
            "the gate: {side} counts {} tokens in a prompt of {tokens}",
            answer.usage.prompt
        ));
    }
    Ok(answer.text)
}
