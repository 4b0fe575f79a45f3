//! Files and free space through volumes within volumes: RAID, LVM, LUKS, tables in volumes.
#![allow(clippy::cast_possible_truncation)]

mod arrays;
mod encrypted;
mod machines;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imgx_engine::base::{Result, Silent};
use imgx_engine::block::Disk;
use imgx_engine::job::files::{LastLink, OpenVolume, resolve};
use imgx_engine::job::{FileDisk, Restore, RestoreOptions};
use imgx_engine::store::Repository;
use imgx_engine::volume::Keys;
use imgx_engine::volume::luks::Secret;
use imgx_fixtures::pattern::incompressible;
use imgx_fixtures::{mkfs, tool};

/// Ends a test that needs a tool that is not here, saying so.
#[macro_export]
macro_rules! need {
    ($($tool:literal),+) => {
        $(if !imgx_fixtures::tool::have($tool) {
            println!("skipped: no {}", $tool);
            return;
        })+
    };
}

const MIB: u64 = 1 << 20;

/// What is in the file `name` of every filesystem here.
fn content(name: &str) -> Vec<u8> {
    let seed = name.bytes().fold(1, |sum: u64, byte| sum.wrapping_mul(31) + u64::from(byte));
    incompressible(seed, 300_000)
}

/// An ext4 of `size` bytes with some files, the last of which is called `name`.
fn filesystem(folder: &Path, size: u64, name: &str) -> Vec<u8> {
    let (tree, image) = (folder.join("tree"), folder.join("ext4"));
    fs::create_dir_all(tree.join("folder")).expect("made");
    for file in ["first", "folder/second", name] {
        fs::write(tree.join(file), content(file)).expect("written");
    }
    mkfs::blank(&image, size).expect("made");
    let (tree, plain) = (tree.to_str().expect("plain"), image.to_str().expect("plain"));
    tool::run("mke2fs", &["-q", "-F", "-t", "ext4", "-L", name, "-d", tree, plain]).expect("made");
    let bytes = fs::read(&image).expect("read");
    fs::remove_dir_all(tree).expect("removed");
    bytes
}

/// The newest image of `repository`, restored to a file in `folder`.
fn restored(repository: &Repository, folder: &Path) -> PathBuf {
    let target = folder.join("restored");
    let _ = fs::remove_file(&target);
    let image = repository.resolve("latest", &Silent).expect("there is one");
    let plan = Restore::plan(repository, &image, &target, RestoreOptions::default());
    plan.and_then(|plan| plan.run(&Silent)).expect("it is restored");
    target
}

fn disk(path: &Path) -> FileDisk {
    Disk::open_to_browse(path).and_then(FileDisk::of_disk).expect("the disk is read")
}

fn keys(selector: &str, secret: &str) -> Arc<Keys> {
    let secret = Secret::new(secret.as_bytes().to_vec());
    Arc::new(Keys::default().with_secret(selector.to_owned(), secret))
}

fn read(volume: &OpenVolume, path: &str) -> Result<Vec<u8>> {
    let filesystem = volume.filesystem.as_ref();
    let found = resolve(filesystem, path.as_bytes(), LastLink::Follow)?;
    let mut bytes = vec![0; usize::try_from(found.metadata.size).expect("small")];
    let read = filesystem.open(found.file)?.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Fails unless the volume that `selector` means is the filesystem with the file `name`.
fn assert_holds(disk: &mut FileDisk, selector: &str, name: &str) -> OpenVolume {
    let volume = disk.open(Some(selector)).unwrap_or_else(|error| panic!("{selector}: {error}"));
    for file in ["first", "folder/second", name] {
        let bytes = read(&volume, &format!("/{file}"));
        let bytes = bytes.unwrap_or_else(|error| panic!("{selector}:/{file}: {error}"));
        assert!(bytes == content(file), "{selector}:/{file} differs");
    }
    volume
}
