//! The stages that need no disk: each on one core, with a sample of the disk's data.

use std::hint::black_box;
use std::time::{Duration, Instant};

use imgx_engine::base::bytes::is_zero;
use imgx_engine::base::{BlockSize, ByteOffset, ReadAt, Result};
use imgx_engine::block::{Disk, OpenOptions};
use imgx_engine::store::frame::{Frame, Member};
use imgx_engine::store::{Compression, Decoder, DigestKeys, Encoder, FrameKind};
use xxhash_rust::xxh3::xxh3_64;

use super::{Bench, MIB, Measure, Sheet};

/// Pieces of a MiB in the sample.
const PIECES: u64 = 64;
/// How long a stage is measured.
const TIME: Duration = Duration::from_millis(400);

/// Measures them.
///
/// # Errors
/// `Io` of the disk; `Cancelled`.
pub fn measure(bench: &Bench, sheet: &mut Sheet<'_>) -> Result<()> {
    let sample = sample(bench)?;
    let keys = DigestKeys::derive(&[0; 32]);
    let zeros = vec![0_u8; 1 << 20];
    let zero_test = repeat("zero test", &[zeros], |piece| {
        black_box(is_zero(black_box(piece)));
        Ok(())
    })?;
    sheet.add(&zero_test)?;
    let digest = repeat("digest (BLAKE3)", &sample, |piece| {
        for block in piece.chunks(BlockSize::DEFAULT.usize()) {
            black_box(keys.block(black_box(block)));
        }
        Ok(())
    })?;
    sheet.add(&digest)?;
    let checksum = repeat("checksum (XXH3)", &sample, |piece| {
        black_box(xxh3_64(black_box(piece)));
        Ok(())
    })?;
    sheet.add(&checksum)?;
    let steps =
        (0..Compression::STEPS).map(|step| (Compression::Step(step), format!("auto {step}")));
    let levels = [1, 3].map(|level| (Compression::Level(level), format!("level {level}")));
    for (compression, name) in steps.chain(levels) {
        sheet.add(&compress(&sample, compression, &name)?)?;
    }
    sheet.add(&decompress(&sample, &keys)?)
}

/// Pieces of a MiB, spread over the data.
fn sample(bench: &Bench) -> Result<Vec<Vec<u8>>> {
    let disk = Disk::open(&bench.source, &OpenOptions::default())?;
    let whole = bench.ranges.iter().flat_map(|range| {
        let starts = (range.start..range.end).step_by(1 << 20);
        starts.map(|start| (start, (range.end - start).min(MIB)))
    });
    let all: Vec<(u64, u64)> = whole.collect();
    let step = all.len().div_ceil(usize::try_from(PIECES).unwrap_or(1)).max(1);
    let mut sample = Vec::new();
    for (start, length) in all.into_iter().step_by(step) {
        let mut piece = vec![0; usize::try_from(length).unwrap_or(0)];
        disk.read_exact_at(ByteOffset(start), &mut piece)?;
        sample.push(piece);
    }
    Ok(sample)
}

/// Does `work` with the pieces, over and over.
fn repeat(
    stage: &str,
    pieces: &[Vec<u8>],
    mut work: impl FnMut(&[u8]) -> Result<()>,
) -> Result<Measure> {
    let clock = Instant::now();
    let mut bytes = 0;
    while clock.elapsed() < TIME {
        for piece in pieces {
            work(piece)?;
            bytes += piece.len() as u64;
        }
    }
    let seconds = clock.elapsed().as_secs_f64();
    Ok(Measure { stage: stage.to_owned(), is_one_core: true, bytes, seconds, note: String::new() })
}

fn compress(sample: &[Vec<u8>], compression: Compression, name: &str) -> Result<Measure> {
    let mut encoder = Encoder::new();
    let (mut frame, mut content, mut stored) = (Vec::new(), 0_u64, 0_u64);
    let mut measure = repeat(&format!("compress, {name}"), sample, |piece| {
        frame.clear();
        encode(&mut encoder, &DigestKeys::derive(&[0; 32]), piece, compression, &mut frame)?;
        content += piece.len() as u64;
        stored += frame.len() as u64;
        Ok(())
    })?;
    let ratio = crate::output::ratio(content, stored).unwrap_or(1.0);
    measure.note = format!("ratio {ratio:.2}");
    Ok(measure)
}

fn decompress(sample: &[Vec<u8>], keys: &DigestKeys) -> Result<Measure> {
    let mut encoder = Encoder::new();
    let mut frames = Vec::new();
    for piece in sample {
        let mut frame = Vec::new();
        encode(&mut encoder, keys, piece, Compression::Step(0), &mut frame)?;
        frames.push(frame);
    }
    let mut decoder = Decoder::new(keys.clone());
    let (mut content, mut bytes) = (Vec::new(), 0_u64);
    let mut measure = repeat("decompress, auto 0", &frames, |frame| {
        decoder.expand(&Frame::open(frame)?, &[], &mut content)?;
        bytes += content.len() as u64;
        Ok(())
    })?;
    measure.bytes = bytes;
    measure.note = "with its checksum".to_owned();
    Ok(measure)
}

/// Encodes a piece as one frame. Its digest is not what is measured here, so it has none.
fn encode(
    encoder: &mut Encoder,
    keys: &DigestKeys,
    piece: &[u8],
    compression: Compression,
    frame: &mut Vec<u8>,
) -> Result<()> {
    let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
    let members = [Member { digest: keys.block(&[]), length }];
    encoder.encode((FrameKind::Block, &members), piece, compression, frame)?;
    Ok(())
}
