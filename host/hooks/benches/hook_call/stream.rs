//! What a stream filter that does nothing costs each piece of text.
//!
//! `push` is a piece on its way through the filter while the next ones wait behind
//! it, as when several tokens were decoded meanwhile: the call and everything around
//! it. `there-and-back` is a piece that goes through an idle pipeline alone, so that
//! two threads have to be woken for it: how much later it is sent, not what it costs.

use std::time::{Duration, Instant};

use criterion::Criterion;
use llamero_hooks::{Chain, FinishReason, JobContext, Outgoing, OutgoingPipe, Usage};

use crate::calls::Group;
use crate::guest::Guest;
use crate::{call, host, ready, request, runtime};

/// Pieces of one job, about as many as an answer has tokens.
const PIECES: u64 = 256;

/// A job whose output goes through the chain, and its pipe.
async fn open(chain: &Chain) -> (llamero_hooks::JobHooks, OutgoingPipe) {
    let mut job = chain.begin(JobContext::default());
    call(&mut job, request()).await;
    let pipe = job.open(true).await.unwrap().expect("the filter takes part");
    (job, pipe)
}

async fn text(pipe: &mut OutgoingPipe) {
    match pipe.next().await {
        Outgoing::Text(_) => {}
        other => panic!("{other:?}"),
    }
}

async fn close(mut pipe: OutgoingPipe) {
    pipe.close(FinishReason::Stop, Usage::default());
    assert!(matches!(pipe.next().await, Outgoing::Done(_)));
}

async fn together(chain: &Chain, pieces: u64) -> Duration {
    let (_job, mut pipe) = open(chain).await;
    let texts: Vec<_> = (0..pieces).map(|_| " token".to_owned()).collect();
    let began = Instant::now();
    for text in texts {
        pipe.push(text, Vec::new());
    }
    for _ in 0..pieces {
        text(&mut pipe).await;
    }
    let took = began.elapsed();
    close(pipe).await;
    took
}

async fn one_by_one(chain: &Chain, pieces: u64) -> Duration {
    let (_job, mut pipe) = open(chain).await;
    let mut took = Duration::ZERO;
    for _ in 0..pieces {
        let piece = " token".to_owned();
        let began = Instant::now();
        pipe.push(piece, Vec::new());
        text(&mut pipe).await;
        took += began.elapsed();
    }
    close(pipe).await;
    took
}

pub fn benches(c: &mut Criterion) {
    let mut group = Group::new(c, "stream");
    let host = host();
    // It wants every token's text and lets it pass.
    let plugin = Guest::filtering(|image| image.case(0), |image| image.case(0)).module();
    let chain = host.load_bytes(&[("a", plugin.as_slice(), ready(2))]).unwrap();
    let runtime = runtime();
    for (name, alone) in [("push", false), ("there-and-back", true)] {
        group.loops(name, |n| {
            runtime.block_on(async {
                let (mut left, mut took) = (n, Duration::ZERO);
                while left > 0 {
                    let pieces = left.min(PIECES);
                    took += if alone {
                        one_by_one(&chain, pieces).await
                    } else {
                        together(&chain, pieces).await
                    };
                    left -= pieces;
                }
                took
            })
        });
    }
}
