//! The process beside a capture: what it does when the capture is killed, alone or with its whole
//! control group, and what it leaves alone.

mod support;

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use imgx_engine::base::ErrorKind;
use imgx_engine::sys::Holders;
use imgx_engine::sys::freeze::Freezer;
use imgx_engine::sys::watchdog::{Hook, HookEnd, Hooks};
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::tool;
use support::{MIB, Mounted};

/// Longer than any of this takes.
const LONG: Duration = Duration::from_secs(600);

/// One at a time: they look for watchdogs.
static ALONE: Mutex<()> = Mutex::new(());

macro_rules! need {
    ($($tool:literal),*) => {
        if let Some(reason) = LoopDevice::unavailable() {
            println!("skipped: {reason}");
            return;
        }
        for tool in [$($tool),*] {
            if !tool::have(tool) {
                println!("skipped: no {tool}");
                return;
            }
        }
    };
}

/// An ext4 that is mounted.
struct Stage {
    // In the order in which they have to go.
    _mounted: Mounted,
    device: LoopDevice,
    folder: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Stage {
    fn new() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disk = folder.path().join("disk");
        File::create(&disk).and_then(|file| file.set_len(32 * MIB as u64)).expect("made");
        let device = LoopDevice::attach(&disk).expect("attached");
        let node = device.path().to_str().expect("plain").to_owned();
        tool::run("mke2fs", &["-q", "-F", "-t", "ext4", &node]).expect("made");
        let point = folder.path().join("mounted");
        fs::create_dir(&point).expect("made");
        let mounted = Mounted::new(&[&node], &point);
        Self { _mounted: mounted, device, folder, _alone: alone }
    }

    fn point(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn freezer(&self, hooks: Hooks) -> Freezer {
        let mounts = Holders::of(self.device.path()).expect("listed").mounts();
        assert_eq!(mounts.len(), 1, "{mounts:?}");
        Freezer::with_hooks(&mounts, hooks).expect("opened")
    }

    /// Writes a file and syncs it, which nothing does that is frozen.
    fn write(&self) {
        let path = self.point().join("file");
        let file = OpenOptions::new().create(true).append(true).open(path).expect("opened");
        (&file).write_all(b"more").expect("written");
        file.sync_all().expect("synced");
    }

    /// Another process of this program, which does `work` with a freezer and waits to be killed,
    /// once it has said that it is ready.
    fn ready(&self, work: &str, wrapper: &[&str]) -> Child {
        let itself = std::env::current_exe().expect("known");
        let itself = itself.to_str().expect("plain");
        let rest = ["--ignored", "--exact", "--nocapture", "a_process_of_another_test"];
        let words = [wrapper, &[itself], &rest].concat();
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .envs([("IMGX_DEVICE", self.device.path()), ("IMGX_WORK", Path::new(work))])
            .env("IMGX_FOLDER", self.folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let told = BufReader::new(child.stdout.take().expect("piped"));
        let mut lines = told.lines().map_while(std::result::Result::ok);
        assert!(lines.any(|line| line.contains("it is ready")), "it never was: {work}");
        child
    }

    /// Waits until `is_so`, without end if it never is.
    fn until(&self, is_so: impl Fn() -> bool) {
        let since = Instant::now();
        while !is_so() {
            assert!(since.elapsed() < LONG, "it never was");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn kill(mut child: Child) {
    child.kill().expect("killed");
    child.wait().expect("ended");
}

fn watchdogs() -> Vec<u32> {
    let listed = fs::read_dir("/proc").expect("listed").flatten();
    let pids = listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_one = |pid: &u32| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        comm.trim() == "thaw-watchdog" && !stat.contains(") Z ")
    };
    pids.filter(is_one).collect()
}

#[test]
#[ignore = "a process of the other tests'"]
fn a_process_of_another_test() {
    let (Some(device), Ok(work)) = (std::env::var_os("IMGX_DEVICE"), std::env::var("IMGX_WORK"))
    else {
        return;
    };
    let folder = PathBuf::from(std::env::var_os("IMGX_FOLDER").expect("set"));
    let mounts = Holders::of(Path::new(&device)).expect("listed").mounts();
    let log = folder.join("log");
    let hooks = Hooks {
        pre: Some(format!("echo pre >> '{}'", log.display())),
        post: Some(format!("echo post >> '{}'", log.display())),
    };
    let freezer = Freezer::with_hooks(&mounts, hooks).expect("opened");
    let mut frozen = None;
    match work.as_str() {
        "freeze" => frozen = Some(freezer.freeze(LONG).expect("frozen")),
        "freeze what somebody else froze" => {
            let refused = freezer.freeze(LONG).map(drop).expect_err("it is frozen");
            assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
        }
        "run the hook before" => {
            let end = freezer.run_hook(Hook::Pre, LONG, &|| true).expect("run");
            assert!(matches!(end, Some(HookEnd::Exited(status)) if status.success()), "{end:?}");
        }
        "freeze where it is not safe" => {
            let refused = freezer.freeze(LONG).map(drop).expect_err("it is not safe");
            assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
            println!("{refused}");
        }
        other => panic!("{other}"),
    }
    println!("it is ready");
    std::io::stdout().flush().expect("told");
    std::thread::sleep(LONG);
    drop(frozen);
}

#[test]
fn what_somebody_else_froze_stays_frozen_when_the_process_is_killed() {
    need!("mke2fs", "fsfreeze");
    let stage = Stage::new();
    let point = stage.point();
    let point = point.to_str().expect("plain");
    tool::run("fsfreeze", &["--freeze", point]).expect("frozen");
    let child = stage.ready("freeze what somebody else froze", &[]);
    kill(child);
    stage.until(|| watchdogs().is_empty());
    tool::run("fsfreeze", &["--unfreeze", point]).expect("it was still frozen");
    stage.write();
}

#[test]
fn what_is_frozen_is_thawed_when_the_whole_control_group_is_killed() {
    need!("mke2fs");
    let Some(group) = Group::new("imgx-test") else {
        println!("skipped: no control groups of version 2 that can be killed");
        return;
    };
    let stage = Stage::new();
    let procs = group.0.join("cgroup.procs");
    let enter = format!("echo $$ > '{}' && exec \"$@\"", procs.display());
    let mut child = stage.ready("freeze", &["sh", "-c", &enter, "sh"]);
    let listed = fs::read_to_string(&procs).expect("read");
    assert!(listed.lines().any(|line| line == child.id().to_string()), "{listed}");
    let [watchdog] = watchdogs()[..] else { panic!("{:?}", watchdogs()) };
    let score = fs::read_to_string(format!("/proc/{watchdog}/oom_score_adj")).expect("read");
    let may_be_kept = tool::run("sh", &["-c", "echo -1000 > /proc/self/oom_score_adj"]).is_ok();
    assert!(score.trim() == "-1000" || !may_be_kept, "{score}");
    fs::write(group.0.join("cgroup.kill"), "1").expect("killed");
    child.wait().expect("ended");
    stage.write();
    stage.until(|| watchdogs().is_empty());
}

#[test]
fn what_is_frozen_is_thawed_when_the_watchdog_is_killed() {
    need!("mke2fs");
    let stage = Stage::new();
    let freezer = stage.freezer(Hooks::default());
    let frozen = freezer.freeze(LONG).expect("frozen");
    let [watchdog] = watchdogs()[..] else { panic!("{:?}", watchdogs()) };
    tool::run("kill", &["-KILL", &watchdog.to_string()]).expect("killed");
    assert!(!frozen.thaw(), "nobody can say how long it was frozen");
    stage.write();
    let frozen = freezer.freeze(LONG).expect("frozen, with another watchdog");
    assert!(frozen.thaw());
    stage.write();
}

#[test]
fn the_hook_after_runs_once_whoever_is_killed() {
    need!("mke2fs");
    let stage = Stage::new();
    kill(stage.ready("run the hook before", &[]));
    stage.until(|| watchdogs().is_empty());
    let log = stage.path("log");
    assert_eq!(fs::read_to_string(&log).expect("read"), "pre\npost\n");

    // The watchdog is killed between the two.
    fs::remove_file(&log).expect("removed");
    let [pre, post] =
        ["pre", "post"].map(|word| Some(format!("echo {word} >> '{}'", log.display())));
    let freezer = stage.freezer(Hooks { pre, post });
    freezer.run_hook(Hook::Pre, LONG, &|| true).expect("run");
    let [watchdog] = watchdogs()[..] else { panic!("{:?}", watchdogs()) };
    tool::run("kill", &["-KILL", &watchdog.to_string()]).expect("killed");
    stage.until(|| !watchdogs().contains(&watchdog));
    assert!(freezer.freeze(LONG).expect("frozen").thaw());
    let [watchdog] = watchdogs()[..] else { panic!("{:?}", watchdogs()) };
    tool::run("kill", &["-KILL", &watchdog.to_string()]).expect("killed");
    freezer.run_hook(Hook::Post, LONG, &|| true).expect("run");
    drop(freezer);
    assert_eq!(fs::read_to_string(&log).expect("read"), "pre\npost\n");
}

#[test]
fn a_freeze_that_fails_is_followed_by_no_hook_that_is_not_owed() {
    need!("mke2fs");
    let stage = Stage::new();
    kill(stage.ready("freeze", &[]));
    stage.write();
    stage.until(|| watchdogs().is_empty());
    assert!(!stage.path("log").exists());
}

#[test]
fn a_hook_that_is_no_longer_wanted_ends_with_all_that_it_started() {
    need!("mke2fs");
    let stage = Stage::new();
    let pid = stage.path("pid");
    // It takes no notice of being asked, and neither does its child.
    let pre = format!(
        "trap '' TERM; sleep 1000 & echo $! > '{0}.new'; mv '{0}.new' '{0}'; wait; sleep 1000",
        pid.display()
    );
    let freezer = stage.freezer(Hooks { pre: Some(pre), post: None });
    let end = freezer.run_hook(Hook::Pre, LONG, &|| !pid.exists()).expect("run");
    assert_eq!(end, Some(HookEnd::Stopped));
    let pid = fs::read_to_string(&pid).expect("read");
    let stat = format!("/proc/{}/stat", pid.trim());
    let is_over = || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z "));
    stage.until(is_over);
    assert!(freezer.owes(), "what it began is to be undone");
}

#[test]
fn nothing_is_frozen_in_a_container_whose_end_would_be_the_watchdogs() {
    need!("mke2fs", "unshare", "fsfreeze");
    let stage = Stage::new();
    let wrapper = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let child = stage.ready("freeze where it is not safe", &wrapper);
    stage.write();
    kill(child);
}

#[test]
fn nothing_is_frozen_in_a_control_group_that_cannot_be_left() {
    need!("mke2fs", "unshare");
    let Some(group) = Group::new("imgx-inner") else {
        println!("skipped: no control groups of version 2 that can be killed");
        return;
    };
    let stage = Stage::new();
    let enter = format!("echo $$ > '{}/cgroup.procs' && exec \"$@\"", group.0.display());
    // Within, nothing shows the groups above, and no system call opens them.
    let hide = "umount -a -t cgroup,cgroup2 2>/dev/null; umount /sys/fs/cgroup 2>/dev/null; \
                exec \"$@\"";
    let wrapper = ["sh", "-c", &enter, "sh", "unshare", "--cgroup", "--mount", "sh", "-c", hide];
    let child = stage.ready("freeze where it is not safe", &[&wrapper[..], &["sh"]].concat());
    stage.write();
    kill(child);
    stage.until(|| watchdogs().is_empty());
}

/// A control group of version 2.
struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let points = mounts.lines().filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let point = fields.next()?;
            (fields.next()? == "cgroup2").then(|| PathBuf::from(point))
        });
        let path = points.last()?.join(format!("{name}-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        let group = Self(path);
        group.0.join("cgroup.kill").exists().then_some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for _ in 0..200 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
