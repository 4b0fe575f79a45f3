//! A large file's content: one thread cuts it into pieces, several read and decode them, the
//! caller's has many writes of them in flight.
//!
//! Writes past the page cache to a file's holes take its lock while they begin, not until they
//! end. A thread for each write would wait within it, one after another; and reserving space
//! before would wait for all that are in flight.

use std::fs::File;
use std::ops::ControlFlow;
use std::thread;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use super::copy::fill;
use super::pieces::cut;
use super::plan::Item;
use super::run::{Run, lock};
use super::spot::Spot;
use super::trouble::{Made, Trouble};
use crate::base::limits::MAX_IO_SIZE;
use crate::base::{ByteOffset, ByteRange, ErrorContext};
use crate::block::{Buffer, BufferPool, IoMode, Target, TargetWriter};
use crate::job::pipeline::PATIENCE;
use crate::sys::threads;

/// Threads a processor that decode, because they mostly wait for reads.
const DECODERS: usize = 4;
/// Pieces that wait for one of them. The cutter must not be far ahead: the frames that it finds
/// the file's map in are those that the decoders need next.
const PIECES: usize = 4;
/// Decoded pieces that wait to be written, and those that are: each takes a buffer.
const WAITING: usize = 4;
const WRITES: usize = 8;

/// Threads beside the caller's without which it is not done so.
const THREADS: usize = 2;

/// A piece of the file, decoded.
type Decoded = Made<(ByteRange, Buffer)>;

impl Run<'_> {
    /// Fills the new file at `spot`.
    pub(super) fn large(&self, item: &Item, spot: &Spot<'_>, file: &File) -> Made<()> {
        // Without others, this thread does it piece by piece.
        if threads::need(THREADS).is_err() {
            return self.small(item, spot, file, &mut vec![0; MAX_IO_SIZE]);
        }
        let file = file.try_clone().context(|| format!("write {}", spot.shown.display()));
        let file = file.map_err(Trouble::target)?;
        let target = Target::of_new_file(file, &spot.shown).map_err(Trouble::target)?;
        let decoders = self.options.threads.get().saturating_mul(DECODERS);
        let mut pool = lock(&self.buffers);
        let pool = match &mut *pool {
            Some(pool) => pool,
            none => {
                let new = BufferPool::new(WRITES + WAITING + decoders, MAX_IO_SIZE);
                none.insert(new.map_err(Trouble::End)?)
            }
        };
        let (pieces_in, pieces_out) = bounded::<ByteRange>(PIECES);
        let (decoded_in, decoded_out) = bounded::<Decoded>(WAITING);
        let told = thread::scope(|scope| {
            let pool = &*pool;
            let cutter = threads::start(scope, move || self.cut(item, &pieces_in));
            let cutter = cutter.map_err(Trouble::End)?;
            let decode = || {
                let (pieces, decoded) = (pieces_out.clone(), decoded_in.clone());
                move || {
                    if let Err(error) = self.decode(item, pool, &pieces, &decoded) {
                        // Who does not listen has failed already.
                        let _ = decoded.send(Err(error));
                    }
                }
            };
            // One of them is needed.
            threads::start(scope, decode()).map_err(Trouble::End)?;
            threads::crew(scope, decoders - 1, decode);
            drop((pieces_out, decoded_in));
            let told = self.write(&target, pool, &decoded_out);
            drop(decoded_out);
            let cut = cutter.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            told.and_then(|told| cut.map(|()| told))
        })?;
        // All that was no data.
        self.tell(item.size.saturating_sub(told));
        Ok(())
    }

    fn cut(&self, item: &Item, pieces: &Sender<ByteRange>) -> Made<()> {
        let content = self.plan.filesystem.open(item.file);
        let mut content = content.map_err(Trouble::image)?;
        let send = &mut |piece| match pieces.send(piece) {
            Ok(()) => ControlFlow::Continue(()),
            // All decoders ended, and one has said why.
            Err(_) => ControlFlow::Break(()),
        };
        let cut = cut(content.as_mut(), self.plan.volume, &|| self.is_stopped(), send);
        cut.map_err(Trouble::image)
    }

    fn decode(
        &self,
        item: &Item,
        pool: &BufferPool,
        pieces: &Receiver<ByteRange>,
        decoded: &Sender<Decoded>,
    ) -> Made<()> {
        let content = self.plan.filesystem.open(item.file);
        let mut content = content.map_err(Trouble::image)?;
        for piece in pieces {
            let mut buffer = pool.take(&|| self.is_stopped()).map_err(Trouble::End)?;
            buffer.set_len(usize::try_from(piece.len()).unwrap_or(usize::MAX));
            fill(content.as_mut(), piece.start, &mut buffer).map_err(Trouble::image)?;
            if decoded.send(Ok((piece, buffer))).is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Returns how many bytes were written and told of.
    fn write(&self, target: &Target, pool: &BufferPool, decoded: &Receiver<Decoded>) -> Made<u64> {
        let writer = TargetWriter::new(target, pool, WRITES, IoMode::Auto);
        let mut writer = writer.map_err(Trouble::target)?;
        loop {
            match decoded.recv_timeout(PATIENCE) {
                Ok(piece) => {
                    let (range, buffer) = piece?;
                    writer.write(ByteOffset(range.start), buffer).map_err(Trouble::target)?;
                    self.tell(range.len());
                    self.written(range.len())?;
                }
                Err(RecvTimeoutError::Timeout) => self.written(0)?,
                Err(RecvTimeoutError::Disconnected) => {
                    return writer.finish().map_err(Trouble::target);
                }
            }
        }
    }
}
