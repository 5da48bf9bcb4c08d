//! Builds and runs every program of `c_examples`: the short ones to their end, the servers with requests and SIGTERM.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Compile, Process};

fn build(name: &str) -> PathBuf {
    let program = support::scratch("examples").join(name);
    let source = support::root().join("c_examples").join(format!("{name}.c"));
    support::compile(&source, &program, &Compile::default())
        .unwrap_or_else(|error| panic!("{error}"));
    program
}

/// Runs a program that ends by itself; its output.
fn run(name: &str) -> String {
    let program = build(name);
    let mut command = support::launcher(&program, false);
    let ended =
        Process::start(&mut command, &program.with_extension("log")).wait(support::time_limit());
    ended.expect_success(name);
    ended.output
}

/// A server that has said where it listens.
struct Server {
    name: &'static str,
    process: Process,
    address: SocketAddr,
}

impl Server {
    fn start(name: &'static str, prefix: &str, prepare: impl FnOnce(&mut Command)) -> Server {
        let program = build(name);
        let mut command = support::launcher(&program, false);
        prepare(&mut command);
        let mut process = Process::start(&mut command, &program.with_extension("log"));
        let end = Instant::now() + support::time_limit();
        loop {
            let output = process.output();
            if let Some((line, _)) = output.split_once('\n') {
                let address = line
                    .strip_prefix(prefix)
                    .map(|rest| rest.trim_end_matches('/'));
                let address = address.and_then(|text| text.parse().ok());
                let address = address.unwrap_or_else(|| panic!("{name}: not an address: {line}"));
                return Server {
                    name,
                    process,
                    address,
                };
            }
            assert!(
                !process.has_ended() && Instant::now() < end,
                "{name} does not say where it listens: {output}"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the server accepts");
        stream
            .set_read_timeout(Some(support::time_limit()))
            .expect("a time-out can be set");
        stream
    }

    /// The whole answer to one request, head and body as they came.
    fn get(&self, path: &str) -> String {
        let mut stream = self.connect();
        let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        stream
            .write_all(request.as_bytes())
            .expect("the server reads");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .expect("the server answers in UTF-8");
        answer
    }

    fn terminate(self) {
        self.process.terminate();
        self.process
            .wait(support::time_limit())
            .expect_success(self.name);
    }
}

#[test]
fn every_example_is_run_here() {
    let files = fs::read_dir(support::root().join("c_examples")).expect("the directory is there");
    let names = files.map(|file| file.expect("it can be read").path());
    let names: BTreeSet<String> = names
        .map(|path| path.file_stem().unwrap().to_string_lossy().into())
        .collect();
    let known = [
        "basic_server",
        "echo_server",
        "hello",
        "preempt",
        "spawn_join",
        "stats",
    ]
    .map(str::to_owned);
    assert_eq!(names, BTreeSet::from(known));
}

#[test]
fn hello_says_hello() {
    assert_eq!(run("hello"), "hello, world\n");
}

#[test]
fn spawn_join_counts_primes() {
    assert_eq!(run("spawn_join"), "17984 primes below 200000\n");
}

#[test]
fn preempt_keeps_time_beside_code_that_never_waits() {
    let output = run("preempt");
    for expected in [
        "500 sleeps of 1 ms",
        "computed all the time",
        "read(2) returned 1",
    ] {
        assert!(output.contains(expected), "no `{expected}` in:\n{output}");
    }
    // Each of the two lost the core at least once.
    let taken = output
        .lines()
        .find_map(|line| line.strip_prefix("cores taken: "));
    let counts: Vec<u64> = taken
        .expect("the last line")
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|word| word.parse().ok())
        .collect();
    assert!(
        counts.len() == 2 && counts.iter().all(|&n| n > 0),
        "{output}"
    );
}

#[test]
fn stats_shows_counters_and_the_waiter() {
    let output = run("stats");
    for expected in [
        "spawned 101, completed 100, live 1",
        "waiter",
        "waiting lock",
        "\"spawned\"",
    ] {
        assert!(output.contains(expected), "no `{expected}` in:\n{output}");
    }
}

#[test]
fn echo_server_echoes_and_ends() {
    let server = Server::start("echo_server", "echo on ", |command| {
        command.arg("0");
    });
    let mut streams: Vec<TcpStream> = (0..20).map(|_| server.connect()).collect();
    for round in 0..10u8 {
        for (stream, i) in streams.iter_mut().zip(0u8..) {
            stream.write_all(&[round, i, 3]).expect("the server reads");
        }
        for (stream, i) in streams.iter_mut().zip(0u8..) {
            let mut echo = [0; 3];
            stream.read_exact(&mut echo).expect("the server echoes");
            assert_eq!(echo, [round, i, 3]);
        }
    }
    // With the connections still open.
    server.terminate();
}

#[test]
fn basic_server_serves_every_path_and_ends() {
    let server = Server::start("basic_server", "http://", |command| {
        command
            .env("PORT", "0")
            .env_remove("ADDR")
            .env("DB_US", "300");
    });
    for (path, expected) in [
        ("/", "<h1>swiftnet</h1>"),
        ("/user/123", "\"id\":\"123\""),
        ("/stress", "\"spawned\":1000,\"completed\":1000"),
        ("/stats", "\"spawned\""),
        ("/metrics", "# TYPE "),
    ] {
        let answer = server.get(path);
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains(expected),
            "{path}: {answer}"
        );
    }
    assert!(server.get("/user/%22").starts_with("HTTP/1.1 400 "));
    assert!(server.get("/nowhere").starts_with("HTTP/1.1 404 "));
    let waited = server.get("/user/7");
    let waited = waited
        .split_once("\"waited_us\":")
        .expect("it says how long")
        .1;
    let waited: u64 = waited
        .split_once('}')
        .expect("it is JSON")
        .0
        .parse()
        .expect("it is a number");
    assert!(waited >= 300, "waited {waited} us instead of at least 300");
    let _idle = server.connect();
    server.terminate();
}
