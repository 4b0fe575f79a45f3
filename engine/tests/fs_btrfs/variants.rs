//! Each form that mkfs.btrfs and mount options can give a filesystem reads as the kernel reads it.

use std::fs;

use imgx_engine::base::ErrorKind;
use imgx_engine::fs::FileType;
use imgx_fixtures::pattern::incompressible;

use crate::fill;
use crate::fixture::{Fixture, MIB, btrfs, content, find};
use crate::need_mounts;
use crate::sums::fix;
use crate::truth::Tree;

fn check(size: u64, arguments: &[&str], options: &str) -> (Fixture, Tree) {
    let context = format!("{} mounted {options}", arguments.join(" "));
    let fixture = Fixture::make(size, arguments);
    let truth = fixture.fill(options, fill::everything);
    let filesystem = fixture.assert_reads_as(&context, &truth);
    assert_eq!(filesystem.info().notes, [""; 0], "{context}");
    (fixture, truth)
}

#[test]
fn every_checksum() {
    need_mounts!();
    for kind in ["crc32c", "xxhash", "sha256", "blake2"] {
        check(400 * MIB, &["--csum", kind], "compress=zstd");
    }
}

#[test]
fn every_compression() {
    need_mounts!();
    for kind in ["zlib", "zlib:9", "lzo", "zstd", "zstd:15"] {
        check(400 * MIB, &[], &format!("compress-force={kind}"));
    }
    check(400 * MIB, &[], "nodatasum");
    check(400 * MIB, &[], "max_inline=0");
}

#[test]
fn every_node_size() {
    need_mounts!();
    for size in ["4096", "65536"] {
        check(400 * MIB, &["-n", size], "compress-force=lzo");
    }
}

#[test]
fn every_profile_of_one_device() {
    need_mounts!();
    check(400 * MIB, &["-m", "single", "-d", "dup"], "compress=zlib");
    check(200 * MIB, &["--mixed"], "compress-force=zstd");
    check(400 * MIB, &["-O", "^no-holes,^extref,^skinny-metadata", "-R", "^free-space-tree"], "");
}

#[test]
fn what_blkid_says_of_it() {
    need_mounts!();
    let id = "01234567-89ab-4cde-8f01-23456789abcd";
    let fixture = Fixture::make(128 * MIB, &["-L", "a label", "-U", id]);
    let filesystem = fixture.open().expect("opened");
    let info = filesystem.info();
    assert_eq!((info.kind, info.size, info.block_size), ("btrfs", 128 * MIB, 4096));
    assert_eq!((info.label.as_deref(), info.uuid.as_deref()), (Some("a label"), Some(id)));
}

#[test]
fn a_changed_uuid_reads_as_before() {
    need_mounts!();
    let fixture = Fixture::make(200 * MIB, &[]);
    let truth = fixture.fill("compress=lzo", fill::pieces);
    let image = fixture.image();
    let image = image.to_str().expect("plain");
    let id = "11111111-2222-4333-8444-555555555555";
    imgx_fixtures::tool::run("btrfstune", &["-f", "-M", id, image]).expect("it runs");
    let filesystem = fixture.assert_reads_as("another metadata UUID", &truth);
    assert_eq!(filesystem.info().uuid.as_deref(), Some(id));
}

#[test]
fn a_filesystem_smaller_than_its_volume_reads_as_mounted() {
    need_mounts!();
    let (fixture, _) = check(400 * MIB, &["--mixed", "-b", "62914560"], "compress=zstd");
    let filesystem = fixture.open().expect("opened");
    assert_eq!(filesystem.info().size, 60 * MIB);
    let mut end = 0;
    let free = filesystem.free_space(&mut |range| {
        end = range.end;
        std::ops::ControlFlow::Continue(())
    });
    free.expect("it is certain");
    assert!(end <= 60 * MIB, "{end}");
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    need_mounts!();
    let fixture = Fixture::make(128 * MIB, &[]);
    let good = fs::read(fixture.image()).expect("read");
    // `incompat_flags` and `flags` of the superblock.
    for (place, bit, name) in [
        (0xbc, 12, "zoned"),
        (0xbc, 13, "extent_tree_v2"),
        (0xbc, 14, "raid_stripe_tree"),
        (0xbc, 40, "bit 0x10000000000"),
        (0x38, 36, "an unfinished change of its UUID"),
    ] {
        let mut bytes = good.clone();
        bytes[(64 << 10) + place + bit / 8] |= 1 << (bit % 8);
        fix(&mut bytes, &[(64 << 10, 4096)]);
        let error = crate::fixture::open_bytes(bytes).err().expect("it is refused");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// Which this kernel need not be able to mount.
#[test]
fn sectors_of_64_kib_read_as_the_folder_they_were_made_of() {
    need_mounts!();
    let source = crate::common::folder_in_memory();
    fs::create_dir(source.path().join("folder")).expect("made");
    let sizes = [0, 5, 3000, 70_000, 1_000_000];
    let file = |size: usize| (format!("folder/{size}"), incompressible(size as u64, size));
    for (path, bytes) in sizes.map(file) {
        fs::write(source.path().join(path), bytes).expect("written");
    }
    let source = source.path().to_str().expect("plain");
    let fixture = Fixture::make(300 * MIB, &["-s", "65536", "-n", "65536", "--rootdir", source]);
    let filesystem = fixture.open().expect("opened");
    assert_eq!(filesystem.info().block_size, 65_536);
    for (path, bytes) in sizes.map(file) {
        let found = content(filesystem.as_ref(), &path).expect("read");
        assert!(found == bytes, "{path}");
    }
}

#[test]
fn the_default_subvolume_is_named_and_the_top_is_shown() {
    need_mounts!();
    let fixture = Fixture::make(200 * MIB, &[]);
    {
        let mount = fixture.mount("noatime");
        fill::subvolumes(mount.root());
        let inner = mount.root().join("outer/folder/inner");
        btrfs(&["subvolume", "set-default", inner.to_str().expect("plain")]);
    }
    let filesystem = fixture.open().expect("opened");
    let notes = &filesystem.info().notes;
    assert!(notes.iter().any(|note| note.contains("/outer/folder/inner, id 257")), "{notes:?}");
    let folder = find(filesystem.as_ref(), "outer/folder");
    assert_eq!((filesystem.root().tree, folder.tree), (5, 256));
    assert_eq!(find(filesystem.as_ref(), "outer/folder/inner").tree, 257);
}

#[test]
fn a_subvolume_that_a_snapshot_left_out_is_an_empty_folder() {
    need_mounts!();
    let fixture = Fixture::make(200 * MIB, &[]);
    {
        let mount = fixture.mount("noatime");
        fill::subvolumes(mount.root());
        let path = |name: &str| mount.root().join(name).display().to_string();
        btrfs(&["subvolume", "snapshot", &path("outer"), &path("snapshot")]);
        assert_eq!(fs::read_dir(path("snapshot/folder/inner")).expect("listed").count(), 0);
    }
    let filesystem = fixture.open().expect("opened");
    let inner = find(filesystem.as_ref(), "snapshot/folder/inner");
    let found = filesystem.metadata(inner).expect("it has attributes");
    assert_eq!((found.file_type, found.mode), (FileType::Directory, Some(0o755)));
    let list = filesystem.list(inner, &mut |_| panic!("it is empty"));
    list.expect("listed");
    assert_eq!(filesystem.lookup(inner, b"file").expect("searched"), None);
    assert!(filesystem.open(inner).is_err());
}
