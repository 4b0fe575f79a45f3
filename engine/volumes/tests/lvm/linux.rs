//! What Linux made and read in the virtual machine of `tests/vm-lvm`: a part of it is kept here,
//! all of it is read where the variable `IMGX_VM_LVM` names the folders.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use imgx_volumes::base::{ErrorKind, ReadAt};
use imgx_volumes::volume::lvm::{Group, Groups, Kind};

use crate::support::{Sparse, sum};

const NAMES: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];

/// A folder with the disks of one boot, and `volumes`: name, size and SHA-256 of each.
struct Boot {
    disks: Vec<Arc<dyn ReadAt>>,
    volumes: HashMap<String, (u64, String)>,
}

impl Boot {
    fn read(folder: &Path) -> Self {
        let disk = |name: &&str| -> Arc<dyn ReadAt> {
            let packed = folder.join(format!("{name}.zst"));
            match File::open(&packed) {
                Ok(file) => Arc::new(Sparse::read(zstd::Decoder::new(file).unwrap())),
                Err(_) => Arc::new(Sparse::read(File::open(folder.join(name)).unwrap())),
            }
        };
        let text = fs::read_to_string(folder.join("volumes")).unwrap();
        let line = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            let mut next = || words.next().unwrap();
            (next(), (next().parse().unwrap(), next()))
        };
        Self { disks: NAMES.iter().map(disk).collect(), volumes: text.lines().map(line).collect() }
    }

    /// The groups on the disks but for those called so.
    fn groups(&self, without: &str) -> Vec<Group> {
        let is_there = |(name, _): &(&&str, _)| !without.contains(**name);
        let disks = NAMES.iter().zip(&self.disks).filter(is_there).map(|(_, disk)| disk.clone());
        let Groups { groups, damage } = Group::read(&disks.collect::<Vec<_>>());
        assert!(damage.is_empty(), "{damage:?}");
        groups
    }

    /// Compares the volumes called `names` with what Linux read; all are there or none is.
    fn compare(&self, without: &str, names: &[&str]) {
        let groups = self.groups(without);
        for name in names {
            let (group, volume) = name.split_once('/').unwrap();
            let group = groups.iter().find(|one| one.name() == group).expect("its group");
            let opened = group.open(volume).unwrap_or_else(|error| panic!("{error}"));
            let (size, expected) = &self.volumes[*name];
            assert_eq!(opened.size().0, *size, "{name}");
            let found = sum(opened.as_ref()).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(&found, expected, "{name} without disks {without:?}");
        }
    }
}

/// The folders with what Linux made: at the first boot, shut down; at the second, cut off.
static BOOTS: LazyLock<Vec<(PathBuf, Boot)>> = LazyLock::new(|| {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/data/lvm");
    let folder = std::env::var_os("IMGX_VM_LVM").map_or(kept, PathBuf::from);
    let boot = |name| {
        let folder = folder.join(name);
        let boot = Boot::read(&folder);
        (folder, boot)
    };
    ["boot-1", "boot-2"].map(boot).into()
});

/// Volumes that are refused, and a word of why; the cache that Linux had shut down is not.
const REFUSED: [(&str, &str); 5] = [
    ("vg/pool", "no bytes of its own"),
    ("vg/error", "type error"),
    ("vg/s3", "invalid"),
    ("vg/wd", "dirty"),
    ("vg/ca", "not shut down"),
];

#[test]
fn every_volume_that_is_read_is_what_linux_read() {
    for (folder, boot) in BOOTS.iter() {
        let is_first = folder.ends_with("boot-1");
        let mut read = 0;
        // The second boot left the other group alone.
        let groups = boot.groups("").into_iter();
        for group in groups.filter(|group| is_first || group.name() == "vg") {
            for volume in group.volumes() {
                let name = format!("{}/{}", group.name(), volume.name);
                let refused = REFUSED.iter().find(|(one, _)| *one == name);
                let refused = refused.filter(|_| name != "vg/ca" || !is_first);
                // Whether Linux had cleaned this one yet is not for us to say.
                let is_cache = name == "vg/cd";
                match (&volume.problem, refused) {
                    (None, None) => {
                        boot.compare("", &[&name]);
                        read += 1;
                    }
                    (Some(error), Some((_, why))) => {
                        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
                        assert!(error.to_string().contains(why), "{error}");
                    }
                    (Some(error), None) if is_cache => {
                        let why = if is_first { "dirty" } else { "not shut down" };
                        assert!(error.to_string().contains(why), "{error}");
                    }
                    (problem, _) => panic!("{}: {name}: {problem:?}", folder.display()),
                }
                if let Some((size, _)) = boot.volumes.get(&name) {
                    assert_eq!(volume.length, *size, "{name}");
                }
            }
        }
        println!("{}: {read} volumes are equal", folder.display());
        assert!(read >= 30, "only {read} volumes were read");
    }
}

#[test]
fn kinds_are_named() {
    let (_, boot) = &BOOTS[0];
    let groups = boot.groups("");
    let group = groups.iter().find(|group| group.name() == "vg").unwrap();
    let kinds: HashMap<String, Kind> =
        group.volumes().into_iter().map(|volume| (volume.name, volume.kind)).collect();
    let expected = [
        ("lin", "linear"),
        ("str", "striped"),
        ("r0", "raid0"),
        ("r1", "raid1"),
        ("r4", "raid4"),
        ("r5la", "raid5"),
        ("r6nc", "raid6"),
        ("r10", "raid10"),
        ("mir", "mirror"),
        ("pool", "thin-pool"),
        ("t1s", "thin"),
        ("s1", "snapshot"),
        ("orig", "linear"),
        ("ca", "cache"),
        ("wc", "writecache"),
        ("zero", "zero"),
        ("error", "error"),
    ];
    for (name, kind) in expected {
        assert_eq!(kinds[name].name(), kind, "{name}");
    }
    assert!(!kinds.keys().any(|name| name.contains('_') || name.starts_with("snapshot")));
    assert!(group.missing().is_empty(), "{:?}", group.missing());
}

#[test]
fn arrays_and_mirrors_do_without_a_disk() {
    let copies = ["vg/r1t", "vg/r4", "vg/r5ls", "vg/r5la", "vg/r5rs", "vg/r5ra", "vg/r5n"];
    let parities = ["vg/r6zr", "vg/r6nr", "vg/r6nc"];
    for (folder, boot) in BOOTS.iter() {
        if folder.ends_with("boot-2") {
            // What was being written when the machine stopped is not known to be in sync.
            continue;
        }
        for disk in ["a", "b", "c", "d", "e", "f"] {
            boot.compare(disk, &copies);
            boot.compare(disk, &parities);
            boot.compare(disk, &["vg/r10", "vg/r1"]);
        }
        for disks in ["ab", "bc", "de", "af", "ce"] {
            boot.compare(disks, &parities);
        }
        let group = boot.groups("a").into_iter().find(|group| group.name() == "vg").unwrap();
        let missing = group.missing();
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].device.as_deref(), Some("/dev/vda"));
        let error = group.open("lin").err().expect("half of it is missing").to_string();
        assert!(error.contains("/dev/vda") && error.contains("on another disk"), "{error}");
    }
}

#[test]
fn members_that_came_back_are_out_of_date() {
    let (_, boot) = &BOOTS[0];
    boot.compare("", &["st/st1", "st/st5"]);
    let error = |without, name: &str| {
        let group = boot.groups(without).into_iter().find(|group| group.name() == "st").unwrap();
        group.open(name).err().expect("refused").to_string()
    };
    // The member that came back alone is sound by itself, and old.
    boot.compare("g", &["st/st1"]);
    boot.compare("h", &["st/st1"]);
    assert!(error("g", "st5").contains("lacks"), "{}", error("g", "st5"));
}
