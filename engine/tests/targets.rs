//! Targets of restores: what is refused, with its own words, before anything is made or cut; and
//! what lies behind the image on a larger one, as wipefs, mdadm, blkid and sgdisk see it.
#![allow(clippy::cast_possible_truncation)]

mod support;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use imgx_engine::base::{BlockSize, ErrorKind, Silent};
use imgx_engine::job::{Capture, CaptureOptions, Restore, RestoreOptions, RestorePlan};
use imgx_engine::store::Repository;
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::{gpt, tool};
use support::{MIB, captured, file, small_disk};

struct Stage {
    folder: tempfile::TempDir,
    repository: Repository,
    bytes: Vec<u8>,
}

fn forced() -> RestoreOptions {
    RestoreOptions { overwrite: true, verify: true, ..RestoreOptions::default() }
}

impl Stage {
    /// A repository with an image, `disk`, of `bytes`.
    fn new(bytes: Vec<u8>) -> Self {
        let folder = tempfile::tempdir_in("/var/tmp").expect("a temporary folder");
        let path = folder.path().join("repository");
        let repository = Repository::create(&path, BlockSize::DEFAULT).expect("a repository");
        captured(&repository, &file(folder.path(), "disk", &bytes), "disk");
        Self { folder, repository, bytes }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn plan(&self, target: &Path, options: RestoreOptions) -> imgx_engine::base::Result<Restore> {
        let images = self.repository.images().expect("listed");
        Restore::plan(
            &self.repository,
            images.resolve("disk", &Silent).expect("there"),
            target,
            options,
        )
    }

    fn restore(&self, target: &Path, options: RestoreOptions) -> RestorePlan {
        let restore = self.plan(target, options).expect("planned");
        let plan = restore.describe().clone();
        restore.run(&Silent).expect("restored");
        plan
    }

    #[track_caller]
    fn refuses(&self, target: &Path, (kind, words): (ErrorKind, &str)) {
        let error = self.plan(target, forced()).err();
        let error = error.unwrap_or_else(|| panic!("{} was not refused", target.display()));
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(words), "no '{words}' in {error}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("plain")
}

#[test]
fn what_is_no_target_is_refused_by_its_own_words() {
    let stage = Stage::new(small_disk(1, 3 * MIB));
    fs::create_dir(stage.path("directory")).expect("made");
    tool::run("mkfifo", &[text(&stage.path("pipe"))]).expect("made");
    let _socket = UnixListener::bind(stage.path("socket")).expect("made");
    symlink(stage.path("nowhere"), stage.path("link")).expect("made");
    symlink(stage.path("directory"), stage.path("to-directory")).expect("made");
    let (invalid, missing) = (ErrorKind::Invalid, ErrorKind::NotFound);
    for (target, expected) in [
        (stage.path("directory"), (invalid, "is a directory")),
        (stage.path("to-directory"), (invalid, "is a directory")),
        (stage.path("pipe"), (invalid, "is a pipe")),
        (stage.path("socket"), (invalid, "is a socket")),
        ("/dev/null".into(), (invalid, "is a character device")),
        ("/dev/stdout".into(), (invalid, "is a")),
        ("-".into(), (invalid, "./-")),
        ("".into(), (invalid, "names a directory")),
        (stage.path("new/"), (invalid, "names a directory")),
        ("nbd://host/export".into(), (invalid, "is an export")),
        (stage.path("link"), (missing, "leads nowhere")),
        (stage.path("none/new"), (missing, "its folder does not exist")),
        (stage.path("disk/new"), (missing, "what should be its folder is none")),
        ("/dev/imgx-test-no-such-disk".into(), (missing, "there is no such device")),
        ("/dev/imgx-test/no-such-disk".into(), (missing, "there is no such device")),
        ("/dev/../dev/imgx-test-no-disk".into(), (missing, "there is no such device")),
    ] {
        if target == Path::new("/dev/stdout") && fs::metadata(&target).is_ok_and(|it| it.is_file())
        {
            continue;
        }
        stage.refuses(&target, expected);
        let is_new = matches!(expected, (ErrorKind::NotFound, _)) && target.exists();
        assert!(!is_new, "{} was made", target.display());
    }
    assert!(!stage.path("nowhere").exists());
}

#[test]
fn a_file_among_the_devices_is_no_disk_and_shared_memory_is_no_device() {
    if !imgx_fixtures::tool::is_root() {
        println!("skipped: not root");
        return;
    }
    let stage = Stage::new(small_disk(1, MIB));
    let stray = PathBuf::from(format!("/dev/imgx-test-{}", std::process::id()));
    fs::write(&stray, vec![0; MIB]).expect("written");
    stage.refuses(&stray, (ErrorKind::Conflict, "among the devices"));
    let left = fs::read(&stray).expect("read");
    fs::remove_file(&stray).expect("removed");
    assert!(left.iter().all(|byte| *byte == 0));
    if let Ok(shared) = tempfile::tempdir_in("/dev/shm") {
        let target = shared.path().join("disk");
        stage.restore(&target, forced());
        assert!(fs::read(target).expect("read") == stage.bytes);
    }
}

#[test]
fn nothing_of_the_repository_is_a_target() {
    let stage = Stage::new(small_disk(1, 3 * MIB));
    let repository = stage.path("repository");
    let packs = repository.join("packs");
    let listed = fs::read_dir(&packs).expect("listed");
    let pack = listed.map(|entry| entry.expect("listed").path()).next().expect("a pack");
    let before = fs::read(&pack).expect("read");
    // However it is called.
    fs::hard_link(&pack, stage.path("linked")).expect("linked");
    symlink(&pack, stage.path("symlink")).expect("linked");
    symlink(&packs, stage.path("packs")).expect("linked");
    let is_own = (ErrorKind::Conflict, "the repository itself");
    for target in [
        pack.clone(),
        stage.path("linked"),
        stage.path("symlink"),
        repository.join("config"),
        repository.join("new"),
        packs.join("new"),
        packs.join("../new"),
        stage.path("packs/new"),
    ] {
        stage.refuses(&target, is_own);
    }
    if LoopDevice::unavailable().is_none() {
        let device = LoopDevice::attach(&pack).expect("attached");
        stage.refuses(device.path(), is_own);
        let again = LoopDevice::attach(device.path()).expect("attached");
        stage.refuses(again.path(), is_own);
    }
    assert!(fs::read(&pack).expect("read") == before);
    assert!(!repository.join("new").exists() && !packs.join("new").exists());
}

#[test]
fn a_longer_file_is_cut_to_the_images_size() {
    let stage = Stage::new(small_disk(1, 3 * MIB));
    let target = file(stage.folder.path(), "target", &vec![7; 5 * MIB]);
    let plan = stage.restore(&target, forced());
    assert_eq!(plan.cut.map(|cut| cut.0), Some(2 << 20));
    assert!(fs::read(&target).expect("read") == stage.bytes);
    // Its end alone holds data: that is not to be lost unasked.
    let target = stage.path("sparse");
    let sparse = File::create(&target).expect("made");
    sparse.set_len(900 << 20).and_then(|()| sparse.write_all_at(b"x", 450 << 20)).expect("written");
    let restore = stage.plan(&target, RestoreOptions::default()).expect("planned");
    assert_eq!(restore.describe().held.map(|place| place.0), Some(450 << 20));
    let error = restore.run(&Silent).expect_err("it holds data");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(fs::metadata(&target).expect("there").size(), 900 << 20);
    stage.restore(&target, RestoreOptions { only_changed: true, ..forced() });
    assert!(fs::read(&target).expect("read") == stage.bytes);
}

/// A disk with a GPT.
fn gpt_disk() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("disk");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path);
    let file = file.expect("made");
    file.set_len(16 << 20).expect("set");
    let (start, length) = (1 << 20, 4 << 20);
    let partition =
        gpt::Partition { start, length, kind: gpt::LINUX, id: [1; 16], name: "a".into() };
    gpt::write(&file, 16 << 20, 512, [9; 16], &[partition]).expect("written");
    fs::read(&path).expect("read")
}

#[test]
fn a_blank_longer_file_has_room_for_a_partition_table_to_grow() {
    let stage = Stage::new(gpt_disk());
    let blank = |name: &str| {
        let path = stage.path(name);
        File::create(&path).and_then(|file| file.set_len(32 << 20)).expect("made");
        path
    };
    let target = blank("blank");
    let plan = stage.restore(&target, forced());
    assert_eq!((plan.cut, plan.gpt_grows.map(|grows| grows.0)), (None, Some(16 << 20)));
    assert_eq!(fs::metadata(&target).expect("there").size(), 32 << 20);
    let target = blank("used");
    let used = OpenOptions::new().write(true).open(&target).expect("opened");
    used.write_all_at(b"x", 20 << 20).expect("written");
    let plan = stage.restore(&target, forced());
    assert_eq!((plan.cut.map(|cut| cut.0), plan.gpt_grows), (Some(16 << 20), None));
    assert!(fs::read(&target).expect("read") == stage.bytes);
}

/// A device of 32 MiB with what `make` puts there.
fn used_device(stage: &Stage, make: &dyn Fn(&Path)) -> LoopDevice {
    let path = stage.path("device");
    let _earlier = fs::remove_file(&path);
    File::create(&path).and_then(|file| file.set_len(32 << 20)).expect("made");
    make(&path);
    LoopDevice::attach(&path).expect("attached")
}

/// An md superblock as `mdadm --create` writes it at the end; its own tool, since the kernel has no
/// RAID here.
fn write_md(path: &Path, version: &str) {
    let file = OpenOptions::new().write(true).open(path).expect("opened");
    let size = fs::metadata(path).expect("there").size();
    let mut block = vec![0_u8; 4096];
    let put32 = |block: &mut [u8], at: usize, value: u32| {
        block[at..at + 4].copy_from_slice(&value.to_le_bytes());
    };
    put32(&mut block, 0, 0xa92b_4efc);
    let place = if version == "1.0" {
        let place = (size - 8192) & !4095;
        put32(&mut block, 4, 1);
        block[16..32].fill(0x42);
        block[32..36].copy_from_slice(b"name");
        put32(&mut block, 72, 1);
        block[80..88].copy_from_slice(&2048_u64.to_le_bytes());
        put32(&mut block, 92, 2);
        block[136..144].copy_from_slice(&2048_u64.to_le_bytes());
        block[144..152].copy_from_slice(&(place / 512).to_le_bytes());
        put32(&mut block, 220, 2);
        block[256..260].copy_from_slice(&[0, 0, 1, 0]);
        let sum: u64 = block[..260]
            .as_chunks::<4>()
            .0
            .iter()
            .map(|word| u64::from(u32::from_le_bytes(*word)))
            .sum();
        put32(&mut block, 216, (sum as u32).wrapping_add((sum >> 32) as u32));
        place
    } else {
        put32(&mut block, 4, 0);
        put32(&mut block, 8, 90);
        put32(&mut block, 20, 0x4242_4242);
        put32(&mut block, 28, 1);
        put32(&mut block, 40, 2);
        (size & !65535) - 65536
    };
    file.write_all_at(&block, place).expect("written");
}

fn write_gpt(path: &Path) {
    tool::run("sgdisk", &["-n", "1:2048:40000", text(path)]).expect("written");
}

fn write_bytes(bytes: &'static [u8], place: u64) -> impl Fn(&Path) {
    move |path| {
        let file = OpenOptions::new().write(true).open(path).expect("opened");
        file.write_all_at(bytes, place).expect("written");
    }
}

/// What `wipefs` finds on the device.
fn signatures(device: &LoopDevice) -> String {
    tool::run("wipefs", &["--no-act", text(device.path())]).expect("it looks")
}

#[test]
fn nothing_behind_the_image_is_taken_for_something() {
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    for needed in ["wipefs", "sgdisk", "mdadm", "blkid"] {
        if !tool::have(needed) {
            println!("skipped: no {needed}");
            return;
        }
    }
    let stage = Stage::new(small_disk(1, 3 * MIB));
    let end = 32 << 20;
    type Make<'a> = (&'static str, &'static str, Box<dyn Fn(&Path) + 'a>);
    let cases: Vec<Make<'_>> = vec![
        ("md raid superblock 1.0", "linux_raid_member", Box::new(|path| write_md(path, "1.0"))),
        ("md raid superblock 0.90", "linux_raid_member", Box::new(|path| write_md(path, "0.90"))),
        ("backup GPT", "gpt", Box::new(write_gpt)),
        ("ddf raid member", "", Box::new(write_bytes(b"\xde\x11\xde\x11", end - 512))),
        (
            "promise raid member",
            "",
            Box::new(write_bytes(b"Promise Technology, Inc.", end - 63 * 512)),
        ),
        ("luks header", "", Box::new(write_bytes(b"SKUL\xba\xbe\0\x02", 4 << 20))),
    ];
    for (what, kind, make) in cases {
        let device = used_device(&stage, &*make);
        let before = signatures(&device);
        assert!(before.contains(kind), "{what}: {before}");
        let restore = stage.plan(device.path(), forced()).expect("planned");
        let plan = restore.describe().clone();
        assert!(plan.wiped.iter().any(|wiped| wiped.what == what), "{what}: {:?}", plan.wiped);
        assert_eq!(plan.stays.0, 29 << 20);
        drop(restore);
        // What is left there is not to be lost unasked.
        let options = RestoreOptions::default();
        let refused = stage.plan(device.path(), options).expect("planned").run(&Silent);
        assert_eq!(refused.expect_err(what).kind(), ErrorKind::Conflict);
        assert_eq!(signatures(&device), before, "{what}: it was written");
        stage.restore(device.path(), forced());
        assert_eq!(signatures(&device), "", "{what}");
        assert!(tool::run("mdadm", &["--examine", text(device.path())]).is_err(), "{what}");
        assert!(tool::run("blkid", &["-p", text(device.path())]).is_err(), "{what}");
        let cut = (3 * MIB).to_string();
        let paths = [text(&stage.path("disk")).to_owned(), text(device.path()).to_owned()];
        tool::run("cmp", &["-n", &cut, &paths[0], &paths[1]]).expect("the same");
    }
}

#[test]
fn a_moved_table_replaces_what_was_at_the_end() {
    if LoopDevice::unavailable().is_some() || !tool::have("sgdisk") || !tool::have("wipefs") {
        println!("skipped: no loop devices, sgdisk or wipefs");
        return;
    }
    let stage = Stage::new(gpt_disk());
    let make = |path: &Path| {
        write_gpt(path);
        write_md(path, "0.90");
    };
    let device = used_device(&stage, &make);
    let plan = stage.restore(device.path(), forced());
    let wiped: Vec<_> = plan.wiped.iter().map(|wiped| wiped.what).collect();
    // The table's new end is written where the old one's was.
    assert_eq!(wiped, ["md raid superblock 0.90"]);
    let said = tool::run("sgdisk", &["-v", text(device.path())]).expect("it looks");
    assert!(said.contains("No problems found"), "{said}");
    assert!(!signatures(&device).contains("raid"));
    // Kept small, the old end is another disk's.
    drop(device);
    let device = used_device(&stage, &make);
    let plan = stage.restore(device.path(), RestoreOptions { keep_table: true, ..forced() });
    assert!(plan.wiped.iter().any(|wiped| wiped.what == "backup GPT"), "{:?}", plan.wiped);
    let image = fs::read(stage.path("disk")).expect("read");
    let mut restored = fs::read(device.path()).expect("read");
    let behind = restored.split_off(image.len());
    assert!(behind.rchunks(512).next().expect("a sector").iter().all(|byte| *byte == 0));
    assert!(restored == image);
}

#[test]
fn a_disk_without_a_byte_gives_no_image() {
    let stage = Stage::new(small_disk(1, MIB));
    let empty = file(stage.folder.path(), "empty", b"");
    let mut sources = vec![(empty, "is empty")];
    let mut devices = Vec::new();
    if LoopDevice::unavailable().is_none() {
        // Less than a sector gives a device of no size, like one that nothing is attached to.
        let short = file(stage.folder.path(), "short", &[7; 100]);
        let device = LoopDevice::attach(&short).expect("attached");
        let path = device.path().to_owned();
        assert_eq!(
            tool::run("blockdev", &["--getsize64", text(&path)]).expect("asked").trim(),
            "0"
        );
        devices.push(device);
        sources.push((path, "has no medium"));
    }
    for (source, words) in sources {
        let options = CaptureOptions { name: Some("none".to_owned()), ..CaptureOptions::default() };
        let plan = Capture::plan(&stage.repository, &source, options, &Silent);
        let error = plan.err().unwrap_or_else(|| panic!("{} was taken", source.display()));
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    assert_eq!(stage.repository.images().expect("listed").images.len(), 1);
}
