//! Hosts, requests and expectations that the topics share.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use llamero_hooks::{
    Chain, Content, Failure, FailureKind, HookHost, HostConfig, JobContext, ModelInfo, Phase,
    PluginSettings, Prompt, PromptOutcome, Request, RequestOutcome, Services, TokenizerError,
    TokenizerService,
};
use tokio::runtime::Runtime;

use crate::guest::Guest;

/// Knows the model `m`, and one token per character, or per span of a prompt's
/// markup.
pub struct Letters;

impl Letters {
    fn known(model: &str) -> Result<(), TokenizerError> {
        if model == "m" { Ok(()) } else { Err(TokenizerError::UnknownModel(model.to_owned())) }
    }
}

impl TokenizerService for Letters {
    fn describe(&self, model: &str) -> Result<ModelInfo, TokenizerError> {
        Self::known(model)?;
        Ok(ModelInfo {
            name: model.to_owned(),
            context_length: 2048,
            vocabulary_size: 49152,
            bos: Some(1),
            eos: None,
        })
    }

    fn count(&self, model: &str, text: &str) -> Result<u32, TokenizerError> {
        Self::known(model)?;
        Ok(u32::try_from(text.chars().count()).unwrap())
    }

    fn encode(&self, model: &str, text: &str, _: bool) -> Result<Vec<u32>, TokenizerError> {
        Self::known(model)?;
        Ok(text.chars().map(u32::from).collect())
    }

    fn count_prompt(
        &self,
        model: &str,
        text: &str,
        markup: &[Range<usize>],
    ) -> Result<u32, TokenizerError> {
        let control: usize = markup.iter().map(|span| text[span.clone()].chars().count()).sum();
        let plain = self.count(model, text)? - u32::try_from(control).unwrap();
        Ok(plain + u32::try_from(markup.len()).unwrap())
    }

    fn decode(&self, model: &str, tokens: &[u32]) -> Result<String, TokenizerError> {
        Self::known(model)?;
        Ok(tokens.iter().filter_map(|t| char::from_u32(*t)).collect())
    }
}

/// Generous in time, because test machines are busy; tests of a limit set their
/// own.
pub fn config() -> HostConfig {
    let mut config = HostConfig {
        max_instances: 8,
        trial_wall: Duration::from_secs(60),
        ..HostConfig::default()
    };
    config.limits.wall = Duration::from_secs(60);
    config.limits.cpu = Duration::from_secs(10);
    config.limits.push_wall = Duration::from_secs(60);
    config.limits.push_cpu = Duration::from_secs(10);
    config.limits.observer_wall = Duration::from_secs(60);
    config.limits.observer_cpu = Duration::from_secs(10);
    config.limits.hold_time = Duration::from_secs(60);
    config
}

pub fn host_with(change: impl FnOnce(&mut HostConfig)) -> HookHost {
    let mut config = config();
    change(&mut config);
    HookHost::new(config, Services::new(Arc::new(Letters))).unwrap()
}

pub fn host() -> HookHost {
    host_with(|_| {})
}

/// Loads guests in order, as plugins `a`, `b`, `c` and so on.
pub fn chain(host: &HookHost, guests: &[&Guest]) -> Chain {
    let modules: Vec<Vec<u8>> = guests.iter().map(|guest| guest.module()).collect();
    let ids = ["a", "b", "c", "d"];
    let plugins: Vec<_> = ids
        .into_iter()
        .zip(&modules)
        .map(|(id, module)| (id, module.as_slice(), PluginSettings::default()))
        .collect();
    assert_eq!(plugins.len(), guests.len());
    host.load_bytes(&plugins).unwrap()
}

/// The cause for which one plugin is refused.
pub fn refusal(host: &HookHost, bytes: &[u8]) -> String {
    refusal_with(host, bytes, PluginSettings::default())
}

pub fn refusal_with(host: &HookHost, bytes: &[u8], settings: PluginSettings) -> String {
    let errors = host.load_bytes(&[("bad", bytes, settings)]).unwrap_err();
    let [error] = errors.as_slice() else {
        panic!("one error expected: {errors:?}");
    };
    assert_eq!(error.plugin, "bad");
    error.to_string()
}

pub fn context() -> JobContext {
    JobContext {
        job: "job-1".to_owned(),
        subject: "llm.worker".to_owned(),
        worker: "w1".to_owned(),
        ..JobContext::default()
    }
}

pub fn request() -> Request {
    Request {
        model: "m".to_owned(),
        content: Content::Completion {
            system: "be kind".to_owned(),
            input: vec!["hello".to_owned()],
        },
        options: vec![("seed".to_owned(), serde_json::json!(7))],
        wants_stream: false,
    }
}

pub fn prompt() -> Prompt {
    Prompt {
        model: "m".to_owned(),
        text: "be kind hello".to_owned(),
        markup: Vec::new(),
        tokens: 13,
        context_length: 2048,
        template: None,
    }
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
}

/// One job's request phase.
pub fn on_request(chain: &Chain) -> RequestOutcome {
    runtime().block_on(chain.begin(context()).on_request(request()))
}

/// One job's prompt phase.
pub fn on_prompt(chain: &Chain) -> PromptOutcome {
    runtime().block_on(chain.begin(context()).on_prompt(prompt()))
}

#[track_caller]
pub fn continued(outcome: RequestOutcome) -> Request {
    match outcome {
        RequestOutcome::Continue(request) => request,
        other => panic!("expected to continue: {other:?}"),
    }
}

#[track_caller]
pub fn responded(outcome: RequestOutcome) -> String {
    match outcome {
        RequestOutcome::Responded(text) => text,
        other => panic!("expected an answer: {other:?}"),
    }
}

#[track_caller]
pub fn failed(outcome: RequestOutcome, plugin: &str, kind: FailureKind) -> Failure {
    let RequestOutcome::Failed(failure) = outcome else {
        panic!("expected failure {kind} of {plugin}: {outcome:?}");
    };
    assert_eq!(
        (failure.plugin.as_str(), failure.phase, failure.kind),
        (plugin, Phase::Request, kind),
        "{}",
        failure.detail
    );
    failure
}
