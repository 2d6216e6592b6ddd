//! Ad hoc: loads each file of a folder by itself, and runs it.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "ad hoc")]
use llamero_hooks::*;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn rss() -> u64 {
    let s = std::fs::read_to_string("/proc/self/statm").unwrap();
    s.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = args.next().unwrap();
    let runs: usize = args.next().map_or(200, |n| n.parse().unwrap());
    let mut config =
        HostConfig { cache_dir: Some("/tmp/hooks-try-cache".into()), ..Default::default() };
    config.limits.memory_bytes = 256 << 20;
    let host = HookHost::new(config, Arc::new(NoTokenizer)).unwrap();
    let mut names: Vec<_> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "wasm"))
        .collect();
    names.sort();
    let rt =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    for path in names {
        let bytes = std::fs::read(&path).unwrap();
        let id = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let cfg = match id.as_str() {
            "system-prompt" => serde_json::json!({"text": "Be brief."}),
            "prompt-template" => serde_json::json!({"template": "Q: {{input}}\nA:"}),
            "topic-guard" => serde_json::json!({"topics": {"weapons": ["gun"]}}),
            _ => serde_json::Value::Null,
        };
        let r0 = rss();
        let settings = PluginSettings { config: cfg.clone(), ..Default::default() };
        let chain = match host.load_bytes(&[(&id, &bytes, settings)]) {
            Ok(c) => c,
            Err(e) => match host.load_bytes(&[(&id, &bytes, PluginSettings::default())]) {
                Ok(c) => {
                    println!("{id}: with config {cfg}: {}", e[0]);
                    c
                }
                Err(e) => {
                    println!("{id}: REFUSED {}", e[0]);
                    continue;
                }
            },
        };
        let info = &chain.plugins()[0];
        println!(
            "{id}: {} {} phases {:?} bytes {} compile {:?} cached {} memory {} KiB, rss {} -> {} KiB",
            info.name,
            info.version,
            info.phases,
            info.size_bytes,
            info.compile,
            info.cached,
            info.memory_bytes >> 10,
            r0,
            rss()
        );
        let mut times = vec![];
        let mut last = String::new();
        for _ in 0..runs {
            let t = Instant::now();
            let mut job =
                chain.begin(JobContext { job: "j".into(), ..Default::default() }).keep_text();
            let request = Request {
                model: "m".into(),
                content: Content::Completion {
                    system: String::new(),
                    input: vec![format!("mail bob@example.com [[{id}]]"), "x ".repeat(400)],
                },
                options: vec![("seed".into(), serde_json::json!(1))],
                wants_stream: false,
            };
            let out = rt.block_on(job.on_request(request));
            let out2 = rt.block_on(job.on_prompt(Prompt {
                model: "m".into(),
                text: format!("hello [[{id}]]"),
                tokens: 3,
                context_length: 100,
                template: None,
            }));
            times.push(t.elapsed());
            last = format!(
                "{:?} | {:?} | {:?}",
                short(format!("{out:?}")),
                short(format!("{out2:?}")),
                job.changes().iter().map(|c| (c.verdict, c.wall)).collect::<Vec<_>>()
            );
            drop(job);
        }
        times.sort();
        println!(
            "   p50 {:?} p99 {:?} max {:?} rss {} KiB; {last}",
            times[runs / 2],
            times[runs * 99 / 100],
            times[runs - 1],
            rss()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
fn short(s: String) -> String {
    s.chars().take(300).collect()
}
