//! The stages that read and write: the disk alone, then whole captures and restores.

use std::fs;
use std::path::Path;
use std::time::Instant;

use imgx_engine::base::{BlockSize, ByteCount, ByteOffset, ErrorContext, Result};
use imgx_engine::block::{BufferPool, Disk, FileMode, OpenOptions, ReadRequest};
use imgx_engine::block::{IoMode, Target, TargetWriter};
use imgx_engine::job::{Capture, CaptureOptions, Restore, RestoreOptions, VerifyOptions, verify};
use imgx_engine::store::Repository;

use super::{Bench, MIB, Measure, Sheet};
use crate::output::{count, ratio, size};
use crate::session::Stop;

/// Reads or writes in flight.
const DEPTH: usize = 16;

/// Measures them.
///
/// # Errors
/// `Io`; `Cancelled`.
pub fn measure(bench: &Bench, stop: &Stop, sheet: &mut Sheet<'_>) -> Result<()> {
    sheet.add(&read(bench, stop)?)?;
    sheet.add(&write(bench, stop)?)?;
    let repository = Repository::create(&bench.folder.join("repository"), BlockSize::DEFAULT)?
        .with_cache(&bench.folder.join("cache"));
    sheet.add(&capture("capture", bench, &repository, stop)?)?;
    sheet.add(&capture("capture, unchanged", bench, &repository, stop)?)?;
    sheet.add(&read_back(&repository, stop)?)?;
    sheet.add(&restore(bench, &repository, stop)?)
}

fn machine(stage: &str, bytes: u64, clock: Instant, note: String) -> Measure {
    let seconds = clock.elapsed().as_secs_f64();
    Measure { stage: stage.to_owned(), is_one_core: false, bytes, seconds, note }
}

fn read(bench: &Bench, stop: &Stop) -> Result<Measure> {
    let disk = Disk::open(&bench.source, &OpenOptions::default())?;
    let pool = BufferPool::new(2 * DEPTH, 1 << 20)?;
    let request = ReadRequest::new(bench.ranges.clone());
    let clock = Instant::now();
    disk.stream(&request, &pool, stop, &mut |chunk| {
        drop(chunk);
        Ok(())
    })?;
    Ok(machine("read", bench.bytes(), clock, disk.io_engine().to_owned()))
}

fn write(bench: &Bench, stop: &Stop) -> Result<Measure> {
    let path = bench.folder.join("written.raw");
    let bytes = bench.bytes();
    let target = Target::create_file(&path, ByteCount(bytes), FileMode::Sparse)?;
    let pool = BufferPool::new(2 * DEPTH, 1 << 20)?;
    let clock = Instant::now();
    let mut writer = TargetWriter::new(&target, &pool, DEPTH, IoMode::Auto)?;
    let note = format!("{}, synced", writer.io_engine());
    for start in (0..bytes).step_by(1 << 20) {
        let mut buffer = pool.take(&|| stop.is_wanted())?;
        buffer.set_len(usize::try_from((bytes - start).min(MIB)).unwrap_or(0));
        writer.write(ByteOffset(start), buffer)?;
    }
    writer.finish()?;
    target.sync()?;
    let measure = machine("write", bytes, clock, note);
    remove(&path)?;
    Ok(measure)
}

fn capture(stage: &str, bench: &Bench, repository: &Repository, stop: &Stop) -> Result<Measure> {
    let clock = Instant::now();
    let options = CaptureOptions { name: Some("bench".to_owned()), ..CaptureOptions::default() };
    let report = Capture::plan(repository, &bench.disk, options, stop)?.run(stop)?;
    let cost = report.manifest.cost;
    let ratio = ratio(cost.fresh, cost.stored);
    let ratio = ratio.map(|ratio| format!(", ratio {ratio:.2}")).unwrap_or_default();
    let note = format!("{} read, {} stored{ratio}", size(cost.read), size(cost.stored));
    Ok(machine(stage, cost.read, clock, note))
}

fn read_back(repository: &Repository, stop: &Stop) -> Result<Measure> {
    let clock = Instant::now();
    let report = verify(repository, &VerifyOptions::default(), stop)?;
    let note = format!("of stored bytes; {}", count(report.damage, "damage"));
    Ok(machine("verify", report.read, clock, note))
}

fn restore(bench: &Bench, repository: &Repository, stop: &Stop) -> Result<Measure> {
    let path = bench.folder.join("restored.raw");
    let clock = Instant::now();
    let image = repository.resolve("latest", stop)?;
    let restore = Restore::plan(repository, &image, &path, RestoreOptions::default())?;
    let report = restore.run(stop)?;
    let note = format!("{} written, synced", size(report.written));
    let measure = machine("restore", report.written, clock, note);
    remove(&path)?;
    Ok(measure)
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).context(|| format!("remove {}", path.display()))
}
