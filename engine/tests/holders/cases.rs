//! Disks that are held, each in another way.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use imgx_engine::block::Target;
use imgx_fixtures::loopdev::{LoopDevice, Options};
use imgx_fixtures::tool;
use tempfile::TempDir;

use crate::support::Mounted;

const SIZE: u64 = 128 << 20;
const MKE2FS: [&str; 8] =
    ["-q", "-F", "-t", "ext4", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", "-m", "0"];

/// A disk that something holds.
pub struct Case {
    pub name: &'static str,
    /// The disk that is asked about.
    pub disk: PathBuf,
    /// Words of the holder that has to be found.
    pub holder: String,
    /// Where filesystems are mounted that have to be frozen for the disk to stand still.
    pub frozen: Vec<PathBuf>,
    /// Whether what holds it writes past it.
    pub is_past: bool,
    // In the order in which they have to go.
    _mounts: Vec<Mounted>,
    _processes: Vec<Held>,
    _claims: Vec<Target>,
    _devices: Vec<LoopDevice>,
    _folder: TempDir,
}

/// A process that holds something until it is dropped.
pub struct Held(Child);

impl Held {
    /// Runs the shell's `script`, which says when it is ready, and then waits for its input's end.
    pub fn new(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.expect("started");
        let mut line = String::new();
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        lines.read_line(&mut line).expect("read");
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _reaped = self.0.wait();
    }
}

/// What a case is made in.
pub struct Stage {
    pub folder: TempDir,
    pub mounts: Vec<Mounted>,
    pub processes: Vec<Held>,
    pub claims: Vec<Target>,
    pub devices: Vec<LoopDevice>,
}

impl Stage {
    pub fn new() -> Self {
        let folder = tempfile::tempdir_in("/var/tmp").expect("a temporary folder");
        let (mounts, processes) = (Vec::new(), Vec::new());
        Self { folder, mounts, processes, claims: Vec::new(), devices: Vec::new() }
    }

    pub fn file(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::File::create(&path).and_then(|file| file.set_len(SIZE)).expect("made");
        path
    }

    /// Attaches `file` from `start` on, `size` bytes of it if not all.
    pub fn attach(&mut self, file: &Path, start: u64, size: Option<u64>) -> PathBuf {
        // Without partitions, those that are added would outlive the device.
        let partitions = true;
        let options = Options { offset: start, size_limit: size, partitions, ..Options::default() };
        let device = LoopDevice::attach_with(file, options).expect("attached");
        let path = device.path().to_owned();
        // The last is detached first.
        self.devices.insert(0, device);
        path
    }

    pub fn folder(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::create_dir(&path).expect("made");
        path
    }

    pub fn mount(&mut self, arguments: &[&str], name: &str) -> PathBuf {
        let point = self.folder(name);
        self.mounts.insert(0, Mounted::new(arguments, &point));
        point
    }

    /// Makes an ext4 filesystem on `device`.
    pub fn format(device: &Path) {
        tool::run("mke2fs", &[&MKE2FS[..], &[text(device)]].concat()).expect("formatted");
    }

    /// Makes and mounts one.
    pub fn mount_ext4(&mut self, device: &Path) -> PathBuf {
        Self::format(device);
        self.mount(&["-o", "nodiscard", text(device)], "mounted")
    }

    fn case(self, name: &'static str, disk: &Path, holder: String) -> Case {
        let Self { folder, mounts, processes, claims, devices } = self;
        Case {
            name,
            disk: disk.to_owned(),
            holder,
            frozen: Vec::new(),
            is_past: false,
            _mounts: mounts,
            _processes: processes,
            _claims: claims,
            _devices: devices,
            _folder: folder,
        }
    }
}

impl Case {
    fn freezes(self, point: PathBuf) -> Self {
        Self { frozen: vec![point], ..self }
    }

    fn past(self) -> Self {
        Self { is_past: true, ..self }
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("plain")
}

/// All of them, where the machine lets them be made.
pub fn all() -> Vec<fn() -> Option<Case>> {
    vec![
        mount,
        second_namespace,
        bind_mount,
        partition,
        attached_file,
        second_loop,
        loop_on_loop,
        loop_below,
        range,
        range_of_a_partition,
        swap,
        raw_writer,
        raw_writer_of_the_file,
        second_device_of_btrfs,
        external_journal,
        claim,
    ]
}

fn mount() -> Option<Case> {
    let mut stage = Stage::new();
    let disk = stage.attach(&stage.file("disk"), 0, None);
    let point = stage.mount_ext4(&disk);
    let holder = format!("{} is mounted on {}", disk.display(), point.display());
    Some(stage.case("mount", &disk, holder).freezes(point))
}

fn second_namespace() -> Option<Case> {
    let mut stage = Stage::new();
    let disk = stage.attach(&stage.file("disk"), 0, None);
    Stage::format(&disk);
    let point = stage.folder("mounted");
    let script = format!(
        "mount -o nodiscard {} {} && echo ready && read line",
        disk.display(),
        point.display()
    );
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-c", &script]);
    stage.processes.push(Held::new(&mut command));
    let holder = format!(
        "{} is mounted on {} in the mount namespace of process",
        disk.display(),
        point.display()
    );
    Some(stage.case("second mount namespace", &disk, holder).freezes(point))
}

fn bind_mount() -> Option<Case> {
    let mut stage = Stage::new();
    let disk = stage.attach(&stage.file("disk"), 0, None);
    let first = stage.mount_ext4(&disk);
    fs::create_dir(first.join("below")).expect("made");
    let point = stage.mount(&["--bind", text(&first.join("below"))], "bound");
    // The first one goes: only what was bound is left.
    stage.mounts.pop();
    let holder = format!("{} is mounted on {}", disk.display(), point.display());
    Some(stage.case("bind mount", &disk, holder).freezes(point))
}

fn partition() -> Option<Case> {
    let mut stage = Stage::new();
    let file = stage.file("disk");
    let disk = stage.attach(&file, 0, None);
    tool::run("addpart", &[text(&disk), "1", "2048", "131072"]).expect("added");
    let partition = PathBuf::from(format!("{}p1", disk.display()));
    let point = stage.mount_ext4(&partition);
    let holder = format!("{} is mounted on {}", partition.display(), point.display());
    Some(stage.case("partition", &disk, holder).freezes(point))
}

fn attached_file() -> Option<Case> {
    let mut stage = Stage::new();
    let file = stage.file("disk");
    let device = stage.attach(&file, 0, None);
    let point = stage.mount_ext4(&device);
    let holder = format!("{} is attached as {}", file.display(), device.display());
    Some(stage.case("file behind a loop device", &file, holder).freezes(point).past())
}

fn second_loop() -> Option<Case> {
    let mut stage = Stage::new();
    let file = stage.file("disk");
    let disk = stage.attach(&file, 0, None);
    let other = stage.attach(&file, 0, None);
    let point = stage.mount_ext4(&other);
    let holder = format!("{} is mounted on {}", other.display(), point.display());
    Some(stage.case("second loop device", &disk, holder).freezes(point).past())
}

fn loop_on_loop() -> Option<Case> {
    let mut stage = Stage::new();
    let disk = stage.attach(&stage.file("disk"), 0, None);
    let other = stage.attach(&disk, 0, None);
    let point = stage.mount_ext4(&other);
    let holder = format!("{} is mounted on {}", other.display(), point.display());
    Some(stage.case("loop on loop", &disk, holder).freezes(point))
}

/// The same the other way: what the asked disk lies on is mounted.
fn loop_below() -> Option<Case> {
    let mut stage = Stage::new();
    let below = stage.attach(&stage.file("disk"), 0, None);
    let disk = stage.attach(&below, 0, None);
    let point = stage.mount_ext4(&below);
    let holder = format!("{} is mounted on {}", below.display(), point.display());
    Some(stage.case("loop on what is mounted", &disk, holder).freezes(point).past())
}

fn range() -> Option<Case> {
    let mut stage = Stage::new();
    let disk = stage.attach(&stage.file("disk"), 0, None);
    let part = stage.attach(&disk, 32 << 20, Some(64 << 20));
    let point = stage.mount_ext4(&part);
    let holder = format!("{} is mounted on {}", part.display(), point.display());
    Some(stage.case("loop over a range", &disk, holder).freezes(point))
}

fn range_of_a_partition() -> Option<Case> {
    let mut stage = Stage::new();
    let file = stage.file("disk");
    let whole = stage.attach(&file, 0, None);
    tool::run("addpart", &[text(&whole), "1", "2048", "131072"]).expect("added");
    let partition = PathBuf::from(format!("{}p1", whole.display()));
    let point = stage.mount_ext4(&partition);
    let disk = stage.attach(&file, 8 << 20, Some(16 << 20));
    let holder = format!("{} is mounted on {}", partition.display(), point.display());
    Some(stage.case("range of a mounted partition", &disk, holder).freezes(point).past())
}

fn swap() -> Option<Case> {
    let mut stage = Stage::new();
    let disk = stage.attach(&stage.file("disk"), 0, None);
    tool::run("mkswap", &[text(&disk)]).expect("made");
    if tool::run("swapon", &[text(&disk)]).is_err() {
        println!("skipped: swap is not to be had here");
        return None;
    }
    let script = format!("echo ready; read line; swapoff {}", disk.display());
    stage.processes.push(Held::new(Command::new("sh").args(["-c", &script])));
    let holder = format!("{} is swap", disk.display());
    Some(stage.case("swap", &disk, holder))
}

/// Opens `path` to write, and does not.
fn open_to_write(path: &Path) -> Held {
    let script = format!("exec 3<>{}; echo ready; read line", path.display());
    Held::new(Command::new("sh").args(["-c", &script]))
}

fn raw_writer() -> Option<Case> {
    let mut stage = Stage::new();
    let disk = stage.attach(&stage.file("disk"), 0, None);
    stage.processes.push(open_to_write(&disk));
    let holder = format!("{} is open to be written by process", disk.display());
    Some(stage.case("open raw writer", &disk, holder))
}

fn raw_writer_of_the_file() -> Option<Case> {
    let mut stage = Stage::new();
    let file = stage.file("disk");
    let disk = stage.attach(&file, 0, None);
    stage.processes.push(open_to_write(&file));
    let holder = format!("{} is open to be written by process", file.display());
    Some(stage.case("open writer of the file behind", &disk, holder).past())
}

fn second_device_of_btrfs() -> Option<Case> {
    if !tool::have("mkfs.btrfs") {
        println!("skipped: no mkfs.btrfs");
        return None;
    }
    let mut stage = Stage::new();
    let first = stage.attach(&stage.file("first"), 0, None);
    let disk = stage.attach(&stage.file("disk"), 0, None);
    tool::run("mkfs.btrfs", &["-q", "-f", text(&first), text(&disk)]).expect("formatted");
    tool::run("btrfs", &["device", "scan", text(&disk)]).expect("scanned");
    let point = stage.mount(&[text(&first)], "mounted");
    let holder =
        format!("{} is a device of what is mounted on {}", disk.display(), point.display());
    Some(stage.case("btrfs's second device", &disk, holder).freezes(point))
}

fn external_journal() -> Option<Case> {
    let mut stage = Stage::new();
    let first = stage.attach(&stage.file("first"), 0, None);
    let disk = stage.attach(&stage.file("disk"), 0, None);
    tool::run("mke2fs", &["-q", "-F", "-O", "journal_dev", text(&disk)]).expect("formatted");
    let journal = format!("device={}", disk.display());
    let arguments = ["-J", &journal, text(&first)];
    let arguments = [&MKE2FS[..], &arguments].concat();
    // Its blocks are as long as the journal's.
    tool::run("mke2fs", &[&["-b", "1024"], &arguments[..]].concat()).expect("formatted");
    let point = stage.mount(&[text(&first)], "mounted");
    let holder =
        format!("{} is the journal of what is mounted on {}", disk.display(), point.display());
    Some(stage.case("external journal", &disk, holder).freezes(point))
}

/// A claim that nothing explains: this process opened it exclusively.
fn claim() -> Option<Case> {
    let mut stage = Stage::new();
    let disk = stage.attach(&stage.file("disk"), 0, None);
    stage.claims.push(Target::open_device(&disk).expect("claimed"));
    let holder = format!("{} is in use (the kernel refuses exclusive access)", disk.display());
    Some(stage.case("claim", &disk, holder))
}
