//! Files and folders that are encrypted, sealed, or ignore case.

use std::fs::{self, File};

use imgx_engine::base::ErrorKind;
use imgx_engine::fs::{Filesystem, Protection};
use imgx_fixtures::tool;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::fixture::{Fixture, MIB, open};
use crate::need_mounts;

fn debugfs(fixture: &Fixture, requests: &str) {
    let image = fixture.image();
    let image = image.to_str().expect("plain");
    tool::run_with_input("debugfs", &["-w", "-f", "-", image], requests).expect("debugfs runs");
}

fn find(filesystem: &dyn Filesystem, path: &str) -> Option<imgx_engine::fs::FileId> {
    path.split('/').try_fold(filesystem.root(), |folder, name| {
        filesystem.lookup(folder, name.as_bytes()).expect("searched")
    })
}

#[test]
fn encrypted_files_are_listed_named_and_not_read() {
    need_mounts!();
    if !tool::have("xfs_io") {
        println!("skipped: no xfs_io");
        return;
    }
    let fixture = Fixture::make(64 * MIB, &["-t", "ext4", "-O", "encrypt"]);
    let (secret, lengths) = ("not for everyone".repeat(1000), [1, 15, 16, 17, 100, 200]);
    {
        let mount = fixture.mount(&fixture.image(), "noatime");
        let root = mount.root().to_str().expect("plain");
        let added = tool::run_with_input("xfs_io", &["-c", "add_enckey", root], &"k".repeat(64));
        let Ok(added) = added else {
            println!("skipped: this kernel does not encrypt");
            return;
        };
        let key = added.trim().rsplit(' ').next().expect("an identifier");
        let folder = format!("{root}/locked");
        fs::create_dir(&folder).expect("made");
        tool::run("xfs_io", &["-c", &format!("set_encpolicy -v 2 {key}"), &folder])
            .expect("the folder is encrypted");
        for length in lengths {
            fs::write(format!("{folder}/{}", "n".repeat(length)), &secret).expect("written");
        }
        fs::create_dir(format!("{folder}/inner")).expect("made");
        std::os::unix::fs::symlink("target", format!("{folder}/link")).expect("made");
        fs::write(format!("{root}/plain"), "for everyone").expect("written");
    }
    // Without the key, the kernel counts the same files of the same sizes.
    let mut expected: Vec<(u64, bool)> = {
        let mount = fixture.mount(&fixture.image(), "ro");
        let entries = fs::read_dir(mount.root().join("locked")).expect("listed");
        let found = entries.map(|entry| entry.expect("listed").metadata().expect("told"));
        found
            .map(|found| (if found.is_symlink() { 0 } else { found.len() }, found.is_dir()))
            .collect()
    };
    let filesystem = open(&fixture.image()).expect("opened");
    let notes = filesystem.info().notes.join(" ");
    assert!(notes.contains("encrypted"), "{notes}");
    let locked = find(filesystem.as_ref(), "locked").expect("found");
    let mut found = Vec::new();
    let listed = filesystem.list(locked, &mut |entry| {
        let file = entry.expect("sound").file;
        let metadata = filesystem.metadata(file).expect("told");
        assert_eq!(metadata.protection, Protection::Encrypted);
        let kind = match metadata.file_type {
            imgx_engine::fs::FileType::Regular => filesystem.open(file).map(drop),
            imgx_engine::fs::FileType::Symlink => filesystem.link_target(file).map(drop),
            _ => Err(imgx_engine::base::Error::new(ErrorKind::Unsupported, "a folder")),
        };
        assert_eq!(kind.expect_err("there is no key").kind(), ErrorKind::Unsupported);
        let is_link = metadata.file_type == imgx_engine::fs::FileType::Symlink;
        let is_folder = metadata.file_type == imgx_engine::fs::FileType::Directory;
        found.push((if is_link { 0 } else { metadata.size }, is_folder));
        std::ops::ControlFlow::Continue(())
    });
    listed.expect("listed");
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(found.len(), lengths.len() + 2);
    let plain = find(filesystem.as_ref(), "plain").expect("found");
    assert_eq!(filesystem.metadata(plain).expect("told").protection, Protection::None);
    filesystem.open(plain).expect("opened");
}

/// What a folder that ignores case finds; made by debugfs, as few kernels know them.
#[test]
fn folders_that_ignore_case_find_names_in_any_case() {
    need_mounts!();
    let fixture = Fixture::make(64 * MIB, &["-t", "ext4"]);
    fixture.fill(|root| {
        for (folder, names) in
            [("ascii", ["Some File", "OTHER"]), ("beyond", ["stra\u{df}e", "\u{c9}t\u{e9}"])]
        {
            fs::create_dir(root.join(folder)).expect("made");
            for name in names {
                fs::write(root.join(folder).join(name), name).expect("written");
            }
        }
    });
    let flags = |folder: &str| format!("sif {folder} flags 0x40080000\n");
    let features = "feature casefold\nssv encoding 1\n";
    debugfs(&fixture, &[features, &flags("ascii"), &flags("beyond")].concat());
    let filesystem = open(&fixture.image()).expect("opened");
    let notes = filesystem.info().notes.join(" ");
    assert!(notes.contains("ignore case"), "{notes}");
    let folder = |name| find(filesystem.as_ref(), name).expect("found");
    let lookup = |at, name: &str| filesystem.lookup(folder(at), name.as_bytes());
    let metadata = filesystem.metadata(folder("ascii")).expect("told");
    assert_eq!(metadata.protection, Protection::Casefold);
    for (name, other) in [("some file", "SOME FILE"), ("other", "Other")] {
        let found = lookup("ascii", name).expect("searched");
        assert!(found.is_some() && found == lookup("ascii", other).expect("searched"), "{name}");
    }
    assert_eq!(lookup("ascii", "nothing").expect("it is certain"), None);
    for name in ["stra\u{df}e", "STRA\u{df}E", "\u{c9}t\u{e9}", "\u{e9}T\u{c9}"] {
        assert!(lookup("beyond", name).expect("searched").is_some(), "{name}");
    }
    // In its other normal form the kernel finds it; here that is not known, and said so.
    for name in ["E\u{301}te\u{301}", "anything"] {
        let error = lookup("beyond", name).expect_err("it is not certain");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}");
    }
    assert_eq!(lookup("ascii", "\u{e9}").expect_err("not certain").kind(), ErrorKind::Unsupported);
}

/// A sealed file has its tree of digests after its end; made by debugfs, as few kernels know them.
#[test]
fn sealed_files_are_named_and_read() {
    need_mounts!();
    let fixture = Fixture::make(64 * MIB, &["-t", "ext4"]);
    let content = "sealed ".repeat(2000);
    fixture.fill(|root| {
        fs::write(root.join("sealed"), &content).expect("written");
        let file = File::options().write(true).open(root.join("sealed")).expect("opened");
        fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 65_536, 16_384).expect("reserved");
    });
    debugfs(&fixture, "feature verity\nsif sealed flags 0x180000\n");
    let filesystem = open(&fixture.image()).expect("opened");
    let notes = filesystem.info().notes.join(" ");
    assert!(notes.contains("fs-verity"), "{notes}");
    let file = find(filesystem.as_ref(), "sealed").expect("found");
    assert_eq!(filesystem.metadata(file).expect("told").protection, Protection::Verity);
    let mut read = vec![0; content.len() + 1];
    let count = filesystem.open(file).expect("opened").read_at(0, &mut read).expect("read");
    assert!(count == content.len() && read[..count] == *content.as_bytes());
    filesystem.free_space(&mut |_| std::ops::ControlFlow::Continue(())).expect("it is certain");
}
