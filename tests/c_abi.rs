//! Runs every program of `tests/c` and `tests/cpp` as a process of its own, with a time limit and in the mode that
//! `SWN_TEST_MODE` names, and holds the header against the compilers and the exported symbols.
//!
//! A program's first comment may carry a line `SWN_TEST: <word> ...` for this harness:
//! `skip <mode> <why>` leaves it out in that mode, `nolink` builds it without the library.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use support::{Compile, Link, Mode, Process};

/// One test per program, so that each can be run and counted by name.
macro_rules! programs {
    ($directory:literal, $extension:literal, $list:ident: $($name:ident)*) => {
        const $list: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { run_program(concat!("tests/", $directory, "/", stringify!($name), ".", $extension)) })*
    };
}

programs! { "c", "c", C_PROGRAMS:
    arena bad_input batch_wakes_other_core completion_against_stop errno_kept errno_os_thread files fork
    fork_in_vthread guest handles http http_limits http_stop io_adopt io_close io_stream io_tcp
    join_stale_handle_race keys limits_fds limits_memory mlockall overrun preempt_blocked preempt_bound
    preempt_compute preempt_limit preempt_slices preempt_torture preempt_without_core resolve runtimes sections
    sem sem_stress signal_wait sleep spawn spawn_against_stop stale_runtime_handle stats status steady_state
    stop stop_overlong stress watcher yield_fairness
}

programs! { "cpp", "cpp", CPP_PROGRAMS: exceptions exceptions_preempted lambdas }

#[test]
fn every_program_is_listed() {
    for (directory, listed) in [("c", C_PROGRAMS), ("cpp", CPP_PROGRAMS)] {
        let files = fs::read_dir(support::root().join("tests").join(directory))
            .expect("the directory is there");
        let files = files.map(|entry| entry.expect("it can be read").path());
        let files: BTreeSet<String> = files
            .map(|path| path.file_stem().unwrap().to_string_lossy().into())
            .collect();
        let listed: BTreeSet<String> = listed.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(
            files, listed,
            "tests/{directory} and the list in tests/c_abi.rs differ"
        );
    }
}

/// The words after `SWN_TEST:` in the head of a program.
fn directives(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let after = |line: &'_ str| line.find("SWN_TEST:").map(|at| at + "SWN_TEST:".len());
    text.lines()
        .take(20)
        .filter_map(move |line| Some(line[after(line)?..].split_whitespace().collect()))
}

fn run_program(source: &str) {
    let mode = Mode::current();
    let path = support::root().join(source);
    let text = fs::read_to_string(&path).expect("the program is there");
    let mut how = Compile::default();
    for words in directives(&text) {
        match words[..] {
            ["skip", name, ref why @ ..] if name == mode.name() => {
                println!("left out under {name}: {}", why.join(" "));
                return;
            }
            ["skip", "plain" | "valgrind" | "asan", ..] => {}
            ["nolink"] => how.link = Link::None,
            _ => panic!("{source}: SWN_TEST: {words:?} is not known"),
        }
    }
    let dir = support::scratch(mode.name());
    let program = dir.join(path.file_stem().unwrap());
    support::compile(&path, &program, &how).unwrap_or_else(|error| panic!("{error}"));
    support::two_at_a_time(|| {
        let passes: &[bool] = if mode == Mode::Asan {
            &[false, true]
        } else {
            &[false]
        };
        for &use_after_return in passes {
            let mut command = support::launcher(&program, use_after_return);
            command.current_dir(&dir);
            let ended = Process::start(&mut command, &program.with_extension("log"))
                .wait(support::time_limit());
            ended.expect_success(source);
        }
    });
}

/// Compiles and runs the smoke program with every warning an error.
fn smoke(name: &str, how: Compile) {
    if Mode::current() != Mode::Plain {
        return;
    }
    let program = support::scratch("smoke").join(name);
    let source = support::root().join("tests/support/smoke.c");
    let how = Compile {
        flags: vec!["-pedantic".into()],
        ..how
    };
    support::compile(&source, &program, &how).unwrap_or_else(|error| panic!("{error}"));
    let mut command = Command::new(&program);
    Process::start(&mut command, &program.with_extension("log"))
        .wait(support::time_limit())
        .expect_success(name);
}

#[test]
fn header_is_plain_in_every_c_standard() {
    for compiler in ["gcc", "clang"]
        .into_iter()
        .filter(|compiler| support::present(compiler))
    {
        for std in ["c99", "c11", "c17", "c2x"] {
            let how = Compile {
                std: std.into(),
                compiler: compiler.into(),
                ..Compile::default()
            };
            smoke(&format!("{compiler}-{std}"), how);
        }
    }
}

#[test]
fn header_is_plain_in_every_cpp_standard() {
    for compiler in ["g++", "clang++"]
        .into_iter()
        .filter(|compiler| support::present(compiler))
    {
        for std in ["c++11", "c++14", "c++17", "c++20"] {
            let how = Compile {
                std: std.into(),
                compiler: compiler.into(),
                as_cpp: true,
                ..Compile::default()
            };
            smoke(&format!("{compiler}-{std}"), how);
        }
    }
}

#[test]
fn static_library_links_and_runs() {
    smoke(
        "static",
        Compile {
            link: Link::Static,
            ..Compile::default()
        },
    );
}

/// The functions that the committed header declares.
fn header_functions() -> BTreeSet<String> {
    let header = fs::read_to_string(support::root().join("include/swiftnet.h"))
        .expect("the header is there");
    let mut code = String::new();
    for part in header.split("/*") {
        code.push_str(part.split_once("*/").map_or(part, |(_, after)| after));
    }
    let code: String = code
        .lines()
        .filter(|line| !line.starts_with('#'))
        .collect::<Vec<_>>()
        .join(" ");
    let mut functions = BTreeSet::new();
    for declaration in code.split(';').filter(|text| !text.contains("typedef")) {
        if let Some((before, _)) = declaration.split_once('(') {
            let name = before
                .rsplit(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .unwrap_or_default();
            functions.insert(name.to_owned());
        }
    }
    functions
}

#[test]
fn exported_symbols_are_the_functions_of_the_header() {
    let functions = header_functions();
    assert!(
        functions.contains("swn_spawn"),
        "the header is not understood: {functions:?}"
    );
    let library = support::library().join("libswiftnet.so");
    let output = Command::new("nm")
        .args(["-D", "--defined-only"])
        .arg(&library)
        .output()
        .expect("nm runs");
    assert!(
        output.status.success(),
        "nm: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let symbols: BTreeSet<String> = text
        .lines()
        .filter_map(|l| l.split_whitespace().nth(2))
        .map(str::to_owned)
        .collect();
    let missing: Vec<_> = functions.difference(&symbols).collect();
    let extra: Vec<_> = symbols.difference(&functions).collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "declared, not exported: {missing:?}; exported only: {extra:?}"
    );
}

#[test]
fn soname_carries_the_major_version() {
    let bytes = fs::read(support::library().join("libswiftnet.so")).expect("the library is there");
    let soname = b"libswiftnet.so.0\0";
    assert!(
        bytes.windows(soname.len()).any(|window| window == soname),
        "no soname in the library"
    );
}

#[test]
fn everything_in_the_header_is_documented() {
    let header = fs::read_to_string(support::root().join("include/swiftnet.h"))
        .expect("the header is there");
    let lines: Vec<&str> = header.lines().collect();
    let body = lines
        .iter()
        .position(|line| line.contains("extern \"C\""))
        .expect("the frame is there")
        + 2;
    let mut bare = Vec::new();
    for (at, line) in lines.iter().enumerate().skip(body) {
        let opens = line.starts_with("typedef") || line.starts_with("#define");
        let declares = line.starts_with(|c: char| c.is_ascii_lowercase()) && line.contains('(');
        if (opens || declares) && !lines[at - 1].trim().ends_with("*/") {
            bare.push(*line);
        }
    }
    assert!(bare.is_empty(), "without a comment: {bare:#?}");
}
