#![allow(
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs,
    reason = "scratch"
)]
use llamero_engine::*;
use std::time::*;
#[test]
fn bench() {
    let path = std::path::PathBuf::from(std::env::var("HOME").unwrap())
        .join(".cache/llamero/models/SmolLM2-135M-Instruct.Q4_1.gguf");
    let threads: u32 = std::env::var("T").ok().and_then(|t| t.parse().ok()).unwrap_or(0);
    let poll: u32 = std::env::var("P").ok().and_then(|t| t.parse().ok()).unwrap_or(50);
    let t0 = Instant::now();
    let model =
        Model::load(ModelConfig { path, n_ctx: 2048, threads, poll, ..Default::default() }, |_| {
            true
        })
        .unwrap();
    println!("load {:?} threads {threads} poll {poll}; {}", t0.elapsed(), system_info());
    let t0 = Instant::now();
    let c = model.compile(&Constraint::JsonSchema("{\"type\":\"object\"}".into())).unwrap();
    println!("first compile (with token env) {:?}", t0.elapsed());
    let t0 = Instant::now();
    let _ = model
        .compile(&Constraint::JsonSchema(
            "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"}}}".into(),
        ))
        .unwrap();
    println!("second compile {:?}", t0.elapsed());
    let rt = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut seed = 12345u64;
    for n in [1usize, 4, 1, 4] {
        let start = Instant::now();
        let gens: Vec<_> = (0..n)
            .map(|_| {
                let prompt: Vec<u32> = (0..128)
                    .map(|_| {
                        seed = seed
                            .wrapping_mul(6364136223846793005)
                            .wrapping_add(1442695040888963407);
                        ((seed >> 33) % 40000 + 1000) as u32
                    })
                    .collect();
                model
                    .submit(Job {
                        prompt,
                        max_tokens: 64,
                        sampling: Sampling {
                            temperature: 0.0,
                            repeat_penalty: 1.0,
                            ignore_eos: true,
                            ..Default::default()
                        },
                        ..Default::default()
                    })
                    .unwrap()
            })
            .collect();
        let mut outs = vec![];
        rt.block_on(async {
            for mut g in gens {
                loop {
                    match g.next().await.unwrap() {
                        Event::Finished(f) => {
                            outs.push(f);
                            break;
                        }
                        Event::Failed(e) => panic!("{e}"),
                        _ => {}
                    }
                }
            }
        });
        let wall = start.elapsed();
        let ttft: Vec<_> =
            outs.iter().map(|f| (f.queue_time + f.prompt_time).as_millis()).collect();
        let rate: Vec<_> =
            outs.iter().map(|f| (63.0 / f.predict_time.as_secs_f64()) as u32).collect();
        println!(
            "{n} jobs: wall {wall:?}, {:.0} tok/s generated together, ttft ms {ttft:?}, decode tok/s each {rate:?}",
            (n * 64) as f64 / wall.as_secs_f64()
        );
    }
    // sampling + constraint cost
    for (name, s, c) in [
        (
            "greedy",
            Sampling {
                temperature: 0.0,
                repeat_penalty: 1.0,
                ignore_eos: true,
                ..Default::default()
            },
            None,
        ),
        ("default sampling", Sampling { ignore_eos: true, ..Default::default() }, None),
        ("top_k 0", Sampling { top_k: 0, ignore_eos: true, ..Default::default() }, None),
        (
            "json schema",
            Sampling { temperature: 0.0, repeat_penalty: 1.0, ..Default::default() },
            Some(c),
        ),
    ] {
        let mut g = model
            .submit(Job {
                prompt: vec![1, 2, 3, 4, 5],
                max_tokens: 100,
                sampling: s,
                constraint: c,
                ..Default::default()
            })
            .unwrap();
        let f = rt.block_on(async {
            loop {
                match g.next().await.unwrap() {
                    Event::Finished(f) => break f,
                    Event::Failed(e) => panic!("{e}"),
                    _ => {}
                }
            }
        });
        println!(
            "{name}: {:.1} tok/s over {} tokens",
            (f.completion_tokens as f64 - 1.0) / f.predict_time.as_secs_f64(),
            f.completion_tokens
        );
    }
    let rss = std::fs::read_to_string("/proc/self/status").unwrap();
    for l in rss
        .lines()
        .filter(|l| l.starts_with("VmRSS") || l.starts_with("RssAnon") || l.starts_with("VmHWM"))
    {
        println!("{l}");
    }
}
