//! Captures of mounted disks that end early: whatever ends them, hooks end and what they did is
//! undone, once.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::tool;

use crate::support::Shell;

/// Trackers are the machine's.
static ALONE: Mutex<()> = Mutex::new(());

/// A shell beside a mounted ext4.
struct Stage {
    shell: Shell,
    device: LoopDevice,
    _alone: MutexGuard<'static, ()>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let point = self.shell.path("mounted");
        for _ in 0..200 {
            if tool::run("umount", &[point.to_str().unwrap_or_default()]).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Stage {
    /// Nothing where that cannot be made.
    fn new() -> Option<Self> {
        let missing = LoopDevice::unavailable().or((!tool::have("mke2fs")).then_some("no mke2fs"));
        if let Some(reason) = missing {
            println!("skipped: {reason}");
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let shell = Shell::with_repository();
        let disk = shell.path("disk");
        File::create(&disk).and_then(|file| file.set_len(64 << 20)).expect("made");
        let device = LoopDevice::attach(&disk).expect("attached");
        let node = device.path().to_str().expect("plain").to_owned();
        tool::run("mke2fs", &["-q", "-F", "-t", "ext4", &node]).expect("made");
        let point = shell.path("mounted");
        fs::create_dir(&point).expect("made");
        tool::run("mount", &[&node, point.to_str().expect("plain")]).expect("mounted");
        Some(Self { shell, device, _alone: alone })
    }

    fn capture(&self, pre: &str, post: &str) -> Command {
        let mut command = self.shell.command("capture --json --name disk");
        command.arg(self.device.path()).args(["--hook-pre", pre, "--hook-post", post]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts a capture whose hook before never ends, and waits for that hook.
    fn hanging(&self, pre: &str) -> Child {
        let started = self.shell.path("started");
        let _earlier = fs::remove_file(&started);
        let _earlier = fs::remove_file(self.shell.path("log"));
        let pre = format!("{pre} echo $$ > started.new; mv started.new started; {FOREVER}");
        // A hang-up that the tests themselves ignore would be ignored by all that they start.
        let inner = self.capture(&pre, "echo post >> log");
        let mut child = self.run_by(&["env", "--default-signal=HUP"], &inner);
        while !started.exists() {
            assert!(child.try_wait().expect("asked").is_none(), "it ended: {:?}", end(child));
            std::thread::sleep(Duration::from_millis(10));
        }
        child
    }

    /// Starts `inner` by way of `program`, which becomes it.
    fn run_by(&self, program: &[&str], inner: &Command) -> Child {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(inner.get_program()).args(inner.get_args());
        command.current_dir(self.shell.path("")).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.spawn().expect("started")
    }

    /// Waits until the hook after has run and no watchdog is left, and returns what it did.
    fn log(&self) -> String {
        let log = self.shell.path("log");
        let since = Instant::now();
        while !log.exists() && since.elapsed() < Duration::from_secs(100) {
            std::thread::sleep(Duration::from_millis(10));
        }
        fs::read_to_string(log).unwrap_or_default()
    }

    /// Whether all processes of the hook before have ended.
    fn hook_is_over(&self) -> bool {
        let group = fs::read_to_string(self.shell.path("started")).expect("it started");
        !is_running(&PathBuf::from("/proc"), group.trim())
    }

    fn is_tracked(&self) -> bool {
        let status = self.shell.imgx("track status --json").exits(0).out;
        status.contains(self.device.path().to_str().expect("plain"))
    }
}

/// So that there is a child of the hook's besides.
const FOREVER: &str = "sleep 1000; sleep 1000";

/// Whether a process of this group runs.
fn is_running(proc: &Path, group: &str) -> bool {
    let listed = fs::read_dir(proc).expect("listed").flatten();
    let stats = listed.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    // proc_pid_stat(5): state, parent and group follow the name in parentheses.
    let mut of_group = stats.filter(|stat| {
        let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
        let fields: Vec<&str> = fields.split_whitespace().collect();
        fields.get(2) == Some(&group) && fields.first() != Some(&"Z")
    });
    of_group.next().is_some()
}

fn send(child: &Child, signal: &str) {
    let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
    assert!(sent.expect("kill can be run").success());
}

fn end(child: Child) -> Output {
    child.wait_with_output().expect("it ended")
}

#[test]
fn every_signal_that_ends_a_capture_has_it_clean_up() {
    let Some(stage) = Stage::new() else { return };
    for signal in ["HUP", "INT", "TERM", "QUIT", "USR1"] {
        let child = stage.hanging("");
        send(&child, signal);
        let ended = end(child);
        assert_eq!(ended.status.code(), Some(130), "SIG{signal}: {ended:?}");
        assert_eq!(stage.log(), "post\n", "SIG{signal}");
        assert!(stage.hook_is_over(), "SIG{signal}");
        assert!(!stage.is_tracked(), "SIG{signal}");
        assert_eq!(stage.shell.imgx("images").exits(0).out, "");
    }
}

#[test]
fn a_hook_that_ignores_being_asked_is_made_to_end() {
    let Some(stage) = Stage::new() else { return };
    let child = stage.hanging("trap '' TERM;");
    send(&child, "TERM");
    assert_eq!(end(child).status.code(), Some(130));
    assert_eq!(stage.log(), "post\n");
    assert!(stage.hook_is_over());
}

#[test]
fn the_second_signal_ends_sooner_and_the_hook_after_runs_nonetheless() {
    let Some(stage) = Stage::new() else { return };
    let child = stage.hanging("trap '' TERM;");
    send(&child, "TERM");
    send(&child, "INT");
    assert_eq!(end(child).status.code(), Some(130));
    assert_eq!(stage.log(), "post\n");
    assert!(stage.hook_is_over());
}

#[test]
fn a_killed_capture_has_its_hooks_ended_and_run_by_another_process() {
    let Some(stage) = Stage::new() else { return };
    let child = stage.hanging("");
    send(&child, "KILL");
    assert_eq!(end(child).status.signal(), Some(9));
    assert_eq!(stage.log(), "post\n");
    assert!(stage.hook_is_over());
}

#[test]
fn a_hangup_that_was_ignored_from_the_start_ends_nothing() {
    let Some(stage) = Stage::new() else { return };
    let inner = stage.capture("touch started; while [ ! -e go ]; do sleep 0.02; done", "true");
    let child = stage.run_by(&["nohup"], &inner);
    while !stage.shell.path("started").exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    send(&child, "HUP");
    fs::write(stage.shell.path("go"), "").expect("written");
    let ended = end(child);
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
}

#[test]
fn a_hook_after_that_fails_leaves_the_image_and_is_told() {
    let Some(stage) = Stage::new() else { return };
    let ended = end(stage.capture("echo from the hook", "exit 5").spawn().expect("started"));
    let err = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{err}");
    assert!(err.contains("exit 5") && err.contains("is kept"), "{err}");
    assert!(err.contains("from the hook"), "what hooks print is no JSON: {err}");
    let out = String::from_utf8(ended.stdout).expect("text");
    let lines = out.lines().map(serde_json::from_str::<serde_json::Value>);
    let last = lines.map(|line| line.expect("JSON")).next_back().expect("a result");
    assert_eq!(last["event"], "result");
    assert!(last["hook_failure"].as_str().is_some_and(|why| why.contains("exit 5")), "{last}");
    assert!(last["live"]["doubt"].is_null(), "{last}");
    stage.shell.imgx("verify latest").exits(0);

    let ended = end(stage.capture("exit 4", "echo post >> log").spawn().expect("started"));
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert_eq!(stage.log(), "post\n", "half of it may have been done");
    assert_eq!(stage.shell.imgx("images").exits(0).out.lines().count(), 2);
}

#[test]
fn a_repository_on_the_disk_that_is_captured_is_refused() {
    let Some(stage) = Stage::new() else { return };
    let repository = stage.shell.path("mounted/deep/repository");
    fs::create_dir(stage.shell.path("mounted/deep")).expect("made");
    stage.shell.imgx("--repo mounted/deep/repository init").exits(0);
    let node = stage.device.path().to_str().expect("plain").to_owned();
    let words = ["lies on", &node, "another"];
    let line = format!("--repo mounted/deep/repository capture {node} --name disk");
    stage.shell.imgx(&line).exits(1).complains(&words);
    stage.shell.imgx(&format!("{line} --no-freeze")).exits(1).complains(&words);
    // By another loop device over the same file, and by a file within the filesystem.
    let other = LoopDevice::attach(&stage.shell.path("disk")).expect("attached");
    let line = line.replace(&node, other.path().to_str().expect("plain"));
    stage.shell.imgx(&line).exits(1).complains(&["lies on"]);
    drop(other);
    let inner = stage.shell.path("mounted/inner");
    File::create(&inner).and_then(|file| file.set_len(20 << 20)).expect("made");
    let inner = LoopDevice::attach(&inner).expect("attached");
    let inner_node = inner.path().to_str().expect("plain").to_owned();
    tool::run("mke2fs", &["-q", "-F", &inner_node]).expect("made");
    let point = stage.shell.path("inner");
    fs::create_dir(&point).expect("made");
    tool::run("mount", &[&inner_node, point.to_str().expect("plain")]).expect("mounted");
    stage.shell.imgx("--repo inner/repository init").exits(0);
    let refused = stage.shell.imgx(&format!("--repo inner/repository capture {node}"));
    tool::run("umount", &[point.to_str().expect("plain")]).expect("unmounted");
    refused.exits(1).complains(&["lies on", "inner"]);
    let packs = fs::read_dir(repository.join("packs")).expect("listed").count();
    assert_eq!(packs, 0, "nothing was written");
    // Beside it nothing changes.
    stage.shell.imgx(&format!("capture {node} --name disk")).exits(0);
}

#[test]
fn a_repository_on_a_btrfs_that_a_captured_disk_is_a_part_of_is_refused() {
    if LoopDevice::unavailable().is_some() || !tool::have("mkfs.btrfs") {
        println!("skipped: no loop devices or no mkfs.btrfs");
        return;
    }
    let shell = Shell::with_repository();
    let devices = ["one", "two"].map(|name| {
        let path = shell.path(name);
        File::create(&path).and_then(|file| file.set_len(128 << 20)).expect("made");
        LoopDevice::attach(&path).expect("attached")
    });
    let [one, two] = devices.each_ref().map(|device| device.path().to_str().expect("plain"));
    tool::run("mkfs.btrfs", &["-q", "-f", "-d", "raid1", "-m", "raid1", one, two]).expect("made");
    let point = shell.path("mounted");
    fs::create_dir(&point).expect("made");
    tool::run("mount", &[one, point.to_str().expect("plain")]).expect("mounted");
    tool::run(
        "btrfs",
        &["subvolume", "create", shell.path("mounted/sub").to_str().expect("plain")],
    )
    .expect("made");
    shell.imgx("--repo mounted/sub/repository init").exits(0);
    let refused = [one, two].map(|device| {
        shell.imgx(&format!("--repo mounted/sub/repository capture {device} --no-freeze"))
    });
    tool::run("umount", &[point.to_str().expect("plain")]).expect("unmounted");
    for refused in refused {
        refused.exits(1).complains(&["lies on", "another"]);
    }
}

#[test]
fn a_cache_and_a_log_on_the_captured_disk_do_not_feed_the_rounds() {
    let Some(stage) = Stage::new() else { return };
    fs::write(stage.shell.path("mounted/file"), vec![7; 8 << 20]).expect("written");
    for _ in 0..2 {
        let mut command = stage.capture("true", "true");
        let log = stage.shell.path("mounted/log");
        let log = File::options().create(true).append(true).open(log).expect("opened");
        command.env("IMGX_CACHE_DIR", stage.shell.path("mounted/cache")).stdout(log);
        let ended = command.output().expect("run");
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    }
    let log = fs::read_to_string(stage.shell.path("mounted/log")).expect("read");
    let result: serde_json::Value =
        serde_json::from_str(log.lines().last().expect("a result")).expect("JSON");
    assert!(result["live"]["doubt"].is_null(), "{result}");
    let rounds = result["live"]["rounds"].as_array().expect("rounds");
    let copied: u64 = rounds.iter().filter_map(serde_json::Value::as_u64).sum();
    assert!(copied < 16 << 20, "{result}");
}
