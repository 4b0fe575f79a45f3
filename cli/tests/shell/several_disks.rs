//! Filesystems on several volumes, of one disk or of several that are named with `--with`.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use imgx_fixtures::loopdev::{LoopDevice, Options};
use imgx_fixtures::lvm::{self, Logical, linear};
use imgx_fixtures::pattern::{MIB, incompressible};
use imgx_fixtures::{mkfs, tool};

use crate::support::{Shell, assert_same, flip};

macro_rules! need {
    ($($tool:literal),+) => {
        if let Some(reason) = LoopDevice::unavailable() {
            println!("skipped: {reason}");
            return;
        }
        $(if !tool::have($tool) {
            println!("skipped: no {}", $tool);
            return;
        })+
    };
}

/// A part of a disk's file: first byte and length.
type Part<'a> = (&'a Path, u64, u64);

/// Makes a btrfs of these parts, fills it through the kernel, and copies what the kernel shows of
/// it into `copy`.
fn make(shell: &Shell, parts: &[Part<'_>], profiles: &[&str], copy: &Path) {
    let attach = |(file, start, length): &Part<'_>| {
        let options = Options { offset: *start, size_limit: Some(*length), ..Options::default() };
        LoopDevice::attach_with(file, options).expect("attached")
    };
    let devices: Vec<LoopDevice> = parts.iter().map(attach).collect();
    let names: Vec<&str> = devices.iter().map(|one| one.path().to_str().expect("plain")).collect();
    tool::run("mkfs.btrfs", &[&["-q", "-f"], profiles, &names].concat()).expect("made");
    let point = shell.path("mounted");
    fs::create_dir_all(&point).expect("made");
    let list: Vec<String> = names.iter().map(|name| format!("device={name}")).collect();
    let mounted = point.to_str().expect("plain");
    tool::run("mount", &["-t", "btrfs", "-o", &list.join(","), names[0], mounted])
        .expect("mounted");
    let filled = fill(&point);
    let copied = tool::run("cp", &["-r", mounted, copy.to_str().expect("plain")]);
    tool::run("umount", &[mounted]).expect("unmounted");
    filled.and(copied.map(|_| ())).expect("filled");
}

fn fill(root: &Path) -> std::io::Result<()> {
    fs::create_dir(root.join("folder"))?;
    for number in 0..50 {
        fs::write(root.join(format!("folder/small {number}")), format!("number {number}"))?;
    }
    fs::write(root.join("large"), noise())
}

fn noise() -> Vec<u8> {
    incompressible(5, 7 << 20)
}

fn assert_same_folders(one: &Path, other: &Path) {
    let [one, other] = [one, other].map(|path| path.to_str().expect("plain"));
    tool::run("diff", &["-r", one, other]).expect("they are the same");
}

fn blank(shell: &Shell, name: &str, size: u64) -> PathBuf {
    let path = shell.path(name);
    mkfs::blank(&path, size).expect("made");
    path
}

#[test]
fn what_grew_from_a_seed_is_read_with_the_seeds_disk_beside() {
    need!("mkfs.btrfs", "btrfstune", "btrfs");
    let shell = Shell::new();
    let disks = ["seed", "grown"].map(|name| blank(&shell, name, 200 * MIB));
    let old = shell.path("old");
    make(&shell, &[(disks[0].as_path(), 0, 200 * MIB)], &[], &old);
    tool::run("btrfstune", &["-S", "1", disks[0].to_str().expect("plain")]).expect("a seed");
    let truth = shell.path("truth");
    {
        let devices = [0, 1].map(|number: usize| LoopDevice::attach(&disks[number]).expect("up"));
        let names = [0, 1].map(|number: usize| devices[number].path().to_str().expect("plain"));
        let point = shell.path("mounted");
        let mounted = point.to_str().expect("plain");
        tool::run("mount", &["-t", "btrfs", names[0], mounted]).expect("mounted");
        let grown = tool::run("btrfs", &["device", "add", "-f", names[1], mounted])
            .and_then(|_| tool::run("mount", &["-o", "remount,rw", mounted]))
            .and_then(|_| fs::write(point.join("new"), "new").map(|()| String::new()))
            .and_then(|_| tool::run("cp", &["-r", mounted, truth.to_str().expect("plain")]));
        tool::run("umount", &[mounted]).expect("unmounted");
        grown.expect("grown");
    }
    let extract = |disk: &str, with: &str, to: &str| {
        shell.imgx_without_repository(&format!("extract ./{disk} disk:/ --to {to}{with}"))
    };
    extract("grown", " --with ./seed", "both").exits(0);
    assert_same_folders(&shell.path("both"), &truth);
    extract("seed", "", "alone").exits(0);
    assert_same_folders(&shell.path("alone"), &old);
    let read = shell.imgx_without_repository("cat ./grown /large");
    assert_ne!(read.code, Some(0), "what the seed has is missing");
    read.complains(&["device 1 (", "missing"]);
}

#[test]
fn what_lies_on_two_disks_is_read_from_both_and_a_missing_one_is_named() {
    need!("mkfs.btrfs");
    let profiles = [("raid0", "raid0"), ("single", "raid1"), ("raid1", "raid1")];
    for (data, metadata) in profiles {
        let shell = Shell::with_repository();
        let disks = ["one", "two"].map(|name| blank(&shell, name, 200 * MIB));
        let parts = [0, 1].map(|number: usize| (disks[number].as_path(), 0, 200 * MIB));
        let truth = shell.path("truth");
        make(&shell, &parts, &["-d", data, "-m", metadata], &truth);
        for name in ["one", "two"] {
            shell.imgx(&format!("capture {name}")).exits(0);
        }
        let read = |image: &str, with: &str, to: &str| {
            shell.imgx(&format!("extract {image} disk:/ --to {to}{with}"))
        };
        let together =
            [("one", " --with two"), ("./two", " --with ./one"), ("two", " --with ./one")];
        for (number, (image, with)) in together.into_iter().enumerate() {
            let to = format!("to-{number}");
            read(image, with, &to).exits(0);
            assert_same_folders(&truth, &shell.path(&to));
        }
        shell.imgx("find one large --with two").exits(0).shows(&["disk:/large"]);
        shell.imgx("ls one folder --with two").exits(0).shows(&["small 17"]);
        let last = shell.imgx("cat one /folder/small:/x").exits(1);
        assert!(last.out.is_empty());
        let alone = ["one", "two"].map(|image| read(image, "", &format!("alone-{image}")));
        match (data, metadata) {
            ("raid1", _) => {
                let _all = alone.map(|ended| ended.exits(0));
                assert_same_folders(&truth, &shell.path("alone-two"));
            }
            ("single", _) => {
                let [one, two] = alone;
                let lost = if one.code == Some(0) { two } else { one };
                lost.exits(1).complains(&["disk:large", "device ", "missing", "--with"]);
            }
            _ => {
                let [one, two] = alone;
                one.exits(1).complains(&["device 2 (", "missing", "--with"]);
                two.exits(1).complains(&["device 1 (", "missing", "--with"]);
            }
        }
    }
}

#[test]
fn disks_that_do_not_belong_to_it_are_said_to_be_of_no_use() {
    need!("mkfs.btrfs", "mke2fs");
    let shell = Shell::new();
    let disks = ["one", "two"].map(|name| blank(&shell, name, 200 * MIB));
    let parts = [0, 1].map(|number: usize| (disks[number].as_path(), 0, 200 * MIB));
    make(&shell, &parts, &["-d", "raid0", "-m", "raid0"], &shell.path("truth"));
    let foreign = blank(&shell, "foreign", 20 * MIB);
    tool::run("mke2fs", &["-q", "-F", foreign.to_str().expect("plain")]).expect("made");
    let useless = "nothing on ./foreign is a part of what is on ./one";
    let ended = shell.imgx("ls ./one --with ./foreign").exits(1);
    ended.complains(&["warning", useless, "device 2 ("]);
    shell.imgx("ls ./one --with ./foreign --with ./two").exits(0).complains(&[useless]);
    shell.imgx("ls ./one --with ./nowhere").exits(1).complains(&["--with ./nowhere"]);

    fs::copy(&disks[1], shell.path("copy")).expect("copied");
    let copies = shell.imgx("ls ./one --with ./two --with ./copy");
    assert_eq!(copies.code, Some(2), "{copies:?}");
    copies.complains(&["./two disk", "./copy disk", "one is a copy"]);
    // A copy of the disk itself is of no use, but no harm either.
    fs::copy(&disks[0], shell.path("same")).expect("copied");
    shell.imgx("ls ./one --with ./same --with ./two").exits(0).shows(&["large"]);

    let damaged = File::options().write(true).open(shell.path("copy")).expect("opened");
    for place in [64 << 10, 64 << 20] {
        damaged.write_all_at(&[0x5a; 4096], place).expect("written");
    }
    let ended = shell.imgx("ls ./one --with ./copy").exits(1);
    ended.complains(&["nothing on ./copy", "device 2 ("]);
}

#[test]
fn partitions_of_one_filesystem_are_one() {
    need!("mkfs.btrfs", "sfdisk");
    let shell = Shell::with_repository();
    let disk = blank(&shell, "disk", 500 * MIB);
    mkfs::sfdisk(&disk, "label: gpt\nstart=1M, size=130M\nstart=140M, size=350M\n").expect("made");
    // The kernel puts data on the larger one.
    let parts = [(disk.as_path(), MIB, 130 * MIB), (disk.as_path(), 140 * MIB, 350 * MIB)];
    let truth = shell.path("truth");
    make(&shell, &parts, &["-d", "single", "-m", "raid1"], &truth);
    shell.imgx("capture disk").exits(0);
    shell.imgx("show disk").exits(0).shows(&["p1, p2 are of one btrfs"]);
    let document = shell.imgx("--json show disk").exits(0).document();
    let uuid = document["layout"]["volumes"][1]["content"]["uuid"].as_str().expect("it has one");
    let selectors = ["", "p1:/", "p2:/", &format!("UUID={uuid}:/")].map(str::to_owned);
    for (number, selector) in selectors.iter().enumerate() {
        let path = if selector.is_empty() { "/" } else { selector };
        shell.imgx(&format!("extract disk {path} --to to-{number}")).exits(0);
        assert_same_folders(&truth, &shell.path(&format!("to-{number}")));
    }
    let found = shell.imgx("find disk large").exits(0);
    assert_eq!(found.out, "p1:/large\n");

    // What is lost of the second partition costs the file that lies there.
    let part = noise()[3 << 20..][..64].to_vec();
    let place = |pack: &PathBuf| {
        let bytes = fs::read(pack).expect("read");
        let found = bytes.windows(part.len()).position(|window| window == part);
        found.map(|at| (pack.clone(), at as u64))
    };
    let (pack, at) = shell.objects("packs").iter().find_map(place).expect("noise is kept as it is");
    flip(&pack, at);
    shell.imgx("verify").exits(3).complains(&["file p1:/large"]);
    flip(&pack, at);
    shell.imgx("verify").exits(0);
}

#[test]
fn logical_volumes_of_a_group_on_two_disks_are_read_from_both() {
    need!("vgcfgrestore", "mke2fs");
    let shell = Shell::new();
    let both = blank(&shell, "both", 80 * MIB);
    let group = format!("imgxw{}", std::process::id());
    let segments = vec![linear(0, 2, (1, 0)), linear(2, 3, (0, 1))];
    let volume = Logical { name: "turned", segments };
    let halves = [(0, 40 * MIB), (40 * MIB, 40 * MIB)];
    lvm::make_group(&both, &halves, &group, &[volume]).expect("LVM's tools run");
    let (ext, content) = (blank(&shell, "ext4", 20 * MIB), shell.path("content"));
    fs::create_dir(&content).expect("made");
    fs::write(content.join("file"), incompressible(3, 9 << 20)).expect("written");
    let [ext, folder] = [&ext, &content].map(|path| path.to_str().expect("plain"));
    tool::run("mke2fs", &["-q", "-F", "-d", folder, ext]).expect("made");
    let (bytes, disk) = (fs::read(ext).expect("read"), fs::read(&both).expect("read"));
    let cut = usize::try_from(2 * lvm::EXTENT).expect("small");
    let pieces = [(0, 1, &bytes[cut..]), (1, 0, &bytes[..cut])];
    for (number, extent, piece) in pieces {
        let start = usize::try_from(number * 40 * MIB).expect("small");
        let path = shell.write(&format!("half-{number}"), &disk[start..][..40 << 20]);
        let file = File::options().write(true).open(path).expect("opened");
        file.write_all_at(piece, lvm::DATA + extent * lvm::EXTENT).expect("written");
    }
    let path = format!("{group}/turned:/file");
    for (number, other) in [(0, 1), (1, 0)] {
        let line = format!("extract ./half-{number} {path} --with ./half-{other} --to {number}");
        shell.imgx(&line).exits(0);
        assert_same(&content.join("file"), &shell.path(&format!("{number}/file")));
        let alone = shell.imgx(&format!("cat ./half-{number} {path}")).exits(1);
        alone.complains(&["is on another disk"]);
    }
}

#[test]
fn what_lies_on_two_disks_is_shown_drawn_and_compared_with_both() {
    need!("mkfs.btrfs");
    let shell = Shell::with_repository();
    let disks = ["one", "two"].map(|name| blank(&shell, name, 200 * MIB));
    let parts = [0, 1].map(|number: usize| (disks[number].as_path(), 0, 200 * MIB));
    make(&shell, &parts, &["-d", "raid0", "-m", "raid0"], &shell.path("truth"));
    let capture = || ["one", "two"].map(|name| shell.imgx(&format!("capture {name}")).exits(0));
    capture();
    for name in ["one", "two"] {
        fs::copy(shell.path(name), shell.path(&format!("{name}-before"))).expect("copied");
    }
    change(&shell, &disks);
    capture();
    let expected = ["A  disk:/new", "M  disk:/folder/small 17 (", "1 added, 1 changed"];
    let pairs = [
        "one~1 one --with two~1 --with two",
        "one~1 one --with two --with two~1",
        "two~1 two --with one~1 --with one",
        "./one-before ./one --with ./two-before --with ./two",
        "one~1 ./one --with two~1 --with ./two",
    ];
    for (number, pair) in pairs.into_iter().enumerate() {
        let ended = shell.imgx(&format!("diff --files {pair}"));
        match number {
            // The states are exchanged: neither filesystem is whole.
            1 => assert_ne!(ended.code, Some(0), "{pair}: {}", ended.out),
            _ => drop(ended.exits(0).shows(&expected)),
        }
    }
    // What is given once stands beside both.
    let same = shell.imgx("diff --files one ./one --with two").exits(0);
    same.shows(&["no file differs"]);
    shell.imgx("diff one~1 one --with two").exits(2).complains(&["--files"]);
    shell.imgx("show one --with two").exits(0).shows(&["btrfs"]);
    shell.imgx("map one~1 one --with two").exits(0).shows(&["btrfs"]);
}

/// Changes a file of a btrfs on two disks, and makes another.
fn change(shell: &Shell, disks: &[PathBuf; 2]) {
    let devices = disks.each_ref().map(|disk| LoopDevice::attach(disk).expect("attached"));
    let names = devices.each_ref().map(|device| device.path().to_str().expect("plain").to_owned());
    let point = shell.path("mounted");
    let mounted = point.to_str().expect("plain");
    let list = names.each_ref().map(|name| format!("device={name}")).join(",");
    tool::run("mount", &["-t", "btrfs", "-o", &list, &names[0], mounted]).expect("mounted");
    let changed = fs::write(point.join("folder/small 17"), "changed")
        .and_then(|()| fs::write(point.join("new"), "new"));
    tool::run("umount", &[mounted]).expect("unmounted");
    changed.expect("written");
}

#[test]
fn a_group_on_two_disks_is_shown_whole_with_both() {
    need!("vgcfgrestore");
    let shell = Shell::with_repository();
    let both = blank(&shell, "both", 80 * MIB);
    let group = format!("imgxs{}", std::process::id());
    let segments = vec![linear(0, 2, (1, 0)), linear(2, 3, (0, 1))];
    let halves = [(0, 40 * MIB), (40 * MIB, 40 * MIB)];
    lvm::make_group(&both, &halves, &group, &[Logical { name: "turned", segments }])
        .expect("LVM's tools run");
    let disk = fs::read(&both).expect("read");
    for number in 0..2 {
        shell.write(&format!("half-{number}"), &disk[number * (40 << 20)..][..40 << 20]);
        shell.imgx(&format!("capture half-{number}")).exits(0);
    }
    for (one, other) in [("half-0", "half-1"), ("./half-1", "./half-0")] {
        shell.imgx(&format!("show {one}")).exits(0).shows(&["is on another disk"]);
        let whole = shell.imgx(&format!("show {one} --with {other}")).exits(0);
        assert!(!whole.out.contains("cannot be read"), "{}", whole.out);
        let document = shell.imgx(&format!("--json show {one} --with {other}")).exits(0).document();
        let volumes = document["layout"]["volumes"].as_array().expect("a list").clone();
        let turned = volumes.iter().find(|one| one["name"] == format!("{group}/turned"));
        assert_eq!(turned.expect("it is there")["unsupported"], serde_json::Value::Null);
    }
    let map = shell.imgx("--json map half-0 --with half-1").exits(0).document();
    let names = map["volumes"].as_array().expect("a list").clone();
    let turned = names.iter().find(|one| one["name"] == format!("{group}/turned"));
    assert_eq!(turned.expect("it is there")["unsupported"], serde_json::Value::Null);
}
