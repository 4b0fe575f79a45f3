//! `bench`: what this machine can do, stage by stage, and whole captures and restores.

mod disk;
mod memory;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;

use imgx_engine::base::{ByteOffset, ByteRange, Error, ErrorContext, ErrorKind, ReadAt, Result};
use imgx_engine::block::{Disk, ExtentKind, OpenOptions};
use imgx_fixtures::pattern::MixedDisk;
use serde_json::{Value, json};

use crate::args::BenchArguments;
use crate::output::{Console, size};
use crate::session::{Outcome, Session, Stop};

const MIB: u64 = 1 << 20;

/// What a stage achieved.
pub struct Measure {
    /// The stage's name.
    pub stage: String,
    /// Whether it was one core's work; else the whole machine's.
    pub is_one_core: bool,
    /// Bytes of disk content that went through.
    pub bytes: u64,
    /// How long that took.
    pub seconds: f64,
    /// What else is worth knowing.
    pub note: String,
}

impl Measure {
    /// Megabytes (10^6 bytes) a second.
    #[allow(clippy::cast_precision_loss)]
    fn megabytes(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds.max(1e-9)
    }
}

/// Prints measures as they come, and keeps them.
pub struct Sheet<'a> {
    console: &'a Console,
    stop: Stop,
    measures: Vec<Value>,
}

impl Sheet<'_> {
    /// Adds a measure.
    ///
    /// # Errors
    /// `Cancelled`.
    pub fn add(&mut self, measure: &Measure) -> Result<()> {
        let scope = if measure.is_one_core { "core" } else { "machine" };
        let Measure { stage, note, .. } = measure;
        let line = format!("{stage:<22}{:>9.0}  {scope:<8} {note}", measure.megabytes());
        self.console.line(line.trim_end());
        self.measures.push(json!({
            "stage": stage,
            "scope": scope,
            "bytes": measure.bytes,
            "seconds": measure.seconds,
            "mb_per_s": measure.megabytes(),
            "note": note,
        }));
        self.stop.check()
    }
}

/// Runs the command.
///
/// # Errors
/// `Invalid` for a disk without data; `Io`; `Cancelled`.
pub fn run(arguments: &BenchArguments, session: &Session) -> Result<Outcome> {
    let stop = session.stop_on_signals()?;
    let console = &session.console;
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("imgx-bench-");
    let folder = match &arguments.dir {
        Some(dir) => builder.tempdir_in(dir),
        None => builder.tempdir(),
    };
    let folder = folder.context(|| "make a temporary folder")?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let bench = prepare(arguments, folder.path(), &stop)?;
    let (read, place) = (size(bench.bytes()), folder.path().display());
    console.line(&format!("{cores} cores, {read} of data, temporary files in {place}"));
    console.line(&format!("{:<22}{:>9}  {:<8} NOTE", "STAGE", "MB/s", "OF A"));
    let mut sheet = Sheet { console, stop: stop.clone(), measures: Vec::new() };
    memory::measure(&bench, &mut sheet)?;
    disk::measure(&bench, &stop, &mut sheet)?;
    console.line("Rates of a core add up over cores as far as memory's bandwidth allows.");
    console.document(&json!({
        "cores": cores,
        "version": env!("CARGO_PKG_VERSION"),
        "data": bench.bytes(),
        "generated": arguments.file.is_none(),
        "stages": sheet.measures,
    }));
    Ok(Outcome::Done)
}

/// What is measured with.
pub struct Bench {
    /// The folder for temporary files.
    pub folder: PathBuf,
    /// The disk that is read.
    pub source: PathBuf,
    /// Its data, as much as was asked for.
    pub ranges: Vec<ByteRange>,
    /// A file with that much of the disk, that is captured.
    pub disk: PathBuf,
}

impl Bench {
    /// Bytes of data.
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(ByteRange::len).sum()
    }
}

fn prepare(arguments: &BenchArguments, folder: &Path, stop: &Stop) -> Result<Bench> {
    let disk = folder.join("disk.raw");
    let source = arguments.file.clone().unwrap_or_else(|| disk.clone());
    if arguments.file.is_none() {
        let generated = MixedDisk { size: arguments.size, seed: 1 };
        generated.write(&disk).context(|| format!("write {}", disk.display()))?;
    }
    let opened = Disk::open(&source, &OpenOptions::default())?;
    let ranges = first_data(&opened, arguments.size)?;
    let end = ranges.last().map_or(0, |range| range.end);
    let is_whole = end == opened.size().0 || arguments.file.is_none();
    let disk = match &arguments.file {
        Some(file) if is_whole => file.clone(),
        Some(_) => {
            copy(&opened, &ranges, &disk, stop)?;
            disk
        }
        None => disk,
    };
    Ok(Bench { folder: folder.to_path_buf(), source, ranges, disk })
}

/// The first data of a disk, up to `limit` bytes.
fn first_data(disk: &Disk, limit: u64) -> Result<Vec<ByteRange>> {
    let mut ranges = Vec::new();
    let mut left = limit;
    for extent in disk.extents()? {
        let ByteRange { start, end } = extent.range;
        let end = end.min(start.saturating_add(left));
        if extent.kind == ExtentKind::Data && start < end {
            ranges.push(ByteRange { start, end });
            left -= end - start;
        }
    }
    if ranges.is_empty() {
        let path = disk.info().path.display();
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("{path} holds no data to measure with"),
        ));
    }
    Ok(ranges)
}

/// Copies a disk's first data to a file, for jobs that only take whole disks.
fn copy(disk: &Disk, ranges: &[ByteRange], path: &Path, stop: &Stop) -> Result<()> {
    let describe = || format!("write {}", path.display());
    let file = File::create_new(path).context(describe)?;
    let mut buffer = vec![0; 1 << 20];
    for range in ranges {
        for start in (range.start..range.end).step_by(1 << 20) {
            stop.check()?;
            let length = (range.end - start).min(MIB);
            let part = &mut buffer[..usize::try_from(length).unwrap_or(0)];
            disk.read_exact_at(ByteOffset(start), part)?;
            file.write_all_at(part, start).context(describe)?;
        }
    }
    Ok(())
}
