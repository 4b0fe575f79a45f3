//! Whole jobs on a disk image in a temporary folder: reading, packing, capture, restore, verify.

use std::path::Path;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use imgx_engine::base::{BlockSize, ByteRange, Silent};
use imgx_engine::block::{BufferPool, Disk, OpenOptions, ReadRequest};
use imgx_engine::job::{
    Capture, CaptureOptions, Effort, Restore, RestoreOptions, VerifyOptions, verify,
};
use imgx_engine::store::Repository;
use imgx_engine::store::storage::{Folder, LocalStorage, ObjectName, Storage};
use imgx_fixtures::pattern::{MixedDisk, incompressible};
use tempfile::TempDir;

const SIZE: u64 = 512 << 20;

fn disk(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("disk");
    MixedDisk { size: SIZE, seed: 11 }.write(&path).expect("room in the temporary folder");
    path
}

fn repository(folder: &Path) -> Repository {
    Repository::create(&folder.join("repository"), BlockSize::DEFAULT).expect("created")
}

fn capture(repository: &Repository, disk: &Path, effort: Effort) {
    let options = CaptureOptions { effort, ..CaptureOptions::default() };
    let plan = Capture::plan(repository, disk, options, &Silent).expect("planned");
    plan.run(&Silent).expect("captured");
}

fn read(c: &mut Criterion) {
    let folder = TempDir::new().expect("temporary folder");
    let path = disk(folder.path());
    let mut group = c.benchmark_group("read");
    group.sample_size(10).throughput(Throughput::Bytes(SIZE));
    let pool = BufferPool::new(32, 1 << 20).expect("memory");
    group.bench_function("whole disk", |b| {
        b.iter(|| {
            let disk = Disk::open(&path, &OpenOptions::default()).expect("opened");
            let request = ReadRequest::new(vec![ByteRange::new(0, SIZE)]);
            disk.stream(&request, &pool, &Silent, &mut |_chunk| Ok(())).expect("read");
        });
    });
}

fn pack(c: &mut Criterion) {
    let frame = incompressible(5, 512 * 1024);
    let mut group = c.benchmark_group("pack");
    let frames = 256;
    group.sample_size(10).throughput(Throughput::Bytes(frames * frame.len() as u64));
    group.bench_function("append and sync", |b| {
        b.iter_batched(
            || TempDir::new().expect("temporary folder"),
            |folder| {
                let path = folder.path().join("storage");
                let storage = LocalStorage::create(&path).expect("created");
                let object = ObjectName::new(Folder::Packs, "pack");
                let mut writer = storage.create(&object).expect("created");
                (0..frames).for_each(|_| writer.append(&frame).expect("written"));
                writer.sync().expect("synced");
                folder
            },
            BatchSize::PerIteration,
        );
    });
}

fn jobs(c: &mut Criterion) {
    let folder = TempDir::new().expect("temporary folder");
    let path = disk(folder.path());
    let mut group = c.benchmark_group("jobs");
    group.sample_size(10).throughput(Throughput::Bytes(SIZE));
    for (name, effort) in [("capture", Effort::Auto), ("capture uncompressed", Effort::Off)] {
        group.bench_function(name, |b| {
            b.iter_batched(
                || TempDir::new().expect("temporary folder"),
                |fresh| {
                    capture(&repository(fresh.path()), &path, effort);
                    fresh
                },
                BatchSize::PerIteration,
            );
        });
    }
    let repository = repository(folder.path());
    capture(&repository, &path, Effort::Auto);
    group.bench_function("capture of stored blocks", |b| {
        b.iter(|| capture(&repository, &path, Effort::Auto));
    });
    let image = repository.resolve("latest", &Silent).expect("captured");
    group.bench_function("restore", |b| {
        b.iter_batched(
            || TempDir::new().expect("temporary folder"),
            |fresh| {
                let target = fresh.path().join("target");
                let plan = Restore::plan(&repository, &image, &target, RestoreOptions::default());
                plan.expect("planned").run(&Silent).expect("restored");
                fresh
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("verify", |b| {
        b.iter(|| verify(&repository, &VerifyOptions::default(), &Silent).expect("verified"));
    });
}

criterion_group!(disks, read, pack, jobs);
criterion_main!(disks);
