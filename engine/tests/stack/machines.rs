//! Disks of virtual machines in volumes: their names do not mix with the host's.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::lvm::{self, Logical, linear};
use imgx_fixtures::mkfs;

use crate::support::folder_in_memory;
use crate::{MIB, assert_holds, disk, filesystem, need};

/// A host's group has a machine's disk in a logical volume, and a volume `root` of its own; the
/// machine has a group of the same name, with a `root` as well.
#[test]
fn a_machines_group_is_not_the_hosts() {
    need!("vgcfgrestore", "sfdisk", "mke2fs");
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    let folder = folder_in_memory();
    let at = |name: &str| folder.path().join(name);
    let group = format!("imgxsame{}", std::process::id());
    let extents = |count: u64| count * lvm::EXTENT;

    mkfs::blank(&at("machine"), 56 * MIB).expect("made");
    mkfs::sfdisk(&at("machine"), "label: dos\nstart=1M, size=40M\nstart=41M, size=15M\n")
        .expect("made");
    let root = [Logical { name: "root", segments: vec![linear(0, 8, (0, 0))] }];
    lvm::make_group(&at("machine"), &[(MIB, 40 * MIB)], &group, &root).expect("made");
    let machine = OpenOptions::new().write(true).open(at("machine")).expect("opened");
    let guest = filesystem(folder.path(), extents(8), "guest");
    machine.write_all_at(&guest, MIB + lvm::DATA).expect("written");
    let data = filesystem(folder.path(), 15 * MIB, "data");
    machine.write_all_at(&data, 41 * MIB).expect("written");

    mkfs::blank(&at("disk"), 128 * MIB).expect("made");
    let volumes = [
        Logical { name: "root", segments: vec![linear(0, 5, (0, 0))] },
        Logical { name: "machine", segments: vec![linear(0, 14, (0, 6))] },
    ];
    lvm::make_group(&at("disk"), &[(0, 128 * MIB)], &group, &volumes).expect("made");
    let host = OpenOptions::new().write(true).open(at("disk")).expect("opened");
    let own = filesystem(folder.path(), extents(5), "host");
    host.write_all_at(&own, lvm::DATA).expect("written");
    let bytes = std::fs::read(at("machine")).expect("read");
    host.write_all_at(&bytes, lvm::DATA + extents(6)).expect("written");

    let mut disk = disk(&at("disk"));
    let names: Vec<&str> = disk.layout().volumes.iter().map(|v| v.name.as_str()).collect();
    let (root, machine) = (format!("{group}/root"), format!("{group}/machine"));
    let within = format!("{machine}/p1/{group}/root");
    let parts = ["p1", "p2"].map(|part| format!("{machine}/{part}"));
    assert_eq!(names, ["disk", &root, &machine, &parts[0], &parts[1], &within]);
    assert_holds(&mut disk, &root, "host");
    assert_holds(&mut disk, &within, "guest");
    assert_holds(&mut disk, &parts[1], "data");
    assert_holds(&mut disk, "machine/p2", "data");
}
