//! Keeping the watchdog from being killed together with what it watches: with a control group
//! (service managers and containers end all of one), or when memory runs out.
//!
//! It moves to the root of every hierarchy of control groups, which nobody can kill; where systemd
//! runs, into a transient scope of its own beside all slices. What became of that is read back.

use std::ffi::CString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::libc::{self, c_long};
use nix::unistd::Pid;

use crate::sys::mounts::{Mount, parse_mounts};

/// The first namespaces' numbers: `PROC_CGROUP_INIT_INO` and `PROC_PID_INIT_INO` of the kernel.
const FIRST_GROUPS: &str = "cgroup:[4026531835]";
const FIRST_PROCESSES: &str = "pid:[4026531836]";
/// Who is never killed when memory runs out.
const NEVER: &str = "-1000";
/// How long systemd may take to make a scope.
const PATIENCE: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(5);

/// What could kill the watchdog together with the process that it watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exposed {
    /// A namespace of processes, which all end with its first one.
    Namespace,
    /// A control group that it cannot leave.
    Group(String),
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "nothing was frozen, since the process that thaws could be killed with this one: "
        )?;
        match self {
            Self::Namespace => write!(f, "both run in a container and end with it"),
            Self::Group(group) => write!(f, "it cannot leave the control group {group}"),
        }
    }
}

/// A hierarchy of control groups, and where a process is in it: a line of `/proc/PID/cgroup`
/// (cgroups(7)).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Membership {
    /// Empty for version 2.
    controllers: String,
    path: String,
}

/// The control groups that this process is in but for the roots.
pub(super) struct Groups {
    left: Vec<(Membership, Option<File>)>,
    is_first_namespace: bool,
}

impl Groups {
    /// Finds them, and opens the roots of their hierarchies where that is possible.
    pub fn find() -> Self {
        let is_first_namespace = is_in("/proc/self/ns/cgroup", FIRST_GROUPS);
        let mounts = parse_mounts(&fs::read("/proc/self/mountinfo").unwrap_or_default());
        let open = |membership: Membership| {
            let root = open_root(&membership, &mounts);
            (membership, root)
        };
        let memberships = memberships("/proc/self/cgroup");
        let left = memberships.into_iter().filter(|one| one.path != "/" || !is_first_namespace);
        let mut left: Vec<_> = left.map(open).collect();
        // Hierarchies without a group of this process's own are nothing to leave, and what is a
        // root may be one only in this namespace.
        left.retain(|(one, root)| one.path != "/" || !root.as_ref().is_some_and(holds));
        Self { left, is_first_namespace }
    }

    /// `cgroup.procs` of each, open for writing, so that a hook can go back.
    pub fn homes(&self) -> Vec<File> {
        let home = |(membership, root): &(Membership, Option<File>)| {
            let path = format!("{}/cgroup.procs", membership.path.trim_start_matches('/'));
            let root = root.as_ref()?;
            let path = format!("/proc/self/fd/{}/{}", root.as_raw_fd(), path.trim_matches('/'));
            File::options().write(true).open(path).ok()
        };
        self.left.iter().filter_map(home).collect()
    }

    /// Has the process `watchdog`, a child, leave them all, and looks whether it did.
    pub fn leave(&self, watchdog: Pid) -> Result<(), Exposed> {
        if !is_in("/proc/self/ns/pid", FIRST_PROCESSES) {
            return Err(Exposed::Namespace);
        }
        // Without the right to that, memory that runs out ends one of the two at most: they are
        // in different groups from here on, and each thaws when the other is gone.
        let _ = fs::write(format!("/proc/{watchdog}/oom_score_adj"), NEVER);
        if !self.left.is_empty() && Path::new("/run/systemd/system").is_dir() {
            // Without it, the roots do as well.
            let _made = self.ask_systemd(watchdog);
        }
        for (membership, root) in &self.left {
            if self.is_left(membership, watchdog) {
                continue;
            }
            let moved = root.as_ref().map(|root| {
                let path = format!("/proc/self/fd/{}/cgroup.procs", root.as_raw_fd());
                let mut file = File::options().write(true).open(path)?;
                file.write_all(watchdog.to_string().as_bytes())
            });
            if !matches!(moved, Some(Ok(()))) || !self.is_left(membership, watchdog) {
                return Err(Exposed::Group(membership.path.clone()));
            }
        }
        Ok(())
    }

    /// Whether the process is apart from this one's group: in none that is below the same group
    /// next to the root.
    fn is_left(&self, own: &Membership, process: Pid) -> bool {
        let theirs = memberships(format!("/proc/{process}/cgroup"));
        let theirs = theirs.into_iter().find(|one| one.controllers == own.controllers);
        theirs.is_some_and(|theirs| match self.is_first_namespace {
            true => is_apart(&own.path, &theirs.path),
            // Above this namespace's root, and nowhere else: `/../..`.
            false => {
                let mut parts = theirs.path.split('/').filter(|part| !part.is_empty()).peekable();
                parts.peek().is_some() && parts.all(|part| part == "..")
            }
        })
    }

    /// Asks systemd for a scope beside all slices that holds the process.
    fn ask_systemd(&self, watchdog: Pid) -> io::Result<()> {
        let name = format!("imgx-watchdog-{watchdog}.scope");
        let process = watchdog.to_string();
        let mut asked = Command::new("busctl")
            // A slice's name may begin with a dash.
            .args(["--system", "--quiet", "--", "call", "org.freedesktop.systemd1"])
            .args(["/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"])
            .args(["StartTransientUnit", "ssa(sv)a(sa(sv))", &name, "fail", "3"])
            .args(["PIDs", "au", "1", &process, "Slice", "s", "-.slice"])
            .args(["Description", "s", "thaws filesystems, whatever becomes of imgx", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let since = Instant::now();
        let mut is_asked = false;
        while since.elapsed() < PATIENCE {
            if !is_asked && let Some(status) = asked.try_wait()? {
                if !status.success() {
                    return Err(io::Error::other("systemd made no scope"));
                }
                is_asked = true;
            }
            let version_2 = self.left.iter().find(|(one, _)| one.controllers.is_empty());
            if is_asked && version_2.is_none_or(|(one, _)| self.is_left(one, watchdog)) {
                return Ok(());
            }
            thread::sleep(TICK);
        }
        if !is_asked {
            asked.kill()?;
            asked.wait()?;
        }
        Err(io::Error::other("systemd made no scope in time"))
    }
}

/// What `oom_score_adj` of this process is.
pub(super) fn ordinary_score() -> String {
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    if own.trim().is_empty() { "0".to_owned() } else { own.trim().to_owned() }
}

fn is_in(link: &str, namespace: &str) -> bool {
    fs::read_link(link).is_ok_and(|found| found.as_os_str() == namespace)
}

/// The memberships that `path` lists; none where there are no control groups.
fn memberships(path: impl AsRef<Path>) -> Vec<Membership> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(membership).collect()
}

fn membership(line: &str) -> Option<Membership> {
    let mut fields = line.splitn(3, ':').skip(1).map(str::to_owned);
    Some(Membership { controllers: fields.next()?, path: fields.next()? })
}

/// Whether no group but the root holds both.
fn is_apart(one: &str, other: &str) -> bool {
    let first = |path: &str| path.split('/').find(|part| !part.is_empty()).map(str::to_owned);
    match (first(one), first(other)) {
        (Some(one), Some(other)) => one != other,
        (_, None) => true,
        (None, Some(_)) => false,
    }
}

/// The root group of a hierarchy, by a mount of its own that nobody else sees, or by one that is
/// there.
fn open_root(membership: &Membership, mounts: &[Mount]) -> Option<File> {
    let kind = if membership.controllers.is_empty() { "cgroup2" } else { "cgroup" };
    let own = detached(kind, &membership.controllers).ok().filter(holds_all_groups);
    // The one in which this process is where it says.
    let is_it = |point: &Path| {
        let group = point.join(membership.path.trim_start_matches('/'));
        File::open(group).is_ok_and(|group| holds(&group))
    };
    let there = || {
        let mut of_kind = mounts.iter().filter(|mount| mount.kind == kind && is_it(&mount.point));
        of_kind.find_map(|mount| File::open(&mount.point).ok().filter(holds_all_groups))
    };
    own.or_else(there)
}

/// Whether the folder is the root group of its hierarchy, seen from any namespace: only what is
/// below has `cgroup.events` (version 2), and only the root `release_agent` (version 1).
fn holds_all_groups(folder: &File) -> bool {
    let has = |name: &str| below(folder, name).exists();
    has("cgroup.procs") && (has("release_agent") || !has("cgroup.events") && !has("tasks"))
}

/// Whether this process is in the group that is the folder.
fn holds(folder: &File) -> bool {
    let mut text = String::new();
    let read = File::open(below(folder, "cgroup.procs"));
    let read = read.and_then(|mut file| file.read_to_string(&mut text));
    let own = std::process::id().to_string();
    read.is_ok() && text.lines().any(|line| line == own)
}

fn below(folder: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

/// A mount of a hierarchy that is attached nowhere (fsopen(2)).
fn detached(kind: &str, controllers: &str) -> io::Result<File> {
    const FSOPEN_CLOEXEC: c_long = 1;
    const FSMOUNT_CLOEXEC: c_long = 1;
    const SET_FLAG: c_long = 0;
    const SET_STRING: c_long = 1;
    const CREATE: c_long = 6;
    let text = |text: &str| CString::new(text).map_err(io::Error::other);
    let checked = |result: c_long| {
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
    };
    let none = std::ptr::null::<libc::c_char>();
    let kind = text(kind)?;
    // SAFETY: the texts end with a zero and live until the calls return, which keep none of them;
    // each descriptor that is made is owned from there on.
    unsafe {
        let owned = |descriptor: c_long| {
            let descriptor = libc::c_int::try_from(descriptor).map_err(io::Error::other)?;
            Ok::<_, io::Error>(OwnedFd::from_raw_fd(descriptor))
        };
        let context = libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC);
        let context = owned(checked(context)?)?;
        let configure = |command: c_long, key: *const libc::c_char, value: *const libc::c_char| {
            let context = context.as_raw_fd();
            checked(libc::syscall(libc::SYS_fsconfig, context, command, key, value, 0))
        };
        for controller in controllers.split(',').filter(|one| !one.is_empty()) {
            match controller.strip_prefix("name=") {
                Some(name) => {
                    configure(SET_STRING, c"name".as_ptr(), text(name)?.as_ptr())?;
                    configure(SET_FLAG, c"none".as_ptr(), none)?;
                }
                None => {
                    configure(SET_FLAG, text(controller)?.as_ptr(), none)?;
                }
            }
        }
        configure(CREATE, none, none)?;
        let mount = libc::syscall(libc::SYS_fsmount, context.as_raw_fd(), FSMOUNT_CLOEXEC, 0);
        Ok(File::from(owned(checked(mount)?)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_apart_only_if_no_group_but_the_root_holds_both() {
        for (one, other, expected) in [
            ("/system.slice/imgx.service", "/imgx-watchdog-7.scope", true),
            ("/system.slice/imgx.service", "/", true),
            ("/system.slice/imgx.service", "/system.slice/other.scope", false),
            ("/a", "/a/b", false),
            ("/a/b", "/a", false),
        ] {
            assert_eq!(is_apart(one, other), expected, "{one} and {other}");
        }
    }

    #[test]
    fn memberships_are_read_with_colons_in_paths() {
        let read = membership("4:name=systemd:/a:b").expect("a line");
        let (controllers, path) = ("name=systemd".to_owned(), "/a:b".to_owned());
        assert_eq!(read, Membership { controllers, path });
        assert_eq!(membership("nonsense"), None);
    }
}
