//! Filesystems that are damaged as a whole: what can be read is shown, the damage told, exit 3.

use std::fs;
use std::path::{Path, PathBuf};

use imgx_fixtures::pattern::MIB;
use imgx_fixtures::{mkfs, tool};

use crate::support::Shell;

/// What every command that reads files says of `image`, in which `/file` holds `content`.
fn assert_told(shell: &Shell, image: &str, told: &str) {
    shell.imgx(&format!("ls -R {image}")).exits(3).shows(&["/file"]).complains(&["damage: ", told]);
    shell.imgx(&format!("cat {image} /file")).exits(3).shows(&["content"]).complains(&[told]);
    let found = shell.imgx(&format!("find {image} file")).exits(3);
    found.shows(&["/file"]).complains(&[told]);
    let to = shell.path("to");
    let extracted = shell.imgx(&format!("extract {image} /file --to {}", to.display()));
    extracted.exits(3).complains(&[told]);
    assert_eq!(fs::read(to.join("file")).expect("extracted"), b"content");
    fs::remove_dir_all(&to).expect("removed");
    let tar = shell.imgx(&format!("extract {image} /file --tar")).exits(3);
    tar.shows(&["content"]).complains(&[told]);
    let compared = shell.imgx(&format!("diff --files {image} {image}")).exits(3);
    compared.complains(&[told]);
}

#[test]
fn a_damaged_boot_sector_is_told_by_every_command_that_reads_files() {
    if let Some(missing) = ["mkfs.vfat", "mcopy"].into_iter().find(|name| !tool::have(name)) {
        println!("skipped: no {missing}");
        return;
    }
    let shell = Shell::with_repository();
    let volume = shell.path("volume");
    mkfs::blank(&volume, 64 * MIB).expect("made");
    let path = volume.to_str().expect("plain");
    tool::run("mkfs.vfat", &["-F", "32", path]).expect("mkfs.vfat runs");
    let file = shell.write("file", b"content");
    tool::run("mcopy", &["-i", path, file.to_str().expect("plain"), "::file"]).expect("copied");
    // A partition: nothing else says that something is there.
    let mut bytes = vec![0; 1 << 20];
    bytes[446..462].copy_from_slice(&[0, 0, 0, 0, 0x0c, 0, 0, 0, 0, 8, 0, 0, 0, 0, 2, 0]);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes.extend(fs::read(&volume).expect("read"));
    let image = shell.write("disk", &bytes);
    shell.imgx("ls ./disk").exits(0).shows(&["file"]);
    crate::support::overwrite(&image, 1 << 20, &[0; 512]);
    assert_told(&shell, "./disk", "The boot sector is damaged; its copy is used.");
    // All of such a volume is in its image.
    shell.imgx("capture ./disk --name disk").exits(0);
    assert_told(&shell, "disk", "The boot sector is damaged; its copy is used.");
    shell.imgx("restore disk ./back").exits(0);
    crate::support::assert_same(&image, &shell.path("back"));
}

#[test]
fn a_group_descriptor_that_is_damaged_is_told_and_the_files_are_shown() {
    if let Some(missing) = ["mke2fs", "debugfs"].into_iter().find(|name| !tool::have(name)) {
        println!("skipped: no {missing}");
        return;
    }
    let shell = Shell::with_repository();
    let image = shell.path("disk");
    mkfs::blank(&image, 8 * MIB).expect("made");
    let path = image.to_str().expect("plain");
    tool::run("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "1024", path]).expect("mke2fs runs");
    let file = shell.write("file", b"content");
    let request = format!("write {} file", file.display());
    tool::run("debugfs", &["-w", "-R", &request, path]).expect("debugfs runs");
    crate::support::overwrite(&image, 2048 + 0x1e, &[0x5a, 0x5a]);
    assert_told(&shell, "./disk", "A group descriptor is damaged, and used as it is");
}

/// The small inputs that lie beside the checkout, each unpacked.
fn case(shell: &Shell, name: &str) -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/cases");
    let packed = folder.join(format!("{name}.zst"));
    if !packed.exists() || !tool::have("zstd") {
        println!("skipped: no {name}");
        return None;
    }
    let image = shell.path(name);
    let paths = [&packed, &image].map(|path| path.to_str().expect("plain").to_owned());
    tool::run("zstd", &["-dqf", &paths[0], "-o", &paths[1]]).expect("unpacked");
    Some(image)
}

#[test]
fn what_the_kernel_refuses_is_refused_as_damage() {
    let shell = Shell::new();
    for (name, file) in
        [("ext-extents-out-of-order.img", "/extent.c"), ("ext-value-over-entries.img", "/a")]
    {
        let Some(_) = case(&shell, name) else { continue };
        let read = shell.imgx_without_repository(&format!("cat ./{name} {file}")).exits(3);
        read.complains(&["inode 12", "expected"]);
    }
    if case(&shell, "ext-group-checksum.img").is_some() {
        let listed = shell.imgx_without_repository("ls -R ./ext-group-checksum.img").exits(3);
        listed.shows(&["lost+found"]).complains(&["group 0"]);
    }
    if case(&shell, "mbr-link-in-slot-3.img").is_some() {
        let shown = shell.imgx_without_repository("show ./mbr-link-in-slot-3.img").exits(0);
        shown.shows(&["p5", "p6", "p7"]);
    }
}
