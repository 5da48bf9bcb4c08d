//! The committed header is what `src/ffi` says. `SWN_HEADER_WRITE=1` (that is `make header`) writes it instead.

use std::path::Path;
use std::{env, fs};

const GENERATED: &str = concat!(env!("OUT_DIR"), "/swiftnet.h");

#[test]
fn committed_header_is_current() {
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/swiftnet.h");
    let generated = fs::read_to_string(GENERATED).expect("build.rs wrote it");
    if env::var_os("SWN_HEADER_WRITE").is_some() {
        fs::create_dir_all(committed.parent().unwrap()).expect("the source tree is writable");
        fs::write(&committed, &generated).expect("the source tree is writable");
    }
    let present = fs::read_to_string(&committed).unwrap_or_default();
    let line = present
        .lines()
        .zip(generated.lines())
        .position(|(a, b)| a != b);
    let line = line.unwrap_or(present.lines().count().min(generated.lines().count()));
    assert!(
        present == generated,
        "include/swiftnet.h is not what src/ffi gives, from line {} on; `make header` renews it.\n  now: {}\n  new: {}",
        line + 1,
        present.lines().nth(line).unwrap_or("(end)"),
        generated.lines().nth(line).unwrap_or("(end)"),
    );
}

#[test]
fn header_shows_nothing_of_rust() {
    let text = fs::read_to_string(GENERATED).expect("build.rs wrote it");
    for word in [
        "Option<",
        "::",
        "unsafe",
        "u64",
        "usize",
        "c_void",
        "# Safety",
        "Self",
        "Box",
        "extern \"C-unwind\"",
    ] {
        let found = text.lines().find(|line| has_word(line, word));
        assert!(found.is_none(), "`{word}` in the header: {found:?}");
    }
    for line in text.lines().filter(|line| line.starts_with("#define ")) {
        assert!(
            line.contains("SWN_") || line.contains("SWIFTNET_"),
            "a macro outside the prefix: {line}"
        );
    }
}

/// `word`, not as a part of a longer identifier.
fn has_word(line: &str, word: &str) -> bool {
    let part_of_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (&line[..at], &line[at + word.len()..]);
        let named = word.ends_with(char::is_alphanumeric);
        !(named && (part_of_name(before.chars().next_back()) || part_of_name(after.chars().next())))
    })
}
