//! A disk goes into a repository and comes back the same, whatever it holds.

use std::fs;
use std::path::Path;

use imgx_engine::base::{BlockSize, Silent};
use imgx_engine::job::{Capture, CaptureOptions, Restore, RestoreOptions, VerifyOptions, verify};
use imgx_engine::store::Repository;
use imgx_fixtures::pattern::{MixedDisk, incompressible};

fn round_trip(disk: &Path, block_size: u32) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let block_size = BlockSize::new(block_size).expect("valid");
    let repository =
        Repository::create(&folder.path().join("repository"), block_size).expect("created");
    let plan = Capture::plan(&repository, disk, CaptureOptions::default(), &Silent);
    let report = plan.expect("planned").run(&Silent).expect("captured");
    let image = repository.image(report.id).expect("committed");

    let target = folder.path().join("restored");
    let options = RestoreOptions { verify: true, ..RestoreOptions::default() };
    let plan = Restore::plan(&repository, &image, &target, options).expect("planned");
    plan.run(&Silent).expect("restored");
    assert!(fs::read(disk).expect("read") == fs::read(&target).expect("read"), "disks differ");

    let found = verify(&repository, &VerifyOptions::default(), &Silent).expect("verified");
    assert_eq!((found.damage, found.images), (0, 1), "{found:?}");
}

#[test]
fn disks_of_any_size_and_block_size_come_back_the_same() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("disk");
    for (size, block_size) in [
        (1, 131_072),
        (512, 16_384),
        (131_072, 131_072),
        (3_333_333, 16_384),
        (40 << 20, 131_072),
        ((70 << 20) + 513, 131_072),
        ((20 << 20) + 99, 1 << 20),
    ] {
        let _absent = fs::remove_file(&path);
        MixedDisk { size, seed: size }.write(&path).expect("written");
        round_trip(&path, block_size);
    }
}

#[test]
fn the_same_disk_again_costs_almost_nothing() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("disk");
    MixedDisk { size: 50 << 20, seed: 5 }.write(&path).expect("written");
    let repository =
        Repository::create(&folder.path().join("repository"), BlockSize::DEFAULT).expect("created");
    let capture = || {
        let plan = Capture::plan(&repository, &path, CaptureOptions::default(), &Silent);
        plan.expect("planned").run(&Silent).expect("captured")
    };
    let (first, second) = (capture(), capture());
    assert_eq!(first.manifest.content, second.manifest.content);
    assert_eq!(second.manifest.tree, first.manifest.tree);
    assert_eq!(second.manifest.parent, Some(first.id));
    assert_eq!((second.manifest.cost.fresh, second.manifest.cost.stored), (0, 0));
}

#[test]
fn a_block_that_is_met_many_times_at_once_is_stored_once() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let path = folder.path().join("disk");
    let (block, chunks) = (131_072, 96);
    let shared = incompressible(1, block);
    let mut disk = Vec::new();
    for chunk in 0..chunks {
        for number in 0..8 {
            let is_shared = number == chunk % 8;
            let seed = 1000 + chunk * 8 + number;
            disk.extend(if is_shared { shared.clone() } else { incompressible(seed, block) });
        }
    }
    fs::write(&path, &disk).expect("written");
    let repository =
        Repository::create(&folder.path().join("repository"), BlockSize::DEFAULT).expect("created");
    let options = CaptureOptions { threads: Some(4), ..CaptureOptions::default() };
    let plan = Capture::plan(&repository, &path, options, &Silent).expect("planned");
    let report = plan.run(&Silent).expect("captured");
    let distinct = (chunks * 7 + 1) * block as u64;
    assert_eq!(report.manifest.cost.fresh, distinct);
    assert!(report.manifest.cost.stored < distinct + distinct / 100);
    round_trip(&path, 131_072);
}
