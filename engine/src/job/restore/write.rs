//! Writing an image's blocks: one thread walks the tree, several read and decode, one makes
//! ranges zero, the caller's writes.

use std::thread;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::pieces::{Cutter, Piece};
use super::{RestoreOptions, RestoreReport, Space, only_damage};
use crate::base::{BlockIndex, ByteOffset, ByteRange, Error, Event, Observer, Phase};
use crate::base::{Progress, Result, limits};
use crate::block::{Buffer, BufferPool, Target, TargetWriter, Zeroing};
use crate::job::pipeline::{DEPTH, PATIENCE, QUEUE, reading_threads};
use crate::store::{ContentReader, FrameKind, ImageReader, StoredEntry};
use crate::sys::threads;

/// Threads beside the caller's without which nothing can be written.
pub const THREADS: usize = 3;

/// A restore's writing.
pub struct Writing<'a> {
    /// What to write.
    pub image: &'a ImageReader,
    /// Where to.
    pub target: &'a Target,
    /// How.
    pub options: &'a RestoreOptions,
    /// Who listens.
    pub observer: &'a dyn Observer,
}

/// What is to be done for a piece, or was found out about it.
enum Done {
    Write(ByteRange, Buffer),
    Zero(ByteRange),
    /// Nothing is known of the range; it is to be zero.
    Lost(ByteRange, Error),
    /// The range is damaged, and zero in a buffer that is to be written.
    Damaged(ByteRange, Error),
}

impl Writing<'_> {
    /// Writes these runs of blocks (first, count), adding what was done to `report`.
    ///
    /// # Errors
    /// `Io` of the target; `Cancelled`.
    pub fn run(&self, runs: &[(u64, u64)], report: &mut RestoreReport) -> Result<()> {
        let manifest = self.image.manifest();
        let total = runs.iter().map(|run| manifest.bytes_of(BlockIndex(run.0), run.1).len()).sum();
        self.observer.event(&Event::Started { phase: Phase::Restore, total });
        let decoders = reading_threads(self.options.threads);
        let pool = BufferPool::new(DEPTH + QUEUE + decoders, limits::MAX_IO_SIZE)?;
        let (pieces_in, pieces_out) = bounded::<Piece>(QUEUE);
        let (done_in, done_out) = bounded::<Result<Done>>(QUEUE);
        thread::scope(|scope| {
            let pool = &pool;
            let walker = threads::start(scope, move || self.walk(runs, &pieces_in))?;
            let (zeros_in, zeros_out) = bounded::<ByteRange>(QUEUE);
            let zero = move || zeros_out.iter().try_for_each(|range| self.zero(range));
            let zeroer = threads::start(scope, zero)?;
            let decode = || {
                let (pieces, done) = (pieces_out.clone(), done_in.clone());
                move || self.decode(pool, &pieces, &done)
            };
            // One of them is needed.
            threads::start(scope, decode())?;
            threads::crew(scope, decoders - 1, decode);
            drop((pieces_out, done_in));
            let written = self.write(pool, (&done_out, &zeros_in), total, report);
            drop((done_out, zeros_in));
            let zeroed = zeroer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let walked = walker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // When zeroing failed, that writing was stopped is only a consequence.
            zeroed.and(written).and(walked)
        })
    }

    fn walk(&self, runs: &[(u64, u64)], pieces: &Sender<Piece>) -> Result<()> {
        for run in runs {
            Cutter::cut(self.image, *run, &mut |piece| {
                pieces.send(piece).map_err(|_writer_ended| Error::cancelled())
            })?;
        }
        Ok(())
    }

    fn decode(&self, pool: &BufferPool, pieces: &Receiver<Piece>, done: &Sender<Result<Done>>) {
        let mut reader = ContentReader::new(FrameKind::Block, self.image.frames().keys().clone());
        for piece in pieces {
            let outcome = match piece {
                Piece::Zero(range) => Ok(Done::Zero(range)),
                Piece::Lost(range, error) => Ok(Done::Lost(range, error)),
                Piece::Blocks(range, blocks) => {
                    self.fill(pool, (range, &blocks), &mut reader, done)
                }
            };
            let is_last = outcome.is_err();
            if done.send(outcome).is_err() || is_last {
                return;
            }
        }
    }

    /// Fills a buffer with blocks; those that are damaged are zero there, and reported.
    fn fill(
        &self,
        pool: &BufferPool,
        (range, blocks): (ByteRange, &[StoredEntry]),
        reader: &mut ContentReader,
        done: &Sender<Result<Done>>,
    ) -> Result<Done> {
        let mut buffer = pool.take(&|| self.observer.cancelled())?;
        buffer.set_len(usize::try_from(range.len()).unwrap_or(usize::MAX));
        let block_size = self.image.manifest().block_size;
        for (number, (stored, part)) in
            blocks.iter().zip(buffer.chunks_mut(block_size.usize())).enumerate()
        {
            let outcome = self.block(stored, part, reader);
            let Err(error) = outcome else { continue };
            let error = only_damage(error)?;
            part.fill(0);
            let start = range.start + number as u64 * block_size.bytes();
            let damaged = ByteRange::new(start, part.len() as u64);
            if done.send(Ok(Done::Damaged(damaged, error))).is_err() {
                return Err(Error::cancelled());
            }
        }
        Ok(Done::Write(range, buffer))
    }

    fn block(
        &self,
        stored: &StoredEntry,
        part: &mut [u8],
        reader: &mut ContentReader,
    ) -> Result<()> {
        let content = reader.read(self.image.frames(), stored)?;
        if content.len() != part.len() {
            return Err(Error::corrupt(stored.place, part.len(), content.len()));
        }
        part.copy_from_slice(content);
        Ok(())
    }

    fn write(
        &self,
        pool: &BufferPool,
        (done, zeros): (&Receiver<Result<Done>>, &Sender<ByteRange>),
        total: u64,
        report: &mut RestoreReport,
    ) -> Result<()> {
        let mut writer = TargetWriter::new(self.target, pool, DEPTH, self.options.io)?;
        let mut progress = Progress { total, ..Progress::default() };
        loop {
            if self.observer.cancelled() {
                return Err(Error::cancelled());
            }
            let piece = match done.recv_timeout(PATIENCE) {
                Ok(piece) => piece?,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            match piece {
                Done::Write(range, buffer) => {
                    writer.write(ByteOffset(range.start), buffer)?;
                    report.written += range.len();
                    progress.moved += range.len();
                    progress.done += range.len();
                }
                Done::Zero(range) => {
                    zeros.send(range).map_err(|_zeroing_failed| Error::cancelled())?;
                    report.zeroed += range.len();
                    progress.done += range.len();
                }
                Done::Lost(range, error) => {
                    zeros.send(range).map_err(|_zeroing_failed| Error::cancelled())?;
                    self.report_damage(range, error, report);
                    progress.done += range.len();
                }
                Done::Damaged(range, error) => self.report_damage(range, error, report),
            }
            self.observer.event(&Event::Progress(progress));
        }
        writer.finish()?;
        Ok(())
    }

    fn zero(&self, range: ByteRange) -> Result<()> {
        if self.target.is_new() {
            return Ok(());
        }
        let how = match self.options.space {
            Space::Sparse => Zeroing::Release,
            Space::Preallocate => Zeroing::Fill,
        };
        self.target.zero(range, how, self.observer)
    }

    fn report_damage(&self, range: ByteRange, error: Error, report: &mut RestoreReport) {
        report.damaged += range.len();
        let error = error.within(range);
        self.observer.event(&Event::Damage { report: &error.to_string() });
    }
}
