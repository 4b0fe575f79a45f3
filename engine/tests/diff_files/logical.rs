//! Logical volumes: what differs is found through their extents and stripes.

use std::fs;
use std::path::Path;

use imgx_engine::base::{BlockSize, Silent};
use imgx_engine::block::Disk;
use imgx_engine::job::diff_files::{FileChange, Told};
use imgx_engine::job::{DiffFiles, FileDisk};
use imgx_engine::store::Repository;
use imgx_fixtures::tool;

use crate::common::{Mounted, capture, folder_in_memory};
use crate::fixture::EXT4;
use crate::logical_disk::{Map, gather, make_disk, scatter, volumes};
use crate::truth::Tree;
use crate::{need, operations, truth};

/// Each volume's changes by its name.
fn changes(job: &DiffFiles) -> Vec<(String, FileChange)> {
    let mut changes = Vec::new();
    let told = job.run(&Silent, &mut |told| {
        match told {
            Told::Change { volume, change } => changes.push((volume.to_owned(), change.clone())),
            Told::Lost { volume, error, .. } => panic!("{volume}: {error}"),
            Told::Volume { .. } => {}
        }
        Ok(())
    });
    told.expect("compared");
    changes
}

/// Changes the filesystem of a logical volume where its bytes lie on the disk.
fn change(folder: &Path, map: &Map, change: impl FnOnce(&Path)) -> Tree {
    let (disk, part, point) = (folder.join("disk"), folder.join("part"), folder.join("mnt"));
    let mut bytes = fs::read(&disk).expect("read");
    gather(&bytes, map, &part);
    fs::create_dir_all(&point).expect("made");
    let plain = part.to_str().expect("plain");
    let mounted = Mounted::new(&["-o", "loop,noatime", plain], &point);
    change(&point);
    drop(mounted);
    let mounted = Mounted::new(&["-o", "loop,ro", plain], &point);
    let tree = truth::of_mount(&point);
    drop(mounted);
    scatter(&mut bytes, map, &part);
    fs::write(&disk, bytes).expect("written");
    tree
}

#[test]
fn files_of_logical_volumes_are_compared_where_they_lie() {
    need!(&EXT4);
    if !tool::have("vgcfgrestore") || !tool::have("sfdisk") {
        println!("skipped: no vgcfgrestore or sfdisk");
        return;
    }
    let folder = folder_in_memory();
    let at = |name: &str| folder.path().join(name);
    let group = format!("imgxdiff{}", std::process::id());
    make_disk(&at("disk"), &group);
    let repository = Repository::create(&at("repository"), BlockSize::DEFAULT).expect("created");
    let before = volumes().map(|(volume, map)| {
        let mut bytes = fs::read(at("disk")).expect("read");
        gather(&bytes, &map, &at("part"));
        let part = at("part");
        let arguments = ["-q", "-F", "-t", "ext4", "-b", "1024", part.to_str().expect("plain")];
        tool::run("mke2fs", &arguments).expect("made");
        scatter(&mut bytes, &map, &at("part"));
        fs::write(at("disk"), bytes).expect("written");
        change(folder.path(), &map, |root| operations::fill(root, volume.name.len() as u64))
    });
    capture(&repository, &at("disk"), "d", &Silent).expect("captured");
    fs::copy(at("disk"), at("old")).expect("copied");
    let after = volumes().map(|(volume, map)| {
        let seed = volume.name.len() as u64 + 30;
        change(folder.path(), &map, |root| operations::change(root, seed, 20))
    });
    capture(&repository, &at("disk"), "d", &Silent).expect("captured");

    let images = repository.images().expect("listed");
    let readers =
        ["d~1", "d"].map(|name| repository.reader(images.resolve(name, &Silent).expect("there")));
    let of_images = changes(&DiffFiles::of_images(readers, &Silent).expect("planned"));
    let open = |name| Disk::open_to_browse(&at(name)).and_then(FileDisk::of_disk).expect("opened");
    assert!(of_images == changes(&DiffFiles::of_disks(["old", "disk"].map(open))));
    for ((volume, _), (before, after)) in volumes().iter().zip(before.iter().zip(&after)) {
        let name = format!("{group}/{}", volume.name);
        let own = of_images.iter().filter(|(of, _)| *of == name).map(|(_, change)| change.clone());
        truth::assert_is_difference(&name, before, after, &own.collect::<Vec<_>>());
    }
}
