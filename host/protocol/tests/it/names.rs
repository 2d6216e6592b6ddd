//! Model names and subjects.

use llamero_protocol::{
    DEFAULT_STREAM_SUBJECTS, check_model_name, check_stream_subject, check_subject_pattern,
    is_listed_model_name, subject_matches,
};

#[test]
fn model_names() {
    for name in ["m.gguf", "m.bin", "a b.gguf", "m-00001-of-00003.gguf", "m-2-of-3.gguf", "m..gguf"]
    {
        assert_eq!(check_model_name(name), Ok(()), "{name}");
        assert!(is_listed_model_name(name), "{name}");
    }
    let long = format!("{}.gguf", "m".repeat(255));
    let refused = [
        "",
        ".",
        "..",
        ".m.gguf",
        "m\0.gguf",
        "m.txt",
        "gguf",
        "m.GGUF",
        "m-00002-of-00003.gguf",
        "/etc/m.gguf",
        "a/m.gguf",
        "a\\m.gguf",
        &long,
    ];
    for name in refused {
        assert_eq!(check_model_name(name).unwrap_err().code, 10, "{name:?}");
    }
    for name in ["../m.gguf", "a\\b", "/"] {
        assert_eq!(
            check_model_name(name).unwrap_err().error,
            "model name cannot contain path separators"
        );
    }
}

#[test]
fn matching_follows_nats() {
    let table = [
        ("_INBOX.>", "_INBOX.s", true),
        ("_INBOX.>", "_INBOX.a.b.c", true),
        ("_INBOX.>", "_INBOX", false),
        ("_INBOX.>", "_inbox.s", false),
        ("_INBOX.>", "x._INBOX.s", false),
        ("a.*.c", "a.b.c", true),
        ("a.*.c", "a.c", false),
        ("a.*.c", "a.b.b.c", false),
        ("a.*", "a.b.c", false),
        ("*", "a", true),
        (">", "a.b", true),
        ("a.b", "a.b", true),
        ("a.b", "a.b.c", false),
        ("a.b.c", "a.b", false),
    ];
    for (pattern, subject, matches) in table {
        assert_eq!(subject_matches(pattern, subject), matches, "{pattern} {subject}");
    }
}

#[test]
fn stream_subjects() {
    let inboxes: Vec<String> =
        DEFAULT_STREAM_SUBJECTS.iter().map(|&subject| subject.to_owned()).collect();
    let all = vec![">".to_owned()];
    for subject in ["_INBOX.s", "_INBOX.a.b"] {
        assert_eq!(check_stream_subject(subject, &inboxes), Ok(()));
    }
    assert!(check_stream_subject("llm.other", &inboxes).is_err());
    assert_eq!(check_stream_subject("llm.other", &all), Ok(()));
    assert!(check_stream_subject("_INBOX.s", &[]).is_err());
    let long = format!("_INBOX.{}", "s".repeat(249));
    for subject in [
        "",
        "_INBOX.>",
        "_INBOX.*",
        "$SYS.x",
        "a..b",
        ".a",
        "a.",
        "a b",
        "a\tb",
        "a\r\nPUB b",
        "a\u{a0}b",
        "a\0",
        &long,
    ] {
        assert!(check_stream_subject(subject, &all).is_err(), "{subject:?}");
    }
    assert_eq!(check_stream_subject(&long[..255], &all), Ok(()));
}

#[test]
fn patterns_of_the_operator() {
    for pattern in ["_INBOX.>", "a.*.b", ">", "*", "tenant-1.inbox.>"] {
        assert_eq!(check_subject_pattern(pattern), Ok(()), "{pattern}");
    }
    for pattern in ["", "a.>.b", "a.b>", "a*", "a b", "a..b"] {
        assert!(check_subject_pattern(pattern).is_err(), "{pattern}");
    }
}
