//! Who uses a disk is found out before anything is written to it.

use std::fs;
use std::path::Path;
use std::process::Command;

use imgx_engine::base::ErrorKind;
use imgx_engine::block::Target;
use imgx_engine::sys::Holders;

use crate::need_root;
use crate::support::{LoopDevice, MIB, Mounted, folder, run, sparse_file};

fn uses(path: &Path) -> String {
    let holders = Holders::of(path).unwrap();
    holders.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_mounted_filesystem_is_a_use_of_device_file_and_disk() {
    need_root!();
    let folder = folder();
    let path = sparse_file(&folder, "disk.raw", 64 * MIB as u64);
    assert_eq!(uses(&path), "");
    let device = LoopDevice::attach(&path, &["-P"]);
    let partition = device.add_partition(1);
    assert_eq!((uses(&device.path), uses(&partition)), (String::new(), String::new()));
    let attached = format!("{} is attached as {}", path.display(), device.as_str());
    assert_eq!(uses(&path), attached);

    run("mkfs.ext4", &["-q", partition.to_str().unwrap()]);
    let point = folder.path().join("a mount point");
    fs::create_dir(&point).unwrap();
    let mounted = Mounted::new(&[partition.to_str().unwrap()], &point);
    let expected = format!("{} is mounted on {}", partition.display(), point.display());
    assert_eq!(uses(&device.path), expected);
    assert_eq!(uses(&partition), expected);
    for path in [&device.path, &partition] {
        let error = Target::open_device(path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains(&expected), "{error}");
    }
    assert_eq!(uses(&path), format!("{expected}\n{attached}"));
    drop(mounted);
    assert_eq!(uses(&device.path), "");
}

#[test]
fn swap_holders_loops_and_other_openers_are_uses() {
    need_root!();
    let folder = folder();
    let path = sparse_file(&folder, "disk.raw", 16 * MIB as u64);
    let device = LoopDevice::attach(&path, &[]);

    let claimed = Target::open_device(&device.path).unwrap();
    assert!(uses(&device.path).contains("the kernel refuses exclusive access"));
    drop(claimed);

    let stacked = LoopDevice::attach(&device.path, &[]);
    let expected = format!("{} is attached as {}", device.as_str(), stacked.as_str());
    assert_eq!(uses(&device.path), expected);
    drop(stacked);

    run("mkswap", &[device.as_str()]);
    if Command::new("swapon").arg(&device.path).status().unwrap().success() {
        let found = uses(&device.path);
        run("swapoff", &[device.as_str()]);
        assert_eq!(found, format!("{} is swap", device.as_str()));
    } else {
        println!("skipped: swap is not to be had here");
    }

    let name = format!("imgx-test-{}", std::process::id());
    let table = format!("0 2048 linear {} 0", device.as_str());
    let created = Command::new("dmsetup").args(["create", &name, "--table", &table]).status();
    if created.is_ok_and(|status| status.success()) {
        let found = uses(&device.path);
        run("dmsetup", &["remove", "--retry", &name]);
        assert!(found.starts_with(&format!("{} is held by dm-", device.as_str())), "{found}");
    } else {
        println!("skipped: no device mapper here");
    }
    assert_eq!(uses(&device.path), "");
}
