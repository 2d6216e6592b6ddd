//! `llamero embed`: vectors of texts.

use std::io::{self, IsTerminal};
use std::time::Duration;

use llamero_protocol::{EmbedRequest, EmbedResponse, encode_response};

use super::connect;
use crate::args::EmbedArgs;
use crate::client::{Client, ClientError};
use crate::exit::{Exit, Failure};
use crate::output;
use crate::prompt;
use crate::signals::Signals;

/// How long an interrupted job may take to say so before the command ends anyway.
const INTERRUPT_WAIT: Duration = Duration::from_secs(1);

/// Numbers of a vector that the table shows.
const SHOWN: usize = 4;

/// Characters of a text that the table shows.
const SHOWN_TEXT: usize = 40;

/// Runs the command.
///
/// # Errors
/// The failure to print, with its exit code.
pub async fn run(args: EmbedArgs) -> Result<Exit, Failure> {
    let texts = texts(&args.texts)?;
    let mut signals = Signals::new().map_err(anyhow::Error::from)?;
    let client = connect(&args.connect).await?;
    let job = args.job.clone().unwrap_or_else(|| nuid::next().to_string());
    let request = EmbedRequest {
        input: texts.clone(),
        model: args.model.clone().unwrap_or_default(),
        ..EmbedRequest::default()
    };
    let answer = tokio::select! {
        answer = client.embed(&job, request, args.timeout) => answer,
        _ = signals.recv() => {
            interrupt(&client, &job).await;
            return Err(Failure::new(Exit::Interrupted, "interrupted"));
        }
    };
    if matches!(answer, Err(ClientError::Timeout(_))) {
        interrupt(&client, &job).await;
    }
    let response = answer?;
    let failure = response.error.as_ref().map(Failure::from_worker);
    if args.json {
        print(&String::from_utf8_lossy(&encode_response(&response)))?;
    } else if let Some(embed) = &response.embed {
        print(&table(&texts, embed))?;
    }
    match failure {
        Some(failure) => Err(failure),
        None if response.embed.is_none() => {
            Err(Failure::new(Exit::Failure, "the worker's answer holds no vectors"))
        }
        None => Ok(Exit::Ok),
    }
}

/// The arguments, or the lines of standard input.
fn texts(arguments: &[String]) -> Result<Vec<String>, Failure> {
    let texts = if arguments.is_empty() {
        let stdin = io::stdin().lock();
        if stdin.is_terminal() {
            output::note("reading texts from the terminal, one a line; end them with Ctrl-D");
        }
        lines(&prompt::read_stdin(stdin)?)
    } else {
        arguments.to_vec()
    };
    if texts.is_empty() || texts.iter().any(String::is_empty) {
        return Err(Failure::new(Exit::Usage, "there is no text, or an empty one").with_hint(
            "write texts behind the command or pipe lines in: llamero embed < titles.txt",
        ));
    }
    Ok(texts)
}

fn lines(text: &str) -> Vec<String> {
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Failures are of no interest: the user wants to leave.
async fn interrupt(client: &Client, job: &str) {
    let _ = client.interrupt(job, INTERRUPT_WAIT).await;
}

fn print(text: &str) -> Result<(), Failure> {
    output::line(text).map_err(|error| {
        Failure::new(Exit::Failure, format!("standard output cannot be written: {error}"))
    })?;
    Ok(())
}

/// One row a text.
fn table(texts: &[String], embed: &EmbedResponse) -> String {
    let mut table = output::table(&["TEXT", "DIMENSIONS", "FIRST VALUES"]);
    for (text, vector) in texts.iter().zip(&embed.embeddings) {
        let mut values: Vec<String> =
            vector.iter().take(SHOWN).map(|value| format!("{value:.4}")).collect();
        if vector.len() > SHOWN {
            values.push("...".to_owned());
        }
        table.add_row(vec![short(text), vector.len().to_string(), values.join(" ")]);
    }
    table.trim_fmt()
}

/// The beginning of a text, on one line.
fn short(text: &str) -> String {
    let line = text.replace(char::is_control, " ");
    match line.char_indices().nth(SHOWN_TEXT) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn every_argument_or_line_is_a_text() {
        let arguments = ["two words", "x"].map(str::to_owned);
        assert_eq!(texts(&arguments).unwrap(), arguments);
        assert_eq!(lines("a b\n\nc\r\n"), ["a b", "c"]);
        let failure = texts(&[String::new()]).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
    }

    #[test]
    fn vectors_have_a_row_each() {
        let embed = EmbedResponse {
            embeddings: vec![vec![0.5, -0.25, 0.125, 0.0, 1.0], vec![1.0]],
            ..EmbedResponse::default()
        };
        let texts = [format!("{}\nb", "a".repeat(50)), "short".to_owned()];
        let shown = table(&texts, &embed);
        let rows: Vec<&str> = shown.lines().collect();
        assert_eq!(rows.len(), 3, "{shown}");
        assert!(rows[1].starts_with(&format!("{}...", "a".repeat(40))), "{shown}");
        assert!(rows[1].ends_with("0.5000 -0.2500 0.1250 0.0000 ..."), "{shown}");
        assert!(rows[2].starts_with("short") && rows[2].ends_with("1.0000"), "{shown}");
    }
}
