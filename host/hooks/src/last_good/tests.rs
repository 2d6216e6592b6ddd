#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

const LIMIT: u64 = 1 << 20;

struct Bench {
    temp: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        for folder in ["one", "two"] {
            fs::create_dir(temp.path().join(folder)).unwrap();
        }
        Self { temp }
    }

    fn cache(&self) -> PathBuf {
        self.temp.path().join("cache")
    }

    fn open(&self, folder: &str) -> LastGood {
        LastGood::open(&self.cache(), &self.temp.path().join(folder)).unwrap()
    }
}

/// Stores content as a good version and returns its digest.
fn keep(last_good: &LastGood, id: &str, content: &str) -> String {
    let digest = artifact::digest(content.as_bytes());
    assert!(last_good.lacks(&digest));
    last_good.store(&digest, content.as_bytes());
    last_good.keep(id, &digest);
    assert!(!last_good.lacks(&digest));
    digest
}

/// Sets the time of the last change back.
fn age(path: &Path, by: Duration) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - by).unwrap();
}

#[test]
fn a_good_version_is_found_at_the_next_start_and_by_its_own_folder() {
    let bench = Bench::new();
    let one = keep(&bench.open("one"), "a", "version one");
    let other = keep(&bench.open("two"), "a", "another plugin of the same name");
    for (folder, digest, content) in
        [("one", one, "version one"), ("two", other, "another plugin of the same name")]
    {
        let last_good = bench.open(folder);
        assert_eq!(last_good.of("a").good.as_deref(), Some(digest.as_str()));
        assert_eq!(last_good.read(&digest, LIMIT).unwrap(), content.as_bytes());
        assert_eq!(last_good.of("b"), Record::default());
    }
}

#[test]
fn a_damaged_version_is_none() {
    let bench = Bench::new();
    let last_good = bench.open("one");
    let digest = keep(&last_good, "a", "version one");
    let path = bench.cache().join("last-good/files").join(format!("{digest}.wasm"));
    fs::write(&path, "version onf").unwrap();
    assert_eq!(last_good.read(&digest, LIMIT), None);
    fs::write(&path, "version").unwrap();
    assert_eq!(last_good.read(&digest, LIMIT), None);
    assert_eq!(last_good.read(&digest, 3), None, "larger than a plugin may be");
    fs::remove_file(&path).unwrap();
    assert_eq!(last_good.read(&digest, LIMIT), None);
}

#[test]
fn a_damaged_list_is_an_empty_one() {
    let bench = Bench::new();
    let last_good = bench.open("one");
    let digest = keep(&last_good, "a", "version one");
    let list = last_good.place.as_ref().unwrap().list.clone();
    for text in ["", "{", "[1]", r#"{"plugins": {"a": {"good": "../../etc/passwd"}}}"#] {
        fs::write(&list, text).unwrap();
        assert_eq!(last_good.of("a"), Record::default(), "{text}");
    }
    last_good.keep("a", &digest);
    assert_eq!(last_good.of("a").good, Some(digest));
}

#[test]
fn a_version_that_was_taken_out_is_remembered_until_it_is_forgiven() {
    let bench = Bench::new();
    let last_good = bench.open("one");
    let one = keep(&last_good, "a", "version one");
    let two = keep(&last_good, "a", "version two");
    let bad = BadDigest { digest: two.clone(), reason: "fails".to_owned() };
    last_good.rolled_back("a", bad.clone(), &one);
    let record = bench.open("one").of("a");
    assert_eq!((record.good, record.bad), (Some(one.clone()), Some(bad)));
    last_good.forgive("a");
    assert_eq!(last_good.of("a"), Record { good: Some(one), ..Record::default() });
    last_good.forget("a");
    assert_eq!(last_good.of("a"), Record::default());
}

#[test]
fn what_nothing_names_goes_when_it_is_old() {
    let bench = Bench::new();
    let last_good = bench.open("one");
    let digests: Vec<_> =
        ["one", "two", "three"].iter().map(|content| keep(&last_good, "a", content)).collect();
    let path = |digest: &str| last_good.place.as_ref().unwrap().file(digest);
    for digest in &digests {
        age(&path(digest), KEEP_FILES * 2);
    }
    let young = artifact::digest(b"young");
    last_good.store(&young, b"young");
    drop(bench.open("two"));
    let is_there = [&digests[0], &digests[1], &digests[2], &young].map(|d| path(d).exists());
    assert_eq!(is_there, [false, true, true, true], "the good one and the one before it stay");

    // The hooks folder has gone; its list follows later.
    fs::remove_dir(bench.temp.path().join("one")).unwrap();
    drop(bench.open("two"));
    assert!(path(&digests[2]).exists());
    age(&last_good.place.as_ref().unwrap().list, KEEP_LISTS * 2);
    drop(bench.open("two"));
    assert!(!path(&digests[2]).exists());
}

#[test]
fn versions_that_never_became_good_do_not_pile_up() {
    let bench = Bench::new();
    let (last_good, other) = (bench.open("one"), bench.open("two"));
    let good = keep(&last_good, "a", "good");
    let place = last_good.place.as_ref().unwrap();
    let [tried, renewed] = ["tried", "renewed"].map(|content| {
        let digest = artifact::digest(content.as_bytes());
        last_good.store(&digest, content.as_bytes());
        digest
    });
    for digest in [&good, &tried, &renewed] {
        age(&place.file(digest), KEEP_FILES * 2);
    }
    // Another worker of this cache tries a version that is there already.
    assert!(!other.lacks(&renewed));
    let there = || [&good, &tried, &renewed].map(|digest| place.file(digest).exists());

    last_good.store(&artifact::digest(b"next"), b"next");
    assert_eq!(there(), [true, true, true], "the last look was a moment ago");
    *place.cleaned.lock().unwrap() = None;
    last_good.store(&artifact::digest(b"one more"), b"one more");
    assert_eq!(there(), [true, false, true]);
}

#[test]
fn the_place_is_private() {
    let bench = Bench::new();
    keep(&bench.open("one"), "a", "version one");
    let place = bench.cache().join("last-good");
    assert_eq!(fs::metadata(&place).unwrap().mode() & 0o777, 0o700);
    fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).unwrap();
    let folder = bench.temp.path().join("one");
    let text = LastGood::open(&bench.cache(), &folder).map(drop).unwrap_err().to_string();
    assert!(text.contains("mode is 777"), "{text}");
}

#[test]
fn without_a_cache_nothing_is_kept() {
    let nowhere = LastGood::nowhere();
    let digest = artifact::digest(b"x");
    nowhere.store(&digest, b"x");
    nowhere.keep("a", &digest);
    assert!(!nowhere.lacks(&digest));
    assert_eq!((nowhere.of("a"), nowhere.read(&digest, LIMIT)), (Record::default(), None));
}
