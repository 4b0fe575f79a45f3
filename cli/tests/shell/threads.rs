//! A system that starts few threads, or none, and little address space: jobs do with what there
//! is, or say so before anything is written.

use std::fs;
use std::process::Command;

use imgx_fixtures::tool;

use crate::support::{Ended, Shell, assert_same, end};

/// Who is nobody else, so that only this test's processes count.
const USER: &str = "64242";

/// Runs `imgx LINE` within `limit`; nothing where that cannot be set.
fn limited(shell: &Shell, limit: &str, line: &str) -> Ended {
    let command = shell.command(line);
    let mut limited = Command::new("prlimit");
    limited.args([limit, "--", "setpriv", "--reuid", USER, "--regid", USER, "--clear-groups"]);
    limited.arg(shell.path("imgx")).args(command.get_args());
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited.current_dir(shell.path(""));
    end(line, &mut limited)
}

fn stage() -> Option<Shell> {
    if !tool::is_root() || !tool::have("prlimit") || !tool::have("setpriv") {
        println!("skipped: not root, or no prlimit and setpriv");
        return None;
    }
    let shell = Shell::with_repository();
    shell.mixed_disk("disk.raw", 40 << 20);
    // The user may not come to where it was built.
    fs::copy(env!("CARGO_BIN_EXE_imgx"), shell.path("imgx")).expect("copied");
    let folder = shell.path("");
    tool::run("chown", &["-R", USER, folder.to_str().expect("plain")]).expect("given");
    Some(shell)
}

#[test]
fn without_threads_jobs_are_slower_or_say_so_before_they_write() {
    let Some(shell) = stage() else { return };
    for threads in 1..=6 {
        let limit = format!("--nproc={threads}:{threads}");
        let run = |line: &str| limited(&shell, &limit, line);
        run("capture disk.raw --name disk").exits(0);
        run("capture disk.raw --name disk --io threads").does_or_says_so();
        run("verify").exits(0);
        run("verify --quick").exits(0);
        run("diff disk disk").exits(0);
        run("show disk").exits(0);
        run("bench --size 8M --dir .").does_or_says_so();
        let restored = run("restore disk out.raw --verify");
        match restored.code {
            Some(0) => assert_same(&shell.path("disk.raw"), &shell.path("out.raw")),
            _ => assert!(!shell.path("out.raw").exists(), "{restored:?}"),
        }
        restored.does_or_says_so();
        let _made = fs::remove_file(shell.path("out.raw"));
    }
}

#[test]
fn with_little_address_space_jobs_do_with_it_or_say_so() {
    let Some(shell) = stage() else { return };
    for mebibytes in [160, 200, 256, 320, 400, 500, 700, 1000, 2000] {
        let limit = format!("--as={}", mebibytes << 20);
        let run = |line: &str| limited(&shell, &limit, line).does_or_says_so();
        run("capture disk.raw --name disk");
        run("verify");
        run("restore disk out.raw --verify");
        let _made = fs::remove_file(shell.path("out.raw"));
    }
    let limit = "--as=2000000000";
    limited(&shell, limit, "capture disk.raw --name disk").exits(0);
    limited(&shell, limit, "restore disk out.raw --verify").exits(0);
    assert_same(&shell.path("disk.raw"), &shell.path("out.raw"));
}

impl Ended {
    /// It is done, or failed with words.
    #[track_caller]
    fn does_or_says_so(self) {
        let is_told = self.code == Some(1) && self.err.contains("imgx: error:");
        assert!(self.code == Some(0) || is_told, "{self:?}");
        assert!(!self.err.contains("panicked"), "{self:?}");
    }
}
