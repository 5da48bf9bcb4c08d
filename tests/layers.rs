//! The architecture as a test: modules name only modules of lower rows, each dependency is named only at its home,
//! and unsafe code stays in the listed places. The tables here are the only copy that a machine reads.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Rows from the bottom up; modules of one row do not know each other.
const ROWS: &[&[&str]] = &[
    &["primitive", "error"],
    &["topology", "stack", "memory", "timer", "metrics", "trace"],
    &["options"], // what the data structures below can be given
    &["wait"],
    &["vthread", "reactor"],
    &["scheduler"],
    &["sync", "offload"],
    &["io"],
    &["runtime"],
    &["http"],
    &["ffi"],
];

/// A dependency and the modules that may name it. Not here: loom, whose models lie beside what they model.
const HOMES: &[(&str, &[&str])] = &[
    ("bumpalo", &["memory/arena"]),
    ("core_affinity", &["topology"]),
    ("corosensei", &["vthread/context"]),
    (
        "crossbeam_deque",
        &["scheduler/deque"], // its tests
    ),
    ("httparse", &["http"]),
    ("matchit", &["http"]),
    ("mio", &["reactor/readiness"]),
    // System calls and C types.
    (
        "libc",
        &[
            "error",
            "ffi",
            "http/server",
            "io",
            "offload",
            "primitive",
            "reactor",
            "scheduler",
            "stack",
            "topology",
            "vthread",
            "wait",
        ],
    ),
];

/// Modules with unsafe code, and what it is for. Everything else holds without.
const UNSAFE: &[(&str, &str)] = &[
    ("ffi", "pointers of the host"),
    ("io/sys", "system calls on descriptors"),
    ("io/tests", "system calls on descriptors"),
    ("memory", "bump allocation that outlives borrows"),
    (
        "offload",
        "calls of host functions; waiters that lie on stacks",
    ),
    (
        "primitive",
        "thread-local access, mappings, cells behind locks",
    ),
    (
        "reactor",
        "system calls on descriptors and host buffers; waiters that lie on stacks",
    ),
    ("runtime", "handles given to hosts"),
    (
        "scheduler",
        "the core that moves between threads; intrusive queues; futex",
    ),
    ("stack", "mapping, guarding and registering stacks"),
    ("sync", "waiters that lie on stacks and in host storage"),
    ("timer", "intrusive links of the wheel"),
    ("topology", "system calls on CPU sets and limits"),
    (
        "vthread",
        "switching stacks; records in slabs; host callbacks",
    ),
    ("wait", "intrusive links of the wait list"),
];

struct Source {
    /// Below src, without extension and `/mod`: `scheduler/park`, `error`.
    module: String,
    file: PathBuf,
    /// Lines without comments and string contents.
    code: Vec<String>,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("src can be read") {
            let path = entry.expect("src can be read").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path
                    .strip_prefix(&root)
                    .expect("it lies below src")
                    .with_extension("");
                let name = name.to_str().expect("names are ASCII");
                let module = name.strip_suffix("/mod").unwrap_or(name).to_owned();
                let text = fs::read_to_string(&path).expect("src can be read");
                found.push(Source {
                    module,
                    code: code_lines(&text),
                    file: path,
                });
            }
        }
    }
    assert!(found.len() > 10, "the sources were not found");
    found
}

/// The text with comments and the contents of string literals left out, line by line.
fn code_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut in_comment, mut in_string) = (false, false);
    for line in text.lines() {
        let mut code = String::new();
        let mut rest = line;
        while let Some(c) = rest.chars().next() {
            let skip = match (in_comment, in_string) {
                (true, _) if rest.starts_with("*/") => {
                    in_comment = false;
                    2
                }
                (true, _) => c.len_utf8(),
                (_, true) if c == '\\' => 1 + rest.chars().nth(1).map_or(0, char::len_utf8),
                (_, true) => {
                    in_string = c != '"';
                    c.len_utf8()
                }
                _ if rest.starts_with("//") => break,
                _ if rest.starts_with("/*") => {
                    in_comment = true;
                    2
                }
                _ if rest.starts_with("'\"'") => 3,
                _ if rest.starts_with("'\\\"'") => 4,
                _ => {
                    in_string = c == '"';
                    code.push(c);
                    c.len_utf8()
                }
            };
            rest = &rest[skip..];
        }
        lines.push(code);
    }
    lines
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `word` stands alone in the line, not as a part of a name or of a longer path.
fn names(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(|c| is_name(c) || c == ':' || c == '.') && !after.is_some_and(is_name)
    })
}

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

/// The modules named by `crate::a` and `crate::{a, b::c}` in a whole file.
fn crate_paths(code: &[String]) -> Vec<String> {
    let text = code.join("\n");
    let mut found = Vec::new();
    for (at, start) in text.match_indices("crate::") {
        let rest = &text[at + start.len()..];
        if !rest.starts_with('{') {
            found.push(rest.chars().take_while(|&c| is_name(c)).collect());
            continue;
        }
        let (mut depth, mut name) = (0, String::new());
        let mut at_start = false; // of one item of the outer braces
        for c in rest.chars() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if at_start && is_name(c) {
                name.push(c);
                continue;
            }
            if !name.is_empty() {
                found.push(std::mem::take(&mut name));
            }
            at_start = (at_start && c.is_whitespace()) || (depth == 1 && (c == '{' || c == ','));
            if depth == 0 {
                break;
            }
        }
    }
    found
}

fn below(module: &str, home: &str) -> bool {
    module == home
        || module
            .strip_prefix(home)
            .is_some_and(|rest| rest.starts_with('/') || rest.starts_with('_'))
}

#[test]
fn modules_name_only_lower_rows() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.module != "lib") {
        let own = source
            .module
            .split('/')
            .next()
            .expect("a module has a name");
        let own_row =
            row(own).unwrap_or_else(|| panic!("{}: `{own}` is in no row", source.file.display()));
        for named in crate_paths(&source.code)
            .iter()
            .filter(|named| *named != own)
        {
            match row(named) {
                Some(other) if other < own_row => {}
                Some(_) => wrong.push(format!("{} names {named}", source.module)),
                None => wrong.push(format!(
                    "{} names {named}, which is in no row",
                    source.module
                )),
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "upward or sideways: {wrong:#?}");
}

#[test]
fn dependencies_are_named_only_at_home() {
    let sources = sources();
    let mut wrong = Vec::new();
    for (dependency, homes) in HOMES {
        for source in &sources {
            let uses = source.code.iter().any(|line| names(line, dependency));
            if uses && !homes.iter().any(|home| below(&source.module, home)) {
                wrong.push(format!("{} names {dependency}", source.module));
            }
        }
    }
    assert!(wrong.is_empty(), "away from home: {wrong:#?}");
}

#[test]
fn every_dependency_has_a_home() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .expect("it is there");
    let mut section = "";
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]")
            && !section.contains("build-")
            && !section.contains("loom")
            && !section.contains("dev-")
        {
            let Some((name, _)) = line.split_once('=') else {
                continue;
            };
            let name = name.trim().replace('-', "_");
            assert!(
                HOMES.iter().any(|(known, _)| *known == name),
                "{name} has no home in tests/layers.rs"
            );
        }
    }
}

/// Attributes such as `#[unsafe(no_mangle)]` do not count.
fn has_unsafe(source: &Source) -> bool {
    let attribute = |line: &str| line.trim_start().starts_with("#[unsafe(");
    source
        .code
        .iter()
        .any(|line| names(line, "unsafe") && !attribute(line))
}

#[test]
fn unsafe_code_stays_where_it_is_listed() {
    let sources = sources();
    let mut wrong = BTreeSet::new();
    for source in &sources {
        if has_unsafe(source) && !UNSAFE.iter().any(|(home, _)| below(&source.module, home)) {
            wrong.insert(&source.module);
        }
    }
    assert!(
        wrong.is_empty(),
        "unsafe code away from the list: {wrong:?}"
    );
    for (home, _) in UNSAFE {
        let used = sources
            .iter()
            .any(|source| below(&source.module, home) && has_unsafe(source));
        assert!(
            used,
            "{home} has no unsafe code any more: take it off the list"
        );
    }
}

#[test]
fn the_scanner_reads_paths() {
    let code = code_lines(
        "use crate::{a::{b, c}, d,\n e::f}; // crate::g\nlet x = \"crate::h\"; crate::i::j();",
    );
    assert_eq!(crate_paths(&code), ["a", "d", "e", "i"]);
    assert!(
        names("use mio::Token", "mio")
            && !names("use tokio::mio", "mio")
            && !names("mio_x()", "mio")
    );
    assert!(
        below("reactor/readiness/registry", "reactor/readiness") && !below("reactors", "reactor")
    );
}
