//! Where the story is told: prints each command as a user would type it, runs it, and keeps count
//! of what was checked.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use imgx_engine::base::{ErrorContext, Result};
use serde_json::json;

use super::REPOSITORY;
use crate::output::Console;
use crate::session::{Outcome, Session, Stop};

/// The story's stage.
pub struct Stage<'a> {
    console: &'a Console,
    stop: Stop,
    program: PathBuf,
    folder: PathBuf,
    /// What was checked, and whether it held.
    checks: Vec<(String, bool)>,
}

/// What a command printed.
pub struct Shown {
    /// On both outputs, as text.
    pub output: String,
    /// On standard output, as it is.
    pub stdout: Vec<u8>,
}

impl Shown {
    /// The lines of standard output.
    pub fn lines(&self) -> Vec<String> {
        String::from_utf8_lossy(&self.stdout).lines().map(str::to_owned).collect()
    }
}

impl<'a> Stage<'a> {
    /// A stage in `folder`.
    ///
    /// # Errors
    /// `Io` when the program cannot find itself.
    pub fn new(session: &'a Session, stop: Stop, folder: &Path) -> Result<Self> {
        let program = env::current_exe().context(|| "find this program")?;
        let folder = folder.to_path_buf();
        Ok(Self { console: &session.console, stop, program, folder, checks: Vec::new() })
    }

    /// The folder of the story.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Says what comes next.
    pub fn tell(&self, sentence: &str) {
        self.console.say("");
        self.console.say(&format!("# {sentence}"));
    }

    /// Shows a command that the story carries out by itself.
    pub fn shell(&self, command: &str) {
        self.console.say(&format!("$ {command}"));
    }

    /// Runs `imgx` with `arguments` (no spaces within one; whole ones may be quoted), shows what it
    /// prints, and checks its exit code.
    ///
    /// # Errors
    /// `Io` when it cannot be run; `Cancelled`.
    pub fn run(&mut self, arguments: &str, expected: i32) -> Result<Shown> {
        self.stop.check()?;
        self.shell(&format!("imgx {arguments}"));
        let ended = Command::new(&self.program)
            .args(arguments.split(' ').map(|argument| argument.trim_matches('\'')))
            .current_dir(&self.folder)
            .env("IMGX_REPO", REPOSITORY)
            .env("IMGX_CACHE_DIR", self.path("cache"))
            .output()
            .context(|| format!("run {}", self.program.display()))?;
        self.stop.check()?;
        let [stdout, stderr] =
            [&ended.stdout, &ended.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        for line in stderr.lines().chain(stdout.lines()) {
            self.console.say(&format!("  {line}"));
        }
        let code = ended.status.code();
        let what = format!("`imgx {arguments}` exits with {expected}");
        if code == Some(expected) && expected == 0 {
            self.checks.push((what, true));
        } else {
            self.check(&what, code == Some(expected));
        }
        Ok(Shown { output: stdout + &stderr, stdout: ended.stdout })
    }

    /// Notes whether something holds.
    pub fn check(&mut self, what: &str, holds: bool) {
        let verdict = if holds { "ok" } else { "FAILED" };
        self.console.say(&format!("  [{verdict}] {what}"));
        self.console.json(&json!({"event": "check", "check": what, "passed": holds}));
        if !holds {
            self.console.complain(&format!("error: the demo's check failed: {what}"));
        }
        self.checks.push((what.to_owned(), holds));
    }

    /// Says how the story ended.
    pub fn finish(&self) -> Outcome {
        let failed = self.checks.iter().filter(|(_, holds)| !holds).count();
        let total = self.checks.len();
        self.console.json(&json!({
            "event": "result",
            "command": "demo",
            "checks": total,
            "failed": failed,
        }));
        if failed > 0 {
            self.console.say("");
            self.console.say(&format!("{failed} of {total} checks failed."));
            return Outcome::Failed;
        }
        self.console.say("");
        self.console.say(&format!("Proved by {total} checks:"));
        for line in PROVED {
            self.console.say(&format!("  - {line}"));
        }
        Outcome::Done
    }
}

const PROVED: [&str; 6] = [
    "a whole disk is captured, and comes back byte for byte from any of its images",
    "an image costs what changed since the one before",
    "an image tells what the disk holds: partition table, filesystems, labels",
    "files are listed, found, printed and extracted out of any image, without mounting it",
    "a target that holds data is refused, and untouched, unless that is wanted",
    "a single flipped bit is found, and the bytes of the disk that it costs are named",
];
