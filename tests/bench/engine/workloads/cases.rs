//! The table of cases: work, setup, the ways in which llama-server is run, and
//! the bars.

use llamero_tests::bars::Bar;

use super::Work;
use crate::sides::{Contender, Setup};

/// One case of a workload.
#[derive(Debug, Clone)]
pub struct Case {
    /// Name on the command line and of its file of results: the workload's, with
    /// the size behind it where there are several.
    pub id: &'static str,
    /// What is done, for people.
    pub title: &'static str,
    /// The work.
    pub work: Work,
    /// What both sides are given.
    pub setup: Setup,
    /// llama-server: the first one is the default, or what comes closest to it
    /// where the default cannot do the work; the others are for the best of them.
    pub servers: Vec<Contender>,
    /// Figures and their bars.
    pub bars: Vec<(&'static str, Bar)>,
    /// Part of a quick run.
    pub is_quick: bool,
}

impl Case {
    /// All that are measured: the worker first.
    pub fn contenders(&self) -> Vec<Contender> {
        let mut all = vec![Contender::worker()];
        if let Work::Repeat { drafts } = &self.work {
            all.extend(drafts.iter().map(|tokens| Contender::drafting(*tokens)));
        }
        all.extend(self.servers.iter().cloned());
        all
    }

    /// True if the command line's `name` means this case: by its id, or by its
    /// workload.
    pub fn is_named(&self, name: &str) -> bool {
        self.id == name || self.id.split('-').next() == Some(name)
    }
}

/// All cases, in the order in which they are run and reported.
pub fn all() -> Vec<Case> {
    let server = Contender::server;
    vec![
        Case {
            id: "b1",
            title: "1 client; prompts of 32, 512 and 2,048 tokens, 128 out",
            work: Work::Single { prompts: vec![32, 512, 2_048] },
            setup: Setup::new(4, 2_304),
            servers: vec![server(""), Contender::server_top_k("-np 1 --cache-ram 0")],
            bars: vec![
                ("first token, 32 in (ms)", Bar::RatioAtMost(1.05)),
                ("first token, 512 in (ms)", Bar::RatioAtMost(1.05)),
                ("first token, 2048 in (ms)", Bar::RatioAtMost(1.05)),
                ("decode, 32 in (tok/s)", Bar::RatioAtLeast(1.0)),
                ("decode, 512 in (tok/s)", Bar::RatioAtLeast(1.0)),
                ("decode, 2048 in (tok/s)", Bar::RatioAtLeast(1.0)),
            ],
            is_quick: true,
        },
        Case {
            id: "b2-8",
            title: "8 clients at once; 128 in, 128 out, nothing shared",
            work: Work::Crowd { clients: 8, shared: 0, own: 128, out: 128 },
            setup: Setup::new(8, 512),
            servers: vec![
                server(""),
                server("-np 8"),
                server("-np 8 -b 512 -ub 512 --cache-ram 0"),
                Contender::server_top_k("-np 8 --cache-ram 0"),
            ],
            bars: vec![
                ("all clients (tok/s)", Bar::RatioAtLeast(1.0)),
                ("worst gap (ms)", Bar::RatioAtMost(0.25)),
            ],
            is_quick: true,
        },
        Case {
            id: "b2-32",
            title: "32 clients at once; 128 in, 128 out, nothing shared",
            work: Work::Crowd { clients: 32, shared: 0, own: 128, out: 128 },
            setup: Setup::new(32, 512),
            servers: vec![
                server(""),
                server("-np 32"),
                server("-np 32 -b 512 -ub 512 --cache-ram 0"),
            ],
            bars: vec![
                ("all clients (tok/s)", Bar::RatioAtLeast(1.05)),
                ("worst gap (ms)", Bar::RatioAtMost(0.25)),
            ],
            is_quick: false,
        },
        Case {
            id: "b3-8",
            title: "8 clients at once; 1,024 shared and 64 own in, 32 out, cold",
            work: Work::Crowd { clients: 8, shared: 1_024, own: 64, out: 32 },
            setup: Setup::new(8, 1_280),
            servers: vec![
                server(""),
                server("-np 8"),
                server("-np 8 -kvu -b 512 -ub 512 --cache-ram 0"),
            ],
            bars: vec![("last first token (ms)", Bar::RatioAtMost(1.0 / 4.0))],
            is_quick: false,
        },
        Case {
            id: "b3-32",
            title: "32 clients at once; 1,024 shared and 64 own in, 32 out, cold",
            work: Work::Crowd { clients: 32, shared: 1_024, own: 64, out: 32 },
            setup: Setup::new(32, 1_280),
            servers: vec![server(""), server("-np 32"), server("-np 8 -kvu --cache-ram 0")],
            bars: vec![("last first token (ms)", Bar::RatioAtMost(1.0 / 8.0))],
            is_quick: false,
        },
        Case {
            id: "b4",
            title: "4 streams run; a prompt of 4,096 tokens arrives",
            work: Work::Intrude { streams: 4, prompt: 4_096 },
            setup: Setup::new(5, 4_352),
            // With its default of 4 slots the long prompt would only wait.
            servers: vec![
                server("-np 5 -kvu"),
                server("-np 5 -kvu -b 512 -ub 512"),
                server("-np 5 -kvu -b 256 -ub 256 --cache-ram 0"),
            ],
            bars: vec![
                ("worst gap of the streams (ms)", Bar::RatioAtMost(0.25)),
                ("first token of the long prompt (ms)", Bar::RatioAtMost(1.25)),
            ],
            is_quick: true,
        },
        Case {
            id: "b5",
            title: "one slot; a prompt of 4,096 tokens is cancelled while it is computed, and a \
                    request waits",
            work: Work::Cancel { prompt: 4_096 },
            setup: Setup::new(1, 4_352),
            servers: vec![server("-np 1")],
            bars: vec![("cancel until the next job computes, p99 (ms)", Bar::AtMost(20.0))],
            is_quick: true,
        },
        Case {
            id: "b6",
            title: "8 clients at once; 64 in, 128 out that match a JSON schema",
            work: Work::Schema { clients: 8 },
            setup: Setup::new(8, 512),
            servers: vec![server("-np 8")],
            bars: vec![("with schema / without", Bar::AtLeast(0.95))],
            is_quick: false,
        },
        Case {
            id: "b9",
            title: "16 clients for 60 s whose jobs need twice the KV cells there are",
            work: Work::Full { clients: 16, seconds: 60 },
            setup: Setup { slots: 16, ctx: 512, cells: 4_096 },
            // With its default of 4 slots nothing could be short.
            servers: vec![server("-np 16 -kvu")],
            bars: vec![("failed jobs", Bar::AtMost(0.0))],
            is_quick: false,
        },
        Case {
            id: "b10",
            title: "one client keeps 31 streams running; another sends a request every 2 s for \
                    40 s",
            work: Work::Neighbour { streams: 31, seconds: 40 },
            setup: Setup::new(32, 512),
            servers: vec![server(""), server("-np 32")],
            bars: vec![("beside the streams / alone", Bar::AtMost(2.0))],
            is_quick: false,
        },
        Case {
            id: "b11",
            title: "resident memory, idle and with 32 streams of 128 in and 64 out",
            work: Work::Memory { streams: 32 },
            setup: Setup::new(32, 256),
            servers: vec![server("-np 32 --cache-ram 0")],
            bars: vec![
                ("RSS idle (MiB)", Bar::ExcessAtMost(10.0)),
                ("RSS at most, all streams (MiB)", Bar::ExcessAtMost(10.0)),
            ],
            is_quick: false,
        },
        Case {
            id: "b14",
            title: "4 streams run; two further models are loaded, the first of them unloaded again",
            work: Work::Swap { streams: 4 },
            setup: Setup::new(4, 1_024),
            // llama-server keeps one model in a process.
            servers: Vec::new(),
            bars: vec![("while loading / steady", Bar::AtMost(1.5))],
            is_quick: false,
        },
        Case {
            id: "b15",
            title: "1 client; a text to repeat, code to go on with, and free text, 128 out; the \
                    worker without and with drafts",
            work: Work::Repeat { drafts: vec![4, 8] },
            setup: Setup::new(4, 1_024),
            servers: Vec::new(),
            bars: Vec::new(),
            is_quick: true,
        },
    ]
}
