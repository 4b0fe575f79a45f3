//! Several devices, all of them or some.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;

use imgx_engine::base::{ErrorKind, Result};
use imgx_engine::fs::{Filesystem, open_btrfs};
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::tool;

use crate::fill;
use crate::fixture::{Fixture, MIB, btrfs, content, volume};
use crate::need_mounts;
use crate::truth;

const SIZE: u64 = 300 * MIB;

fn contents(root: &std::path::Path) {
    fill::pieces(&crate::basics::folder(root, "pieces"));
    crate::basics::names(&crate::basics::folder(root, "names"), 300);
    fs::write(root.join("large"), incompressible(9, 7 << 20)).expect("written");
}

/// Opens only the devices of these numbers.
fn some(fixture: &Fixture, numbers: &[usize]) -> Result<Box<dyn Filesystem>> {
    let images = fixture.images();
    open_btrfs(&numbers.iter().map(|number| volume(&images[*number])).collect::<Vec<_>>())
}

#[test]
fn every_profile_reads_as_mounted() {
    need_mounts!();
    for (devices, data, metadata) in [
        (2, "raid0", "raid1"),
        (2, "raid1", "raid1"),
        (3, "single", "raid1c3"),
        (4, "raid10", "raid10"),
        (3, "raid5", "raid5"),
        (4, "raid6", "raid1c4"),
    ] {
        let arguments = ["-d", data, "-m", metadata];
        let fixture = Fixture::make_many(devices, SIZE, &arguments);
        let truth = fixture.fill("compress=zstd", contents);
        fixture.assert_reads_as(&format!("{data} {metadata}"), &truth);
        let free = fixture.open().expect("opened").free_space(&mut |_| panic!("not certain"));
        assert_eq!(free.expect_err("refused").kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn one_device_of_a_mirror_is_enough_and_the_missing_one_is_named() {
    need_mounts!();
    for profile in ["raid1", "raid5"] {
        let devices = if profile == "raid1" { 2 } else { 3 };
        let fixture = Fixture::make_many(devices, SIZE, &["-d", profile, "-m", profile]);
        let truth = fixture.fill("noatime", contents);
        for missing in 0..devices {
            let numbers: Vec<usize> = (0..devices).filter(|number| *number != missing).collect();
            let filesystem = some(&fixture, &numbers).expect("opened");
            let context = format!("{profile} without {missing}");
            truth::assert_same(&context, &truth::of_engine(filesystem.as_ref()), &truth);
            let note = format!("device {} (", missing + 1);
            let notes = &filesystem.info().notes;
            let is_named = |each: &String| each.contains(&note) && each.contains("missing");
            assert!(notes.iter().any(is_named), "{context}: {notes:?}");
        }
    }
}

#[test]
fn any_two_devices_of_raid6_may_be_missing_as_the_kernel_has_it() {
    need_mounts!();
    for devices in [4, 5] {
        let fixture = Fixture::make_many(devices, SIZE, &["-d", "raid6", "-m", "raid6"]);
        let truth = fixture.fill("noatime", contents);
        for one in 0..devices {
            for other in one + 1..devices {
                let is_left = |number: &usize| *number != one && *number != other;
                let numbers: Vec<usize> = (0..devices).filter(is_left).collect();
                let filesystem = some(&fixture, &numbers).expect("opened");
                let context = format!("{devices} devices without {one} and {other}");
                truth::assert_same(&context, &truth::of_engine(filesystem.as_ref()), &truth);
            }
        }
        // Two missing ones, mounted degraded: the kernel's own computation.
        let images = fixture.images();
        let mount = fixture.mount_files(&images[2..], "ro,degraded");
        truth::assert_same("degraded", &truth::of_mount(mount.root()), &truth);
        drop(mount);
        let filesystem = some(&fixture, &(3..devices).collect::<Vec<_>>());
        let lost = filesystem.and_then(|filesystem| content(filesystem.as_ref(), "large"));
        assert_eq!(lost.expect_err("three are missing").kind(), ErrorKind::NotFound);
    }
}

#[test]
fn what_was_on_a_missing_device_fails_by_its_name() {
    need_mounts!();
    let fixture = Fixture::make_many(2, SIZE, &["-d", "raid0", "-m", "raid1"]);
    fixture.fill("noatime", contents);
    let filesystem = some(&fixture, &[0]).expect("its metadata is whole");
    let error = content(filesystem.as_ref(), "large").expect_err("half of it is missing");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("device 2 ("), "{error}");
    let fixture = Fixture::make_many(2, SIZE, &["-d", "raid0", "-m", "raid0"]);
    fixture.fill("noatime", contents);
    let error = some(&fixture, &[1]).err().expect("its metadata is in half");
    assert!(error.to_string().contains("device 1 ("), "{error}");
}

#[test]
fn devices_of_two_filesystems_are_refused() {
    need_mounts!();
    let one = Fixture::make(SIZE, &[]);
    let other = Fixture::make(SIZE, &[]);
    let error = open_btrfs(&[volume(&one.image()), volume(&other.image())]).err();
    assert_eq!(error.expect("refused").kind(), ErrorKind::Invalid);
    let foreign: std::sync::Arc<dyn imgx_engine::base::ReadAt> =
        std::sync::Arc::new(vec![0; 1 << 20]);
    let error = open_btrfs(&[volume(&one.image()), foreign]).err().expect("refused");
    assert!(error.to_string().starts_with("volume 1: "), "{error}");
    assert_eq!(open_btrfs(&[]).err().expect("refused").kind(), ErrorKind::Unsupported);
}

#[test]
fn garbage_on_one_device_of_a_mirror_is_read_around() {
    need_mounts!();
    for (devices, profile) in [(2, "raid1"), (3, "raid5")] {
        let fixture = Fixture::make_many(devices, 160 * MIB, &["-d", profile, "-m", profile]);
        let truth = fixture.fill("noatime", |root| {
            contents(root);
            // What has no checksums cannot be told from garbage.
            fs::remove_dir_all(root.join("pieces/no-sums")).expect("removed");
        });
        for image in fixture.images() {
            let good = fs::read(&image).expect("read");
            let file = OpenOptions::new().write(true).open(&image).expect("opened");
            let garbage = vec![0x5a; good.len() - (5 << 20)];
            file.write_all_at(&garbage, 5 << 20).expect("written");
            fixture.assert_reads_as(&format!("{profile}, garbage in {}", image.display()), &truth);
            fs::write(&image, good).expect("restored");
        }
    }
}

#[test]
fn a_device_that_was_left_behind_is_read_last() {
    need_mounts!();
    let fixture = Fixture::make_many(2, SIZE, &["-d", "raid1", "-m", "raid1"]);
    fixture.fill("nodatasum", |root| {
        fs::write(root.join("file"), vec![1; 300_000]).expect("written");
    });
    let images = fixture.images();
    {
        let mount = fixture.mount_files(&images[..1], "noatime,degraded,nodatasum");
        let file = OpenOptions::new().write(true).open(mount.root().join("file")).expect("opened");
        // In place, as there are no snapshots nor checksums: only the content tells.
        file.write_all_at(&vec![2; 300_000], 0).expect("written");
        fs::write(mount.root().join("new"), "written while it was away").expect("written");
    }
    for order in [[0, 1], [1, 0]] {
        let filesystem = some(&fixture, &order).expect("opened");
        assert_eq!(content(filesystem.as_ref(), "file").expect("read"), vec![2; 300_000]);
        content(filesystem.as_ref(), "new").expect("read");
        let notes = &filesystem.info().notes;
        assert!(notes.iter().any(|note| note.contains("another state")), "{notes:?}");
    }
}

#[test]
fn what_grew_from_a_seed_reads_with_it() {
    need_mounts!();
    let fixture = Fixture::make(SIZE, &[]);
    let image = fixture.image();
    fixture.fill("noatime", contents);
    tool::run("btrfstune", &["-S", "1", image.to_str().expect("plain")]).expect("it runs");
    let grown = fixture.path().join("grown");
    imgx_fixtures::mkfs::blank(&grown, SIZE).expect("made");
    let device = imgx_fixtures::loopdev::LoopDevice::attach(&grown).expect("attached");
    let truth = {
        let mount = fixture.mount("noatime");
        let point = mount.root().to_str().expect("plain");
        btrfs(&["device", "add", device.path().to_str().expect("plain"), point]);
        tool::run("mount", &["-o", "remount,rw", point]).expect("writable");
        fs::write(mount.root().join("new"), incompressible(4, 100_000)).expect("written");
        fill::sync(mount.root());
        truth::of_mount(mount.root())
    };
    drop(device);
    let filesystem = open_btrfs(&[volume(&grown), volume(&image)]).expect("opened");
    truth::assert_same("a seed", &truth::of_engine(filesystem.as_ref()), &truth);
    // It says which devices it grew from; the seed needs none.
    let [grown, seed] = [&grown, &image].map(|path| imgx_engine::fs::btrfs_device(&volume(path)));
    let (grown, seed) = (grown.expect("a device"), seed.expect("a device"));
    assert_ne!(grown.filesystem, seed.filesystem);
    assert_eq!((grown.seeds, seed.seeds), (vec![seed.device], Vec::new()));
}

#[test]
fn what_has_no_checksums_is_not_read_from_a_device_that_was_left_behind() {
    need_mounts!();
    let fixture = Fixture::make_many(2, SIZE, &["-d", "raid0", "-m", "raid1"]);
    fixture.fill("nodatasum", |root| {
        fs::write(root.join("file"), vec![1; 300_000]).expect("written");
    });
    let images = fixture.images();
    let earlier = fs::read(&images[1]).expect("read");
    fixture.fill("nodatasum", |root| {
        let file = OpenOptions::new().write(true).open(root.join("file")).expect("opened");
        file.write_all_at(&vec![2; 300_000], 0).expect("written");
    });
    let whole = some(&fixture, &[0, 1]).expect("opened");
    assert_eq!(content(whole.as_ref(), "file").expect("read"), vec![2; 300_000]);
    fs::write(&images[1], earlier).expect("written");
    let filesystem = some(&fixture, &[0, 1]).expect("its metadata is on the other too");
    let error = content(filesystem.as_ref(), "file").expect_err("half of it is old");
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("another state"), "{error}");
}

#[test]
fn a_volume_that_was_taken_out_of_the_filesystem_is_not_looked_at() {
    need_mounts!();
    let fixture = Fixture::make_many(2, SIZE, &["-d", "single", "-m", "raid1"]);
    fixture.fill("noatime", contents);
    let images = fixture.images();
    let removed = fs::read(&images[1]).expect("read");
    let truth = {
        let mount = fixture.mount("noatime");
        let point = mount.root().to_str().expect("plain");
        btrfs(&["balance", "start", "--force", "-mconvert=single", "-dconvert=single", point]);
        btrfs(&["device", "remove", "2", point]);
        truth::of_mount(mount.root())
    };
    fs::write(&images[1], removed).expect("as if it had been away");
    let filesystem = some(&fixture, &[0, 1]).expect("opened");
    truth::assert_same("the rest", &truth::of_engine(filesystem.as_ref()), &truth);
    let notes = &filesystem.info().notes;
    assert!(notes.iter().any(|note| note.contains("device 2") && note.contains("once")));
    let error = some(&fixture, &[1, 0]).err().expect("the first is none of it");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
}

#[test]
fn places_are_those_of_all_devices_one_behind_the_other() {
    need_mounts!();
    let fixture = Fixture::make_many(3, SIZE, &["-d", "raid0", "-m", "raid1"]);
    fixture.fill("noatime", contents);
    let all: Vec<u8> =
        fixture.images().iter().flat_map(|image| fs::read(image).expect("read")).collect();
    let filesystem = fixture.open().expect("opened");
    let expected = content(filesystem.as_ref(), "large").expect("read");
    let file = crate::fixture::find(filesystem.as_ref(), "large");
    let mut found = Vec::new();
    let mut file = filesystem.open(file).expect("opened");
    let walked = file.extents(&mut |extent| {
        if let imgx_engine::fs::Place::At(start) = extent.place {
            let start = usize::try_from(start).expect("small");
            let length = usize::try_from(extent.length).expect("small");
            found.extend_from_slice(&all[start..start + length]);
        }
        std::ops::ControlFlow::Continue(())
    });
    walked.expect("mapped");
    assert!(found == expected);
}
