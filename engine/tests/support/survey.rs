//! What `Survey` promises: that nothing which reading all files needs is missing from it, and that
//! it costs the tables, and no content.
#![allow(dead_code)]

use std::sync::{Arc, Mutex};

use imgx_engine::base::ranges::{common, joined, without};
use imgx_engine::base::{ByteCount, ByteOffset, ByteRange, ReadAt, Result};
use imgx_engine::fs::{self, FileId, Filesystem, Part};

/// A volume that notes what is read of it.
pub struct Noting {
    volume: Arc<dyn ReadAt>,
    reads: Mutex<Vec<ByteRange>>,
}

impl Noting {
    pub fn new(volume: &Arc<dyn ReadAt>) -> Arc<Self> {
        Arc::new(Self { volume: Arc::clone(volume), reads: Mutex::default() })
    }

    /// What was read since the last question.
    pub fn take(&self) -> Vec<ByteRange> {
        std::mem::take(&mut *self.reads.lock().expect("no panic"))
    }
}

impl ReadAt for Noting {
    fn size(&self) -> ByteCount {
        self.volume.size()
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        let range = ByteRange::new(offset.0, buffer.len() as u64);
        self.reads.lock().expect("no panic").push(range);
        self.volume.read_exact_at(offset, buffer)
    }
}

/// A part, and whose it is.
pub type Shown = (Option<FileId>, Part);

/// All that a survey shows; `None` if there is none.
pub fn shown(filesystem: &dyn Filesystem) -> Result<Option<Vec<Shown>>> {
    let Some(survey) = filesystem.survey()? else { return Ok(None) };
    let mut shown = Vec::new();
    for share in 0..survey.shares() {
        survey.each_part(share, &mut |file, part| shown.push((file, part)))?;
    }
    Ok(Some(shown))
}

fn total(ranges: &[ByteRange]) -> u64 {
    ranges.iter().map(ByteRange::len).sum()
}

/// Asserts that what `read_all` reads, with all files by way of their folders, is shown by the
/// survey of the filesystem of `volume`, or was read for it; and that little is read for it.
pub fn assert_shows_all(
    context: &str,
    volume: &Arc<dyn ReadAt>,
    read_all: impl FnOnce(&dyn Filesystem),
) {
    let noting = Noting::new(volume);
    let noted: Arc<dyn ReadAt> = Arc::clone(&noting) as Arc<dyn ReadAt>;
    let open = || fs::open(&noted).unwrap_or_else(|error| panic!("{context}: {error}"));
    let filesystem = open();
    let opening = noting.take();
    let shown = shown(filesystem.as_ref()).unwrap_or_else(|error| panic!("{context}: {error}"));
    let shown = shown.unwrap_or_else(|| panic!("{context}: nothing is shown"));
    let tables = noting.take();
    let is_content = |part: &&Shown| matches!(part.1, Part::Content(_));
    let contents = joined(shown.iter().filter(is_content).map(|part| part.1.range()).collect());
    let parts = joined(shown.iter().map(|part| part.1.range()).collect());
    let known = joined([parts, opening, tables.clone()].concat());

    // No content is read for it, and nothing more than twice.
    let read = joined(tables.clone());
    assert_eq!(common(&read, &contents), [], "{context}: content is read");
    let (all, once) = (total(&tables), total(&read));
    println!("{context}: {all} bytes are read, {once} once; {} of content", total(&contents));
    assert!(all < once * 2 + (1 << 16), "{context}: {all} bytes, {once} once");

    let filesystem = open();
    read_all(filesystem.as_ref());
    let needed = joined(noting.take());
    assert!(total(&needed) > total(&contents) / 2, "{context}: little was read");
    assert_eq!(without(&needed, &known), [], "{context}: is read and not shown");
}
