//! A filesystem as a crash leaves it reads as the kernel reads it once it has replayed.

use std::fs::{self, File};
use std::path::Path;

use imgx_engine::base::ErrorKind;
use nix::unistd::syncfs;

use crate::fill;
use crate::fixture::{Fixture, MIB, open};
use crate::need_mounts;
use crate::truth;

/// Transaction after transaction: files come, go and come back elsewhere, so that blocks of
/// folders become content and are revoked.
fn churn(root: &Path) {
    let sync = || syncfs(File::open(root).expect("opened")).expect("synced");
    fill::names(&fill::folder(root, "first"), 600);
    fill::attributes(&fill::folder(root, "attributes"), 500);
    sync();
    fs::remove_dir_all(root.join("first")).expect("removed");
    sync();
    fill::contents(&fill::folder(root, "contents"));
    // Content that looks like the journal's own blocks has to be escaped there.
    let magic = [0xc0, 0x3b, 0x39, 0x98].repeat(8 * 1024);
    fs::write(root.join("magic"), &magic).expect("written");
    sync();
    fill::names(&fill::folder(root, "second"), 300);
    fs::remove_file(root.join("contents/large")).expect("removed");
    fs::write(root.join("last"), "the last file").expect("written");
    sync();
}

/// Returns the fixture, and the path of a copy that was taken while it was mounted and dirty.
fn crashed(arguments: &[&str], options: &str) -> Fixture {
    let fixture = Fixture::make(64 * MIB, arguments);
    {
        let mount = fixture.mount(&fixture.image(), options);
        churn(mount.root());
        fs::copy(fixture.image(), fixture.path().join("crashed")).expect("copied");
    }
    fs::copy(fixture.path().join("crashed"), fixture.image()).expect("copied");
    fixture
}

#[test]
fn a_dirty_journal_reads_as_the_kernel_replays_it() {
    need_mounts!();
    for (arguments, options) in [
        (["-t", "ext4"].as_slice(), "noatime"),
        (&["-t", "ext4", "-b", "1024", "-O", "^64bit"], "noatime,data=journal"),
        (&["-t", "ext4", "-O", "^metadata_csum,^64bit"], "noatime,data=journal"),
        (&["-t", "ext4", "-O", "^metadata_csum"], "noatime,journal_checksum"),
        (&["-t", "ext4"], "noatime,data=journal,journal_async_commit"),
        (&["-t", "ext3", "-b", "1024"], "noatime"),
        (&["-t", "ext4", "-J", "size=4", "-b", "1024"], "noatime"),
    ] {
        let context = format!("{} mounted {options}", arguments.join(" "));
        let fixture = crashed(arguments, options);
        let expected =
            truth::of_mount(fixture.mount(&fixture.path().join("crashed"), "noatime").root());
        let filesystem = fixture.assert_reads_as(&context, &expected);
        let notes = &filesystem.info().notes;
        assert!(notes.iter().any(|note| note.contains("was replayed")), "{context}: {notes:?}");
        let free = filesystem.free_space(&mut |_| std::ops::ControlFlow::Continue(()));
        let error = free.expect_err("somebody may be using it");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{context}: {error}");
    }
}

#[test]
fn a_journal_elsewhere_is_refused_by_name() {
    need_mounts!();
    let fixture = crashed(&["-t", "ext4"], "noatime");
    let image = fixture.image();
    let image = image.to_str().expect("plain");
    imgx_fixtures::tool::run("debugfs", &["-w", "-R", "ssv journal_inum 0", image])
        .expect("debugfs runs");
    let error = open(&fixture.image()).err().expect("it is refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}
