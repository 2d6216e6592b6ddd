//! LoRA adapters with the real model: their effect, what is kept, what is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llamero_engine::{Adapter, AdapterError, AdapterRoom, Job, Model, SubmitError, is_adapter};
use tempfile::TempDir;

use crate::lora_file::{LoraFile, Tensor};
use crate::support::{Outcome, alone, block_on, collect, greedy, job, model_path, own};

/// A folder with some adapters.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn lora(&self, seed: u32) -> PathBuf {
        self.file(&format!("{seed}.gguf"), &LoraFile::new(seed).bytes())
    }
}

fn with(job: &Job, adapters: &[(&Adapter, f32)]) -> Job {
    let adapters = adapters.iter().map(|(adapter, scale)| ((*adapter).clone(), *scale));
    Job { adapters: adapters.collect(), ..job.clone() }
}

fn run(model: &Model, job: Job) -> Outcome {
    block_on(collect(model.submit(job).expect("job is accepted")))
}

/// Continues this for a while, whatever the model thinks of it.
fn long(text: &str) -> Job {
    let mut job = job(text, 16);
    job.sampling.ignore_eos = true;
    job
}

#[test]
fn an_adapter_changes_what_is_said() {
    let _alone = alone();
    let (folder, model) = (Folder::new(), own(|_| {}));
    let (one, two) =
        (model.adapter(&folder.lora(1)).unwrap(), model.adapter(&folder.lora(2)).unwrap());
    let job = long("The capital of France is");
    let text = |adapters: &[(&Adapter, f32)]| run(&model, with(&job, adapters)).text;
    let base = text(&[]);
    assert!(base.contains("Paris"), "{base:?}");
    let first = text(&[(&one, 1.0)]);
    let second = text(&[(&two, 1.0)]);
    assert_ne!(first, base);
    assert_ne!(second, base);
    assert_ne!(first, second);
    // Nothing of it stays behind, and it has the same effect again.
    assert_eq!(text(&[]), base);
    assert_eq!(text(&[(&one, 1.0)]), first);
    // Without weight it is as if it were not there, alone and beside another one.
    assert_eq!(text(&[(&one, 0.0)]), base);
    assert_eq!(text(&[(&one, 0.0), (&two, 1.0)]), second);
    // The order does not matter, the scale does.
    assert_eq!(text(&[(&one, 0.5), (&two, 1.0)]), text(&[(&two, 1.0), (&one, 0.5)]));
    assert_eq!(text(&[(&one, 0.75), (&one, 0.25)]), first, "scales add up");
    assert_ne!(text(&[(&one, -1.0)]), first);
}

#[test]
fn together_they_give_what_they_give_alone() {
    let _alone = alone();
    let (folder, model) = (Folder::new(), own(|_| {}));
    let adapters = [1, 2].map(|seed| model.adapter(&folder.lora(seed)).unwrap());
    // What else is in the cache changes the last bits of logits, and with them sooner
    // or later a choice between two all but equal tokens. So few are compared.
    let job = Job { max_tokens: 2, ..long("Once upon a time") };
    let jobs =
        [with(&job, &[]), with(&job, &[(&adapters[0], 1.0)]), with(&job, &[(&adapters[1], 1.0)])];
    let alone: Vec<String> = jobs.iter().map(|job| run(&model, job.clone()).text).collect();
    let before = model.stats().steps;
    let generations: Vec<_> = jobs.iter().map(|job| model.submit(job.clone()).unwrap()).collect();
    let together = block_on(async {
        let mut texts = Vec::new();
        for generation in generations {
            texts.push(collect(generation).await.text);
        }
        texts
    });
    assert_eq!(together, alone);
    assert_eq!(model.stats().steps - before, 3 * 2, "no step held two of them");
}

#[test]
fn prefixes_are_not_shared_with_other_adapters() {
    let _alone = alone();
    let (folder, model) = (Folder::new(), own(|_| {}));
    let adapter = model.adapter(&folder.lora(1)).unwrap();
    let line = "You are a helpful assistant who answers in one short sentence. ";
    let prompt = model.tokenizer().encode(&line.repeat(10), false).unwrap();
    let job = Job { prompt, max_tokens: 4, sampling: greedy(), ..Job::default() };
    let cached = |job: Job| run(&model, job).finished().cached_tokens;
    let adapted = |scale| with(&job, &[(&adapter, scale)]);
    assert_eq!(cached(job.clone()), 0);
    assert_eq!(cached(adapted(1.0)), 0);
    assert_eq!(cached(adapted(0.5)), 0, "another scale is another set");
    assert!(cached(job.clone()) > 0);
    assert!(cached(adapted(1.0)) > 0);
    assert!(cached(adapted(0.5)) > 0);
    assert!(cached(adapted(0.0)) > 0, "that is no adapter");
}

#[test]
fn so_many_are_kept_and_no_more() {
    let _alone = alone();
    let (folder, model) = (Folder::new(), own(|c| c.max_adapters = 1));
    let (one, two) = (folder.lora(1), folder.lora(2));
    let held = model.adapter(&one).unwrap();
    // The same one is there already.
    model.adapter(&one).unwrap();
    let full = model.adapter(&two).unwrap_err();
    assert!(matches!(full, AdapterError::Full { max: 1 }), "{full}");
    // A job that runs holds it as well.
    let job = Job { max_tokens: 200, ..long("Once upon a time") };
    let generation = model.submit(with(&job, &[(&held, 1.0)])).unwrap();
    drop(held);
    assert!(model.adapter(&two).is_err());
    generation.cancel();
    block_on(collect(generation));
    crate::support::wait("the job's adapter", || model.adapter(&two).is_ok());
    // The context still has the first one set, which nobody can see.
    let text = run(&model, long("Once upon a time")).text;
    assert!(!text.is_empty());

    let none = own(|c| c.max_adapters = 0);
    assert!(matches!(none.adapter(&one), Err(AdapterError::Off)));
}

/// Room for one adapter at a time, by the count of its holders.
fn for_one(
    taken: &Arc<()>,
    bytes: u64,
    spare: &mut dyn FnMut() -> bool,
) -> Result<AdapterRoom, AdapterError> {
    let values: usize = LoraFile::new(1).tensors.iter().map(|tensor| tensor.values.len()).sum();
    assert_eq!(bytes, values as u64 * 4);
    while Arc::strong_count(taken) > 1 {
        if !spare() {
            return Err(AdapterError::Off);
        }
    }
    Ok(Box::new(Arc::clone(taken)))
}

#[test]
fn room_is_asked_for_and_kept_as_long_as_the_adapter() {
    let _alone = alone();
    let (folder, model) = (Folder::new(), own(|_| {}));
    let (one, two) = (folder.lora(1), folder.lora(2));
    let taken = Arc::new(());
    let load = |path: &Path| model.adapter_within(path, |n, spare| for_one(&taken, n, spare));
    let held = load(&one).unwrap();
    assert!(load(&one).is_ok(), "nothing is asked for what is loaded");
    assert!(load(&two).is_err(), "the first one is in use");
    // A job that runs holds it as well.
    let job = Job { max_tokens: 200, ..long("Once upon a time") };
    let generation = model.submit(with(&job, &[(&held, 1.0)])).unwrap();
    drop(held);
    assert!(load(&two).is_err());
    generation.cancel();
    block_on(collect(generation));
    crate::support::wait("the job's adapter", || load(&two).is_ok());
    assert_eq!(Arc::strong_count(&taken), 2, "one is kept");
    // A file that is refused keeps no room, and one without room is not loaded.
    let cut = LoraFile::new(3).bytes();
    assert!(load(&folder.file("cut.gguf", &cut[..cut.len() / 2])).is_err());
    assert_eq!(Arc::strong_count(&taken), 2);
    drop(model);
    crate::support::wait("the end of the model", || Arc::strong_count(&taken) == 1);
}

#[test]
fn a_file_that_was_replaced_is_loaded_again() {
    let _alone = alone();
    let (folder, model) = (Folder::new(), own(|_| {}));
    let path = folder.lora(1);
    let job = long("The capital of France is");
    let text = || run(&model, with(&job, &[(&model.adapter(&path).unwrap(), 1.0)])).text;
    let before = text();
    let mut other = LoraFile::new(2);
    other.tensors.truncate(2);
    folder.file("1.gguf", &other.bytes());
    assert_ne!(text(), before);
}

#[test]
fn files_that_are_no_adapters_of_this_model() {
    let _alone = alone();
    let (folder, model) = (Folder::new(), own(|_| {}));
    let refused = |bytes: &[u8]| {
        let error = model.adapter(&folder.file("x.gguf", bytes)).unwrap_err();
        assert!(!error.to_string().contains("x.gguf"), "a path: {error}");
        error
    };
    let spoilt = |spoil: fn(&mut LoraFile)| {
        let mut lora = LoraFile::new(1);
        spoil(&mut lora);
        refused(&lora.bytes())
    };
    let missing = model.adapter(&folder.0.path().join("none.gguf")).unwrap_err();
    assert!(matches!(missing, AdapterError::Io(_)), "{missing}");
    assert!(model.adapter(folder.0.path()).is_err());
    assert!(matches!(model.adapter(&model_path()), Err(AdapterError::NotAnAdapter)));
    assert!(!is_adapter(&model_path()) && is_adapter(&folder.lora(1)));
    assert!(matches!(refused(b""), AdapterError::Invalid { .. }));
    assert!(matches!(refused(&[7; 4096]), AdapterError::Invalid { .. }));

    let error = spoilt(|lora| lora.architecture = "qwen2");
    assert!(matches!(error, AdapterError::Architecture { .. }), "{error}");
    assert!(matches!(spoilt(|lora| lora.general_type = "model"), AdapterError::NotAnAdapter));
    for error in [
        spoilt(|lora| lora.adapter_type = "other"),
        spoilt(|lora| lora.alpha = f32::NAN),
        spoilt(|lora| lora.tensors[2].values[7] = f32::INFINITY),
        spoilt(|lora| lora.tensors.clear()),
        spoilt(|lora| lora.tensors.truncate(3)),
        spoilt(|lora| lora.tensors[0].name = "blk.0.attn_q.weight".into()),
        // llama.cpp would multiply these with what does not fit, and abort.
        spoilt(|lora| {
            lora.tensors = vec![
                Tensor::new("token_embd.weight.lora_a".into(), [2, 49_152], 0.1, 1),
                Tensor::new("token_embd.weight.lora_b".into(), [2, 576], 0.1, 2),
            ];
        }),
        spoilt(|lora| {
            lora.tensors[1] = Tensor::new(lora.tensors[1].name.clone(), [3, 576], 1.0, 1)
        }),
    ] {
        assert!(matches!(error, AdapterError::Invalid { .. }), "{error}");
    }
    for error in [
        // Of another model of the same architecture.
        spoilt(|lora| {
            lora.tensors[0] = Tensor::new(lora.tensors[0].name.clone(), [960, 2], 1.0, 1)
        }),
        spoilt(|lora| {
            lora.tensors[0].name = "blk.99.attn_q.weight.lora_a".into();
            lora.tensors[1].name = "blk.99.attn_q.weight.lora_b".into();
        }),
    ] {
        assert!(matches!(error, AdapterError::Refused { .. }), "{error}");
    }
    // None of it has done harm.
    assert!(run(&model, long("The capital of France is")).text.contains("Paris"));
}

#[test]
fn damaged_files_do_no_harm() {
    let _alone = alone();
    let (folder, model) = (Folder::new(), own(|_| {}));
    let bytes = LoraFile::new(1).bytes();
    for share in [0.0005, 0.005, 0.01, 0.02, 0.1, 0.5, 0.99] {
        let n = (bytes.len() as f64 * share) as usize;
        let cut = model.adapter(&folder.file("cut.gguf", &bytes[..n]));
        assert!(cut.is_err(), "{n} bytes");
    }
    // A byte changed anywhere in the header: refused or loaded, but nothing worse,
    // and what is loaded can be computed with.
    for at in (4..480).step_by(2) {
        for flip in [0x01, 0xFF] {
            let mut bent = bytes.clone();
            bent[at] ^= flip;
            let path = folder.file(&format!("{at}-{flip}.gguf"), &bent);
            let Ok(adapter) = model.adapter(&path) else { continue };
            let job = Job { max_tokens: 1, ..long("Once") };
            block_on(collect(model.submit(with(&job, &[(&adapter, 1.0)])).unwrap()));
        }
    }
}

#[test]
fn jobs_with_wrong_adapters_are_refused() {
    let _alone = alone();
    let (folder, model, other) = (Folder::new(), own(|_| {}), own(|_| {}));
    let job = long("Once upon a time");
    let adapters: Vec<Adapter> =
        (1..6).map(|seed| model.adapter(&folder.lora(seed)).unwrap()).collect();
    let submit = |model: &Model, adapters: &[(&Adapter, f32)]| {
        model.submit(with(&job, adapters)).map(drop).unwrap_err()
    };
    assert_eq!(submit(&other, &[(&adapters[0], 1.0)]), SubmitError::ForeignAdapter);
    assert_eq!(submit(&model, &[(&adapters[0], f32::NAN)]), SubmitError::AdapterScale);
    let all: Vec<_> = adapters.iter().map(|adapter| (adapter, 1.0)).collect();
    assert_eq!(submit(&model, &all), SubmitError::TooManyAdapters { n: 5, max: 4 });
    assert!(!run(&model, with(&job, &all[..4])).text.is_empty());
    // An adapter may outlive its model, and be let go of on any thread.
    drop(model);
    let last = adapters.into_iter().next().unwrap();
    std::thread::spawn(move || drop(last)).join().unwrap();
}

#[test]
fn adapters_come_and_go_while_others_are_used() {
    let _alone = alone();
    let (folder, model) = (Folder::new(), own(|c| c.max_adapters = 3));
    let paths: Vec<PathBuf> = (1..8).map(|seed| folder.lora(seed)).collect();
    let job = Job { max_tokens: 40, ..long("Once upon a time") };
    let kept = model.adapter(&paths[0]).unwrap();
    let expected = [run(&model, job.clone()).text, run(&model, with(&job, &[(&kept, 1.0)])).text];
    let generations =
        [model.submit(job.clone()).unwrap(), model.submit(with(&job, &[(&kept, 1.0)])).unwrap()];
    let loader = {
        let model = model.clone();
        std::thread::spawn(move || {
            for path in paths[1..].iter().cycle().take(60) {
                model.adapter(path).unwrap();
            }
        })
    };
    let texts = block_on(async {
        let mut texts = Vec::new();
        for generation in generations {
            texts.push(collect(generation).await.text);
        }
        texts
    });
    loader.join().unwrap();
    for (text, expected) in texts.iter().zip(&expected) {
        // What else is in the cache changes the last bits of later tokens.
        let beginning: String = expected.chars().take(16).collect();
        assert!(text.starts_with(&beginning), "{text:?} {expected:?}");
    }
}
