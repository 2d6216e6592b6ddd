//! Loading: progress, abort, and files that are no models.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use llamero_engine::{FlashAttention, KvType, LoadError, Model, ModelConfig, system_info};

use crate::support::{alone, block_on, collect, config, job, model, model_path, own};

fn load(path: &Path) -> Result<Model, LoadError> {
    Model::load(ModelConfig { path: path.to_path_buf(), ..config() }, |_| true)
}

#[test]
fn info_is_told() {
    let info = model().info();
    assert_eq!(info.name, "SmolLM2-135M-Instruct.Q4_1.gguf");
    assert_eq!((info.n_ctx, info.n_ctx_train, info.slots), (2048, 8192, 4));
    assert_eq!(info.n_vocab, 49_152);
    assert!(info.n_params > 130_000_000 && info.n_params < 140_000_000);
    assert!(info.size_bytes > 90_000_000);
    assert!(info.description.contains("llama"), "{}", info.description);
    assert!(info.bos.is_some() && info.eos.is_some());
    let system = system_info().unwrap();
    assert!(system.features.contains("CPU"), "{system:?}");
    assert_eq!(system.kernels.is_some(), cfg!(feature = "portable"), "{system:?}");
}

#[test]
fn progress_is_reported_and_can_abort() {
    let _alone = alone();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let model = Model::load(config(), move |value| {
        assert!((0.0..=1.0).contains(&value));
        counted.fetch_add(1, Ordering::SeqCst);
        true
    })
    .unwrap();
    assert!(calls.load(Ordering::SeqCst) > 1);
    drop(model);

    let error = Model::load(config(), |value| value < 0.3).unwrap_err();
    assert!(matches!(error, LoadError::Aborted), "{error}");
    // A callback that panics aborts, and does no more.
    let error = Model::load(config(), |_| panic!("not today")).unwrap_err();
    assert!(matches!(error, LoadError::Aborted), "{error}");
}

#[test]
fn garbage_is_refused_with_a_cause() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("m.gguf");
    let refusal = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        load(&file).map(|_| ()).unwrap_err().to_string()
    };
    assert!(refusal(b"").contains("too short"));
    assert!(refusal(&[7; 4096]).contains("wrong magic"));
    let mut noise = fs::read(model_path()).unwrap()[..24].to_vec();
    noise.extend((0..200_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8));
    assert!(refusal(&noise).contains("llama.cpp cannot load"));
    assert!(matches!(load(dir.path()), Err(LoadError::NotAFile { .. })));
    assert!(matches!(load(&dir.path().join("none")), Err(LoadError::Io { .. })));
}

#[test]
fn truncated_files_are_refused_with_a_cause() {
    let bytes = fs::read(model_path()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cut.gguf");
    for share in [0.0005, 0.005, 0.02, 0.1, 0.5, 0.999] {
        let n = (bytes.len() as f64 * share) as usize;
        fs::write(&file, &bytes[..n]).unwrap();
        let error = load(&file).map(|_| ()).unwrap_err().to_string();
        assert!(!error.contains("no reason"), "{n} bytes: {error}");
    }
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let error = load(&file).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("not within the file bounds"), "{error}");
}

#[test]
fn damaged_headers_do_no_harm() {
    // A byte changed here and there in the metadata: refused or loaded, but
    // nothing worse.
    let bytes = fs::read(model_path()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("bent.gguf");
    for at in [26, 33, 60, 120, 300, 1200] {
        let mut bent = bytes.clone();
        bent[at] ^= 0xFF;
        fs::write(&file, &bent).unwrap();
        let _ = load(&file);
    }
}

#[test]
fn contexts_that_are_too_large_are_an_error() {
    let with = |n_ctx, slots| {
        Model::load(ModelConfig { n_ctx, slots, n_batch: 512, ..config() }, |_| true)
            .map(|_| ())
            .unwrap_err()
    };
    // 22.5 KiB for each of 2^31 cells are 48 TB.
    let error = with(1 << 29, 3).to_string();
    assert!(error.contains("KV cache needs"), "{error}");
    assert!(matches!(with(u32::MAX, 256), LoadError::Context { .. }));
    assert!(matches!(with(4096, 0), LoadError::Config { field: "slots", .. }));
}

#[test]
fn n_ctx_0_takes_the_trained_length() {
    let model = Model::load(ModelConfig { n_ctx: 0, slots: 1, ..config() }, |_| true).unwrap();
    assert_eq!(model.info().n_ctx, 8192);
}

#[test]
fn every_slot_count_works() {
    let _alone = alone();
    // The number of outputs has to follow, or llama.cpp aborts the process.
    for slots in [1, 7, 32] {
        let model =
            Model::load(ModelConfig { n_ctx: 256, slots, threads: 2, ..config() }, |_| true)
                .unwrap();
        let generations: Vec<_> =
            (0..slots).map(|_| model.submit(job("One, two,", 3)).unwrap()).collect();
        block_on(async {
            for generation in generations {
                assert_eq!(collect(generation).await.finished().completion_tokens, 3);
            }
        });
    }
}

#[test]
fn two_models_run_side_by_side() {
    let _alone = alone();
    let other = Model::load(config(), |_| true).unwrap();
    let a = model().submit(job("The capital of France is", 8)).unwrap();
    let b = other.submit(job("The capital of France is", 8)).unwrap();
    block_on(async {
        assert_eq!(collect(a).await.text, collect(b).await.text);
    });
}

#[test]
fn memory_is_estimated_from_the_file_alone() {
    for change in [
        |_: &mut ModelConfig| {},
        |c: &mut ModelConfig| (c.n_ctx, c.slots) = (4096, 4),
        |c: &mut ModelConfig| (c.n_ctx, c.slots, c.cache_leaves) = (512, 32, 64),
        |c: &mut ModelConfig| (c.kv_type_k, c.kv_type_v) = (KvType::Q8_0, KvType::Q4_0),
    ] {
        let mut config = config();
        change(&mut config);
        let estimated = Model::estimate(&config).unwrap();
        let model = Model::load(config, |_| true).unwrap();
        let taken = model.info().memory;
        // The file is the tensors, and some metadata.
        assert_eq!(taken.weights, model.info().size_bytes);
        assert!((taken.weights..taken.weights + (8 << 20)).contains(&estimated.weights));
        // The cache is known exactly, but llama.cpp tells it with two digits.
        assert!(estimated.kv.abs_diff(taken.kv) <= 1 << 14, "{estimated:?} {taken:?}");
        // What a step computes in is roughly known.
        let (least, most) = (taken.buffers / 2, taken.buffers * 2 + (16 << 20));
        assert!((least..most).contains(&estimated.buffers), "{estimated:?} {taken:?}");
        model.unload();
    }
}

#[test]
fn every_kv_type_generates() {
    let _alone = alone();
    for kv_type in KvType::ALL {
        let model = own(|config| {
            (config.n_ctx, config.slots) = (256, 1);
            (config.kv_type_k, config.kv_type_v) = (kv_type, kv_type);
        });
        let generation = model.submit(job("The capital of France is", 8)).unwrap();
        let outcome = block_on(collect(generation));
        assert_eq!(outcome.finished().completion_tokens, 8, "{}", kv_type.name());
        if !kv_type.is_quantised() {
            assert!(outcome.text.contains("Paris"), "{}: {}", kv_type.name(), outcome.text);
        }
    }
}

#[test]
fn quantised_values_without_flash_attention_are_refused() {
    let without = |kv_type_v| ModelConfig {
        flash_attention: FlashAttention::Off,
        kv_type_v,
        n_ctx: 256,
        ..config()
    };
    let error = Model::load(without(KvType::Q8_0), |_| true).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("without flash attention"), "{error}");
    assert!(Model::load(without(KvType::Bf16), |_| true).is_ok());
}

#[test]
fn unload_waits_for_the_last_generation() {
    let _alone = alone();
    let model = own(|config| (config.n_ctx, config.slots) = (256, 1));
    let generation = model.submit(job("One, two,", 4)).unwrap();
    let unloading = thread::spawn(move || model.unload());
    assert_eq!(block_on(collect(generation)).finished().completion_tokens, 4);
    unloading.join().unwrap();
}
