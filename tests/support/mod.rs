//! What the tests that build and run C and C++ programs share: the library under test, the compiler, processes with a
//! time limit, and the mode (plain, valgrind, sanitizers) in which they run.
//!
//! | variable | meaning |
//! |---|---|
//! | `SWN_LIB_DIR` | directory of a library that is already built; without it cargo is asked to build one |
//! | `SWN_TEST_MODE` | `plain`, `valgrind` or `asan` |
//! | `SWN_TEST_TIMEOUT` | seconds that one program may take (90; more under valgrind and sanitizers) |
//! | `SWN_TEST_SCALE` | per cent of the full size at which programs run; read by `check.h` |

#![allow(dead_code)] // each test binary uses its part

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Condvar, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, io};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The directory in which this test may write.
pub fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&dir).expect("the target directory is writable");
    dir
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Plain,
    Valgrind,
    Asan,
}

impl Mode {
    pub fn current() -> Mode {
        match env::var("SWN_TEST_MODE").as_deref() {
            Err(_) | Ok("" | "plain") => Mode::Plain,
            Ok("valgrind") => Mode::Valgrind,
            Ok("asan") => Mode::Asan,
            Ok(other) => panic!("SWN_TEST_MODE={other}: plain, valgrind or asan"),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Mode::Plain => "plain",
            Mode::Valgrind => "valgrind",
            Mode::Asan => "asan",
        }
    }

    /// Per cent of the full size of a test that still ends in reasonable time.
    fn scale(self) -> &'static str {
        match self {
            Mode::Plain => "100",
            Mode::Valgrind => "2",
            Mode::Asan => "20",
        }
    }

    fn patience(self) -> u32 {
        match self {
            Mode::Plain => 1,
            Mode::Valgrind | Mode::Asan => 3,
        }
    }
}

/// The time that one program may take.
pub fn time_limit() -> Duration {
    let seconds = env::var("SWN_TEST_TIMEOUT")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(90);
    Duration::from_secs(seconds) * Mode::current().patience()
}

/// The directory with `libswiftnet.so`, `libswiftnet.so.0` and `libswiftnet.a`, built once per test process.
pub fn library() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = env::var_os("SWN_LIB_DIR")
            .map(PathBuf::from)
            .unwrap_or_else(build_library);
        let dir = dir
            .canonicalize()
            .unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        assert!(
            dir.join("libswiftnet.so").exists(),
            "no libswiftnet.so in {}",
            dir.display()
        );
        // The loader asks for the soname. Another test process may make the same link at this moment.
        match std::os::unix::fs::symlink("libswiftnet.so", dir.join("libswiftnet.so.0")) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                panic!("libswiftnet.so.0: {error}")
            }
            _ => dir,
        }
    })
}

fn build_library() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .parent()
        .expect("tmp lies in the target directory");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--lib", "--target-dir"])
        .arg(target)
        .current_dir(root())
        .status()
        .expect("cargo runs");
    assert!(status.success(), "cargo build --release: {status}");
    target.join("release")
}

/// How a program is compiled beyond the defaults of the mode.
#[derive(Default, Clone)]
pub struct Compile {
    /// `-std=`; empty: gnu11 or gnu++20.
    pub std: String,
    pub flags: Vec<String>,
    /// The name of a compiler; empty: what the cc crate finds.
    pub compiler: String,
    pub link: Link,
    /// Treat the source as C++ whatever its name says.
    pub as_cpp: bool,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    #[default]
    Shared,
    Static,
    /// The program loads the library itself, from `$SWN_LIBRARY`.
    None,
}

/// Compiles one file into `out`; the error is the compiler's output.
pub fn compile(source: &Path, out: &Path, how: &Compile) -> Result<(), String> {
    let cpp = how.as_cpp || source.extension().is_some_and(|e| e == "cpp");
    let mut build = cc::Build::new();
    build
        .cpp(cpp)
        .target(env!("SWN_TARGET"))
        .host(env!("SWN_TARGET"))
        .opt_level(2)
        .debug(true);
    build
        .cargo_metadata(false)
        .warnings(true)
        .extra_warnings(true);
    if !how.compiler.is_empty() {
        build.compiler(&how.compiler);
    }
    let mut command = build
        .try_get_compiler()
        .map_err(|error| error.to_string())?
        .to_command();
    let default = if cpp { "gnu++20" } else { "gnu11" };
    let std = if how.std.is_empty() {
        default
    } else {
        &how.std
    };
    command
        .arg(format!("-std={std}"))
        .args(["-Werror", "-pthread"])
        .args(&how.flags);
    if Mode::current() == Mode::Asan && how.link != Link::Static {
        command.args([
            "-fsanitize=address,undefined",
            "-fno-sanitize-recover=all",
            "-fno-omit-frame-pointer",
        ]);
    }
    command
        .arg("-I")
        .arg(root().join("include"))
        .arg("-I")
        .arg(root().join("tests/support"));
    if how.as_cpp {
        command.args(["-x", "c++"]);
    }
    command.arg("-o").arg(out).arg(source);
    if how.as_cpp {
        command.args(["-x", "none"]);
    }
    match how.link {
        Link::Shared => {
            let rpath = format!("-Wl,-rpath,{}", library().display());
            command
                .arg("-L")
                .arg(library())
                .args(["-lswiftnet", &rpath]);
        }
        Link::Static => {
            command
                .arg(library().join("libswiftnet.a"))
                .args(["-lm", "-ldl", "-lgcc_s"]);
        }
        Link::None => {
            command.arg("-ldl");
        }
    }
    let output = command
        .output()
        .map_err(|error| format!("{:?}: {error}", command.get_program()))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{:?} {:?}\n{}",
            command.get_program(),
            command.get_args().collect::<Vec<_>>(),
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}

/// A started program, killed with its children when dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
    started: Instant,
}

pub struct Ended {
    /// None: it was killed because its time was over.
    pub status: Option<ExitStatus>,
    pub output: String,
    pub took: Duration,
}

impl Process {
    /// Starts `command` in a process group of its own with both outputs in the file `log`.
    pub fn start(command: &mut Command, log: &Path) -> Process {
        let file = File::create(log).expect("the target directory is writable");
        let errors = file.try_clone().expect("a file can be duplicated");
        command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .process_group(0);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Process {
            child,
            log: log.to_owned(),
            started: Instant::now(),
        }
    }

    /// What the program has written so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("a child can be waited for")
            .is_some()
    }

    /// Sends a signal; `target` is the process, or its whole group.
    fn signal(&self, name: &str, group: bool) {
        let sign = if group { "-" } else { "" };
        let script = format!("kill -{name} {sign}{}", self.child.id());
        // It may have ended already; that is not an error.
        let _ = Command::new("sh")
            .args(["-c", &script])
            .stderr(Stdio::null())
            .status();
    }

    pub fn terminate(&self) {
        self.signal("TERM", false);
    }

    pub fn wait(mut self, limit: Duration) -> Ended {
        let end = self.started + limit;
        let status = loop {
            match self.child.try_wait().expect("a child can be waited for") {
                Some(status) => break Some(status),
                None if Instant::now() >= end => break None,
                None => thread::sleep(Duration::from_millis(5)),
            }
        };
        Ended {
            status,
            output: self.output(),
            took: self.started.elapsed(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Also what a program that ended left behind in its group.
        self.signal("KILL", true);
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Fails the calling test, with the program's output, unless it ended with 0.
    pub fn expect_success(&self, what: &str) {
        let how = match self.status {
            Some(status) if status.success() => return,
            Some(status) => match status.signal() {
                Some(signal) => format!("killed by signal {signal}"),
                None => status.to_string(),
            },
            None => format!("no end within {:?}", self.took),
        };
        panic!("{what}: {how}; its output:\n{}", self.output);
    }
}

/// Runs `body` while at most one other test of this process does the same: the programs use all cores themselves.
pub fn two_at_a_time<R>(body: impl FnOnce() -> R) -> R {
    static FREE: Mutex<u32> = Mutex::new(2);
    static FREED: Condvar = Condvar::new();
    struct Place;
    impl Drop for Place {
        fn drop(&mut self) {
            *FREE.lock().unwrap_or_else(|e| e.into_inner()) += 1;
            FREED.notify_one();
        }
    }
    let mut free = FREE.lock().unwrap_or_else(|e| e.into_inner());
    while *free == 0 {
        free = FREED.wait(free).unwrap_or_else(|e| e.into_inner());
    }
    *free -= 1;
    drop(free);
    let _place = Place;
    body()
}

/// Whether a program of this name can be started.
pub fn present(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

/// The command that starts a compiled test program in the current mode.
pub fn launcher(program: &Path, use_after_return: bool) -> Command {
    let mode = Mode::current();
    let mut command = match mode {
        Mode::Valgrind => {
            let mut valgrind = Command::new("valgrind");
            valgrind.args([
                "-q",
                "--error-exitcode=99",
                "--fair-sched=yes",
                "--trace-children=no",
            ]);
            valgrind.arg(program);
            valgrind
        }
        Mode::Plain | Mode::Asan => Command::new(program),
    };
    if env::var_os("SWN_TEST_SCALE").is_none() {
        command.env("SWN_TEST_SCALE", mode.scale());
    }
    let uar = u8::from(use_after_return);
    command.env(
        "ASAN_OPTIONS",
        format!("detect_stack_use_after_return={uar}:abort_on_error=0:allocator_may_return_null=1"),
    );
    command.env("UBSAN_OPTIONS", "print_stacktrace=1");
    command.env("SWN_TEST_MODE", mode.name());
    command.env("SWN_LIBRARY", library().join("libswiftnet.so"));
    command
}
