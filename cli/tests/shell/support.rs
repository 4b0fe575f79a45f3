//! A folder with a repository, and the commands that are run there.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use imgx_fixtures::pattern::MixedDisk;
use serde_json::Value;
use tempfile::TempDir;

/// A shell in a folder of its own, where `IMGX_REPO` is `repo`.
pub struct Shell {
    folder: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    line: String,
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Shell {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder can be made") }
    }

    /// A shell whose repository is there.
    pub fn with_repository() -> Self {
        let shell = Self::new();
        shell.imgx("init").exits(0);
        shell
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imgx"));
        command
            .args(line.split(' '))
            .current_dir(self.folder.path())
            .env("IMGX_REPO", "repo")
            .env("IMGX_CACHE_DIR", self.path("cache"))
            .stdin(Stdio::null());
        command
    }

    /// Runs `imgx` with the words of `line`.
    pub fn imgx(&self, line: &str) -> Ended {
        end(line, &mut self.command(line))
    }

    /// The same where `IMGX_REPO` says nothing.
    pub fn imgx_without_repository(&self, line: &str) -> Ended {
        end(line, self.command(line).env_remove("IMGX_REPO"))
    }

    /// A disk of `size` bytes with holes, zeros, text, noise and duplicates.
    pub fn mixed_disk(&self, name: &str, size: u64) -> PathBuf {
        let path = self.path(name);
        MixedDisk { size, seed: 42 }.write(&path).expect("a disk can be written");
        path
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("a file can be written");
        path
    }

    /// The files in a folder of the repository, largest first.
    pub fn objects(&self, folder: &str) -> Vec<PathBuf> {
        let listed = fs::read_dir(self.path("repo").join(folder)).expect("the folder is there");
        let mut found: Vec<PathBuf> =
            listed.map(|entry| entry.expect("it can be listed").path()).collect();
        found.sort_by_key(|path| std::cmp::Reverse(length(path)));
        found
    }
}

/// Runs a command that is called `line`.
pub fn end(line: &str, command: &mut Command) -> Ended {
    let output = command.output().expect("imgx can be run");
    let [out, err] = [output.stdout, output.stderr]
        .map(|bytes| String::from_utf8(bytes).expect("imgx prints UTF-8"));
    Ended { line: line.to_owned(), code: output.status.code(), out, err }
}

impl Ended {
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        let Self { line, out, err, .. } = &self;
        assert_eq!(self.code, Some(code), "imgx {line}\n{out}{err}");
        assert!(!err.contains("panicked"), "imgx {line}\n{err}");
        self
    }

    #[track_caller]
    pub fn shows(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.out.contains(word), "imgx {}: no '{word}' in\n{}", self.line, self.out);
        }
        self
    }

    #[track_caller]
    pub fn complains(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.err.contains(word), "imgx {}: no '{word}' in\n{}", self.line, self.err);
        }
        self
    }

    /// The one JSON document that was printed.
    #[track_caller]
    pub fn document(&self) -> Value {
        serde_json::from_str(&self.out).expect("it prints one JSON document")
    }

    /// The JSON events that were printed, one a line.
    #[track_caller]
    pub fn events(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).expect("every line is JSON");
        self.out.lines().map(parse).collect()
    }
}

pub fn length(path: &Path) -> u64 {
    fs::metadata(path).expect("the file is there").len()
}

#[track_caller]
pub fn assert_same(one: &Path, other: &Path) {
    let read = |path: &Path| fs::read(path).expect("the file can be read");
    let (first, second) = (read(one), read(other));
    assert_eq!(first.len(), second.len(), "{} and {}", one.display(), other.display());
    let place = first.iter().zip(&second).position(|(a, b)| a != b);
    assert_eq!(place, None, "{} and {} differ there", one.display(), other.display());
}

/// Flips a bit of the byte at `place`; twice brings it back.
pub fn flip(path: &Path, place: u64) {
    let file = fs::File::options().read(true).write(true).open(path).expect("it can be opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).expect("it has the byte");
    file.write_all_at(&[byte[0] ^ 0x10], place).expect("it can be written");
}

/// Writes `bytes` into an existing file.
pub fn overwrite(path: &Path, place: u64, bytes: &[u8]) {
    let file = fs::File::options().write(true).open(path).expect("it can be opened");
    file.write_all_at(bytes, place).expect("it can be written");
}
