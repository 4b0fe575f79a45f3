//! What logical volumes do not use: found through their extents and stripes.

use std::fs;
use std::ops::Range;

use imgx_engine::base::BlockSize;
use imgx_engine::store::Repository;
use imgx_fixtures::loopdev::LoopDevice;
use imgx_fixtures::tool;

use crate::logical_disk::{gather, make_disk, scatter, volumes};
use crate::support::{Mounted, captured, folder_in_memory, unsound};
use crate::{assert_only_lacks, fill, restored, tree_of};

#[test]
fn what_logical_volumes_do_not_use_is_left_out() {
    for tool in ["vgcfgrestore", "sfdisk", "mke2fs", "e2fsck"] {
        if !tool::have(tool) {
            println!("skipped: no {tool}");
            return;
        }
    }
    if let Some(reason) = LoopDevice::unavailable() {
        println!("skipped: {reason}");
        return;
    }
    let folder = folder_in_memory();
    let at = |name: &str| folder.path().join(name);
    let path = at("disk");
    let group = format!("imgxused{}", std::process::id());
    make_disk(&path, &group);

    let mut disk = fs::read(&path).expect("read");
    let (part, point) = (at("part"), at("mounted"));
    let plain = part.to_str().expect("plain");
    fs::create_dir(&point).expect("made");
    for (volume, map) in volumes() {
        gather(&disk, &map, &part);
        let label = ["-q", "-F", "-t", "ext4", "-b", "1024", "-E", "nodiscard", "-L"];
        tool::run("mke2fs", &[&label[..], &[volume.name, plain]].concat()).expect("made");
        let mounted = Mounted::new(&["-o", "loop,nodiscard", plain], &point);
        fill(&point);
        drop(mounted);
        scatter(&mut disk, &map, &part);
    }
    fs::write(&path, &disk).expect("written");

    for block_size in [16_384, 131_072] {
        let repository = at(&format!("repository {block_size}"));
        let block_size = BlockSize::new(block_size).expect("valid");
        let repository = Repository::create(&repository, block_size).expect("created");
        let report = captured(&repository, &path, "disk");
        let back = restored(&repository, &report, folder.path());
        assert_only_lacks(&back, &disk);
        for (volume, map) in volumes() {
            let name = format!("{group}/{}", volume.name);
            let allocation = &report.manifest.allocation;
            let found = allocation.iter().find(|volume| volume.volume == name);
            let found = found.unwrap_or_else(|| panic!("no {name}: {allocation:?}"));
            assert_eq!(found.doubt, None, "{found:?}");
            // Stripes of 64 KiB hold no whole block of 128 KiB, but beside one another.
            let size: usize = map.iter().map(Range::len).sum();
            assert!(found.unallocated > size as u64 / 2, "{size}: {found:?}");
            gather(&disk, &map, &part);
            let before = tree_of(&["-o", "loop", plain], folder.path());
            assert_eq!(before.len(), 40, "{name}");
            gather(&back, &map, &part);
            tool::run("e2fsck", &["-f", "-n", plain]).expect("it is sound");
            assert!(tree_of(&["-o", "loop,ro", plain], folder.path()) == before, "{name} differs");
        }
        assert_eq!(unsound(&repository), None);
    }
}
