//! What LUKS holds: read with its key, and captured with and without.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imgx_engine::base::{BlockSize, ErrorKind, Silent};
use imgx_engine::job::{Capture, CaptureOptions, CaptureReport, FileDisk};
use imgx_engine::store::Repository;
use imgx_engine::volume::Keys;
use imgx_engine::volume::luks::Secret;
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::luks::{DATA, PASSPHRASE, Sealed};
use imgx_fixtures::lvm::{self, Logical, linear};
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::{mkfs, tool};

use crate::support::folder_in_memory;
use crate::{MIB, assert_holds, content, disk, filesystem, keys, need, restored};

/// Bytes of the group's physical volume, and of the one logical volume in it.
const PHYSICAL: u64 = 60 * MIB;
const LOGICAL: u64 = 48 * MIB;
/// Where the encrypted partition is.
const PARTITION: u64 = 41 * MIB;

/// A disk with an ext4 in its first partition, and one in LVM in LUKS in its second. The volume
/// group is full of noise where the filesystem has nothing.
struct Machine {
    folder: tempfile::TempDir,
    group: String,
    sealed: Sealed,
}

impl Machine {
    fn new(name: &str, sector: usize) -> Self {
        let folder = folder_in_memory();
        let at = |name: &str| folder.path().join(name);
        let group = format!("imgx{name}{}", std::process::id());
        fs::write(at("physical"), incompressible(3, PHYSICAL as usize)).expect("written");
        let extents = LOGICAL / lvm::EXTENT;
        let root = Logical { name: "root", segments: vec![linear(0, extents, (0, 1))] };
        let part = [(0, PHYSICAL)];
        lvm::make_group(&at("physical"), &part, &group, &[root]).expect("LVM's tools run");
        let within = lvm::DATA + lvm::EXTENT;
        let root = OpenOptions::new().write(true).open(at("physical")).expect("opened");
        let inner = filesystem(folder.path(), LOGICAL, "inner");
        // Only what is used of it: the rest stays noise.
        for (number, block) in (0..).zip(inner.chunks(4096)) {
            if block.iter().any(|byte| *byte != 0) || number < 64 {
                root.write_all_at(block, within + number * 4096).expect("written");
            }
        }
        mkfs::blank(&at("sealed"), DATA + PHYSICAL).expect("made");
        let sealed = Sealed::format(&at("sealed"), sector).expect("cryptsetup runs");
        let plain = fs::read(at("physical")).expect("read");
        sealed.write(&at("sealed"), &plain).expect("written");

        mkfs::blank(&at("disk"), PARTITION + DATA + PHYSICAL + 2 * MIB).expect("made");
        let table = format!("label: gpt\nstart=1M, size=40M\nstart=41M, size={}\n", size());
        mkfs::sfdisk(&at("disk"), &table).expect("made");
        let file = OpenOptions::new().write(true).open(at("disk")).expect("opened");
        let boot = filesystem(folder.path(), 40 * MIB, "boot");
        file.write_all_at(&boot, MIB).expect("written");
        let bytes = fs::read(at("sealed")).expect("read");
        file.write_all_at(&bytes, PARTITION).expect("written");
        Self { folder, group, sealed }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn root(&self) -> String {
        format!("p2/luks/{}/root", self.group)
    }

    fn captured(&self, repository: &Repository, keys: Arc<Keys>) -> CaptureReport {
        let options = CaptureOptions { keys, name: Some("disk".into()), ..Default::default() };
        let capture = Capture::plan(repository, &self.at("disk"), options, &Silent);
        capture.and_then(|capture| capture.run(&Silent)).expect("it is captured")
    }

    fn restored(&self, repository: &Repository) -> PathBuf {
        restored(repository, self.folder.path())
    }

    /// The filesystem in the encrypted volume of the disk `path`, by another's cipher.
    fn inner_of(&self, path: &Path) -> PathBuf {
        let partition = self.at("partition");
        let mut bytes = Vec::new();
        let mut file = File::open(path).expect("opened");
        file.seek(SeekFrom::Start(PARTITION)).expect("there");
        file.take(DATA + PHYSICAL).read_to_end(&mut bytes).expect("read");
        fs::write(&partition, bytes).expect("written");
        let plain = self.sealed.read(&partition, PHYSICAL as usize).expect("decrypted");
        let start = (lvm::DATA + lvm::EXTENT) as usize;
        fs::write(self.at("inner"), &plain[start..start + LOGICAL as usize]).expect("written");
        self.at("inner")
    }
}

/// The encrypted partition's bytes, as sfdisk wants them.
fn size() -> String {
    format!("{}K", (DATA + PHYSICAL) / 1024)
}

fn repository(machine: &Machine, name: &str) -> Repository {
    let block = BlockSize::new(16_384).expect("valid");
    Repository::create(&machine.at(name), block).expect("created")
}

macro_rules! need_all {
    () => {
        need!("cryptsetup", "vgcfgrestore", "sfdisk", "mke2fs", "e2fsck");
        if let Some(reason) = LoopDevice::unavailable() {
            println!("skipped: {reason}");
            return;
        }
    };
}

#[test]
fn files_in_lvm_in_luks_are_read_with_the_key() {
    need_all!();
    let machine = Machine::new("read", 512);
    let mut closed = disk(&machine.at("disk"));
    assert_holds(&mut closed, "p1", "boot");
    let told: Vec<String> =
        closed.closed().map(|(volume, why)| format!("{}: {why}", volume.name)).collect();
    assert!(told.len() == 1 && told[0].starts_with("p2: it holds luks"), "{told:?}");
    let root = machine.root();
    let error = closed.open(Some(&root)).err().expect("it is closed");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");

    let unlocked = |keys: &Arc<Keys>| disk(&machine.at("disk")).unlocked(keys);
    let mut open = unlocked(&keys("p2", PASSPHRASE)).expect("it opens");
    assert_eq!(open.closed().count(), 0);
    let names: Vec<&str> = open.layout().volumes.iter().map(|v| v.name.as_str()).collect();
    assert_eq!(names, ["p1", "p2", "p2/luks", &root]);
    let group = &machine.group;
    for selector in [&root, "root", &format!("{group}/root"), "LABEL=inner"] {
        let volume = assert_holds(&mut open, selector, "inner");
        assert_eq!(volume.name, root);
    }
    let uuid = open.layout().volume("p2").and_then(|p2| p2.content.clone()).expect("it is known");
    let by_uuid = keys(&format!("UUID={}", uuid.uuid.expect("it has one")), PASSPHRASE);
    assert_holds(&mut unlocked(&by_uuid).expect("it opens"), &root, "inner");

    for (selector, secret, kind, told) in [
        ("p2", "battery staple", ErrorKind::Key, "volume p2"),
        ("p3", PASSPHRASE, ErrorKind::NotFound, "no volume p3"),
        ("p1", PASSPHRASE, ErrorKind::Invalid, "p1 is not encrypted"),
    ] {
        let error = unlocked(&keys(selector, secret)).err().expect("it does not open");
        assert!(error.kind() == kind && error.to_string().contains(told), "{selector}: {error}");
    }
}

#[test]
fn a_key_is_asked_for_only_where_none_was_given() {
    need_all!();
    let machine = Machine::new("asked", 512);
    let asking = |secret: Option<&'static str>| {
        let ask = move |volume: &imgx_engine::volume::Volume| {
            assert_eq!(volume.name, "p2");
            Ok(secret.map(|secret| Secret::new(secret.as_bytes().to_vec())))
        };
        Arc::new(Keys::default().asking(Box::new(ask)))
    };
    let opened = |keys| disk(&machine.at("disk")).unlocked(&keys);
    let mut open = opened(asking(Some(PASSPHRASE))).expect("it opens");
    assert_holds(&mut open, "root", "inner");
    let closed = opened(asking(None)).expect("it stays closed");
    assert_eq!(closed.closed().count(), 1);
    let error = opened(asking(Some("wrong"))).err().expect("it does not open");
    assert_eq!(error.kind(), ErrorKind::Key, "{error}");
}

#[test]
fn a_header_that_is_kept_apart_opens_its_volume() {
    need_all!();
    let machine = Machine::new("apart", 512);
    let header = machine.at("header");
    let mut bytes = fs::read(machine.at("disk")).expect("read");
    let (start, end) = (PARTITION as usize, (PARTITION + DATA) as usize);
    fs::write(&header, &bytes[start..end]).expect("written");
    // The payload stays where the header says that it is.
    bytes[start..end].fill(0);
    fs::write(machine.at("disk"), &bytes).expect("written");
    let file = imgx_engine::block::Disk::open_to_browse(&header).expect("opened");
    let secret = Secret::new(PASSPHRASE.as_bytes().to_vec());
    let keys = Keys::default().with_header("p2".into(), Arc::new(file));
    let keys = Arc::new(keys.with_secret("p2".into(), secret));
    let mut open = disk(&machine.at("disk")).unlocked(&keys).expect("it opens");
    assert_holds(&mut open, "root", "inner");
}

#[test]
fn a_capture_keeps_the_ciphertext_bit_by_bit() {
    need_all!();
    let machine = Machine::new("bits", 512);
    let repository = repository(&machine, "repository");
    machine.captured(&repository, Arc::default());
    let back = fs::read(machine.restored(&repository)).expect("read");
    let disk = fs::read(machine.at("disk")).expect("read");
    let (start, end) = (PARTITION as usize, (PARTITION + DATA + PHYSICAL) as usize);
    assert!(back[start..end] == disk[start..end], "the ciphertext differs");
    let image = || FileDisk::of_image(repository.reader(&repository.images().unwrap().images[0]));
    let mut open = image().expect("read").unlocked(&keys("p2", PASSPHRASE)).expect("it opens");
    assert_holds(&mut open, "root", "inner");
}

#[test]
fn what_the_inside_does_not_use_is_left_out_with_the_key() {
    need_all!();
    for sector in [512, 4096] {
        let machine = Machine::new(&format!("used{sector}"), sector);
        let repository = repository(&machine, "repository");
        let report = machine.captured(&repository, keys("p2", PASSPHRASE));
        let root = machine.root();
        let of_root = |report: &CaptureReport| {
            let mut all = report.manifest.allocation.iter();
            let found = all.find(|found| found.volume == root).cloned();
            found.unwrap_or_else(|| panic!("no {root}: {:?}", report.manifest.allocation))
        };
        let found = of_root(&report);
        assert_eq!(found.doubt, None, "{found:?}");
        assert!(found.unallocated > LOGICAL / 2, "{found:?}");
        let back = machine.restored(&repository);
        let inner = machine.inner_of(&back);
        let checked = tool::run("e2fsck", &["-f", "-n", inner.to_str().expect("plain")]);
        checked.expect("the restored filesystem is sound");
        let opened = disk(&back).unlocked(&keys("p2", PASSPHRASE));
        assert_holds(&mut opened.expect("it opens"), &root, "inner");

        // Neither the volume's key nor what opens it is in the repository.
        let mut names = vec![machine.at("repository")];
        while let Some(path) = names.pop() {
            if path.is_dir() {
                names.extend(fs::read_dir(&path).expect("listed").flatten().map(|e| e.path()));
                continue;
            }
            let bytes = fs::read(&path).expect("read");
            for secret in [machine.sealed.key(), PASSPHRASE.as_bytes()] {
                let found = bytes.windows(secret.len()).any(|window| window == secret);
                assert!(!found, "a key is in {}", path.display());
            }
        }

        // The next image, of what changed inside, is right as well.
        let inner = machine.inner_of(&machine.at("disk"));
        let plain = inner.to_str().expect("plain");
        fs::write(machine.at("late"), content("late")).expect("written");
        let script = format!("write {} late\nrm first\n", machine.at("late").display());
        fs::write(machine.at("script"), script).expect("written");
        let script = machine.at("script");
        tool::run("debugfs", &["-w", "-f", script.to_str().expect("plain"), plain]).expect("ran");
        let mut physical = machine.sealed.read(&machine.at("partition"), PHYSICAL as usize);
        let start = (lvm::DATA + lvm::EXTENT) as usize;
        let changed = fs::read(&inner).expect("read");
        let physical = physical.as_mut().expect("decrypted");
        physical[start..start + changed.len()].copy_from_slice(&changed);
        machine.sealed.write(&machine.at("sealed"), physical).expect("written");
        let file = OpenOptions::new().write(true).open(machine.at("disk")).expect("opened");
        let bytes = fs::read(machine.at("sealed")).expect("read");
        file.write_all_at(&bytes, PARTITION).expect("written");
        let report = machine.captured(&repository, keys("p2", PASSPHRASE));
        assert_eq!(of_root(&report).doubt, None);
        let back = machine.restored(&repository);
        let mut opened = disk(&back).unlocked(&keys("p2", PASSPHRASE)).expect("it opens");
        let volume = opened.open(Some("root")).expect("opened");
        let late = crate::read(&volume, "/late").expect("read");
        assert!(late == content("late"), "the late file differs");
        assert!(crate::read(&volume, "/first").is_err(), "it was removed");
    }
}

/// One physical volume is a partition, the other one is in LUKS; the logical volume that lies on
/// both is a machine's disk. So it can be looked into only after the key has opened the second.
#[test]
fn a_group_that_is_partly_encrypted_is_whole_with_the_key() {
    need_all!();
    let folder = folder_in_memory();
    let at = |name: &str| folder.path().join(name);
    let group = format!("imgxpart{}", std::process::id());
    let part = 40 * MIB;
    mkfs::blank(&at("physical"), 2 * part).expect("made");
    let segments = vec![linear(0, 8, (0, 0)), linear(8, 8, (1, 0))];
    let root = [Logical { name: "root", segments }];
    lvm::make_group(&at("physical"), &[(0, part), (part, part)], &group, &root).expect("made");

    mkfs::blank(&at("machine"), 64 * MIB).expect("made");
    mkfs::sfdisk(&at("machine"), "label: dos\nstart=1M, size=62M\n").expect("made");
    let mut machine = fs::read(at("machine")).expect("read");
    let guest = filesystem(folder.path(), 62 * MIB, "guest");
    machine[MIB as usize..][..guest.len()].copy_from_slice(&guest);
    let mut physical = fs::read(at("physical")).expect("read");
    for (number, half) in machine.chunks(32 << 20).enumerate() {
        let start = number * part as usize + lvm::DATA as usize;
        physical[start..start + half.len()].copy_from_slice(half);
    }
    mkfs::blank(&at("sealed"), DATA + part).expect("made");
    let sealed = Sealed::format(&at("sealed"), 512).expect("cryptsetup runs");
    sealed.write(&at("sealed"), &physical[part as usize..]).expect("written");
    mkfs::blank(&at("disk"), 2 * part + DATA + 2 * MIB).expect("made");
    let table = "label: gpt\nstart=1M, size=40M\nstart=41M, size=56M\n";
    mkfs::sfdisk(&at("disk"), table).expect("made");
    let file = OpenOptions::new().write(true).open(at("disk")).expect("opened");
    file.write_all_at(&physical[..part as usize], MIB).expect("written");
    let bytes = fs::read(at("sealed")).expect("read");
    file.write_all_at(&bytes, MIB + part).expect("written");

    let root = format!("{group}/root");
    let closed = disk(&at("disk"));
    let told: Vec<&str> = closed.closed().map(|(volume, _)| volume.name.as_str()).collect();
    assert_eq!(told, ["p2", &root]);
    let mut open = closed.unlocked(&keys("p2", PASSPHRASE)).expect("it opens");
    assert_eq!(open.closed().count(), 0);
    assert_holds(&mut open, &format!("{root}/p1"), "guest");
}
