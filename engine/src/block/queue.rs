//! Many reads or writes at once, by io_uring, by threads or by NBD, behind one face.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, unbounded};

use super::files::Files;
use super::nbd::NbdExport;
use crate::base::{Error, ErrorContext, ErrorKind, Result};
use crate::sys::{Buffer, BufferPool, Completion, Ring};

/// Most threads of a queue.
const MAX_THREADS: usize = 32;
/// How long a wait goes on before it is looked whether it is still wanted.
const MOMENT: Duration = Duration::from_millis(100);

/// How reads and writes are kept in flight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum IoMode {
    /// io_uring with direct I/O where both are to be had, else threads.
    #[default]
    Auto,
    /// io_uring, or an error.
    Ring,
    /// A thread for each operation in flight.
    Threads,
}

impl IoMode {
    /// What `Auto` comes to on this machine; `Ring` fails where there is none.
    pub(super) fn resolve(self, files: &Files) -> Result<Self> {
        match self {
            Self::Threads => Ok(Self::Threads),
            Self::Ring => Ring::probe().map(|()| Self::Ring).context(|| "set up io_uring"),
            // Buffered reads block inside the ring, where threads of ours do it better.
            Self::Auto if files.direct.is_none() || Ring::probe().is_err() => Ok(Self::Threads),
            Self::Auto => Ok(Self::Ring),
        }
    }
}

/// What is in flight in a ring: whether it is a write, and where, by its tag.
type Begun = HashMap<u64, (bool, u64)>;

/// Operations in flight on one disk. They end in any order.
pub(super) struct Queue {
    engine: Engine,
    /// What ended without the engine.
    ended: Vec<Completion>,
}

enum Engine {
    /// The ring, and what it cannot serve goes through.
    Ring(Box<Ring>, Arc<Files>, Begun),
    Threads(Threads),
    /// An export's connections, which have threads of their own.
    Nbd(Arc<NbdExport>, Sender<Completion>, Ended),
}

impl Queue {
    /// A queue for `depth` operations. In mode `Auto` it does with threads if it must.
    pub fn new(files: &Arc<Files>, mode: IoMode, depth: usize, pool: &BufferPool) -> Result<Self> {
        let depth = depth.max(1);
        let engine = match mode.resolve(files)? {
            IoMode::Threads => Engine::Threads(Threads::start(files, depth)?),
            _ => match Ring::new(files.bulk(), depth, pool) {
                Ok(ring) => Engine::Ring(Box::new(ring), Arc::clone(files), Begun::new()),
                Err(_) if mode == IoMode::Auto => Engine::Threads(Threads::start(files, depth)?),
                Err(error) => return Err(Error::io("set up io_uring", error)),
            },
        };
        Ok(Self { engine, ended: Vec::new() })
    }

    /// A queue for reads of an export, as many as there are buffers.
    pub fn of_export(export: &Arc<NbdExport>) -> Self {
        export.widen();
        let (outbox, ended) = unbounded();
        let ended = Ended { inbox: ended, in_flight: 0 };
        Self { engine: Engine::Nbd(Arc::clone(export), outbox, ended), ended: Vec::new() }
    }

    /// Begins filling `buffer`, in its length, from `offset`. At most the depth may be in flight.
    pub fn read(&mut self, offset: u64, buffer: Buffer, tag: u64) {
        self.begin(Job { is_write: false, offset, buffer, tag });
    }

    /// Begins writing `buffer` at `offset`. At most the depth may be in flight.
    pub fn write(&mut self, offset: u64, buffer: Buffer, tag: u64) {
        self.begin(Job { is_write: true, offset, buffer, tag });
    }

    /// Waits for at least `want` operations (of those in flight) to end; returns all that have.
    pub fn wait(&mut self, want: usize) -> Result<Vec<Completion>> {
        let mut ended = std::mem::take(&mut self.ended);
        let want = want.saturating_sub(ended.len());
        match &mut self.engine {
            Engine::Ring(ring, files, begun) => {
                let more = ring.submit_and_wait(want).context(|| "wait for io_uring")?;
                ended.extend(more.into_iter().map(|one| again_if_refused(one, files, begun)));
            }
            Engine::Threads(threads) => threads.ended.wait(want, &mut ended)?,
            Engine::Nbd(export, _, flight) => {
                while !flight.wait_briefly(want, &mut ended)? {
                    export.check()?;
                }
            }
        }
        Ok(ended)
    }

    /// Hands what was begun to the kernel, without waiting.
    pub fn submit(&mut self) -> Result<()> {
        if let Engine::Ring(ring, files, begun) = &mut self.engine {
            let ended = ring.submit_and_wait(0).context(|| "submit to io_uring")?;
            self.ended.extend(ended.into_iter().map(|one| again_if_refused(one, files, begun)));
        }
        Ok(())
    }

    fn begin(&mut self, job: Job) {
        match &mut self.engine {
            Engine::Threads(threads) => threads.begin(job),
            Engine::Nbd(export, outbox, flight) => {
                flight.in_flight += 1;
                export.begin(job.offset, job.buffer, job.tag, outbox);
            }
            // The odd end of a disk: a ring serves one descriptor only, and that is direct.
            Engine::Ring(_, files, _) if !files.is_aligned(job.offset, &job.buffer) => {
                let ended = job.run(files);
                self.ended.push(ended);
            }
            Engine::Ring(ring, _, begun) => {
                begun.insert(job.tag, (job.is_write, job.offset));
                match job.is_write {
                    true => ring.write(job.offset, job.buffer, job.tag),
                    false => ring.read(job.offset, job.buffer, job.tag),
                }
            }
        }
    }
}

/// Does what a ring gave up, without it: what may wait is done by threads of the kernel's, which
/// count as the user's and are refused where those are (`ECANCELED`).
fn again_if_refused(ended: Completion, files: &Files, begun: &mut Begun) -> Completion {
    let job = begun.remove(&ended.tag);
    let refused = ended.result.as_ref().err().and_then(io::Error::raw_os_error);
    match job {
        Some((is_write, offset)) if refused == Some(nix::libc::ECANCELED) => {
            let Completion { tag, buffer, .. } = ended;
            Job { is_write, offset, buffer, tag }.run(files)
        }
        _ => ended,
    }
}

struct Job {
    is_write: bool,
    offset: u64,
    buffer: Buffer,
    tag: u64,
}

impl Job {
    fn run(mut self, files: &Files) -> Completion {
        let result = if self.is_write {
            files.write(self.offset, &self.buffer).map(|()| self.buffer.len())
        } else {
            files.read(self.offset, &mut self.buffer)
        };
        Completion { tag: self.tag, buffer: self.buffer, result }
    }
}

/// Threads that do one operation after another.
struct Threads {
    /// Taken on drop, which ends the threads.
    jobs: Option<Sender<Job>>,
    ended: Ended,
    handles: Vec<JoinHandle<()>>,
}

/// What threads hand back.
struct Ended {
    inbox: Receiver<Completion>,
    in_flight: usize,
}

impl Threads {
    fn start(files: &Arc<Files>, depth: usize) -> Result<Self> {
        let (jobs, inbox) = unbounded::<Job>();
        let (outbox, ended) = unbounded();
        let ended = Ended { inbox: ended, in_flight: 0 };
        let mut this = Self { jobs: Some(jobs), ended, handles: Vec::new() };
        for number in 0..depth.min(MAX_THREADS) {
            let (inbox, outbox, files) = (inbox.clone(), outbox.clone(), files.clone());
            let work = move || {
                for job in inbox {
                    // Nobody listens any more: the rest is not wanted.
                    if outbox.send(job.run(&files)).is_err() {
                        break;
                    }
                }
            };
            let thread = std::thread::Builder::new().name(format!("io-{number}")).spawn(work);
            match thread {
                Ok(handle) => this.handles.push(handle),
                // Fewer than wanted will do.
                Err(_) if !this.handles.is_empty() => break,
                Err(error) => return Err(Error::io("start a thread for I/O", error)),
            }
        }
        Ok(this)
    }

    fn begin(&mut self, job: Job) {
        if self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok()) {
            self.ended.in_flight += 1;
        }
    }
}

impl Ended {
    /// Waits for `want` of those in flight, and takes all that have ended.
    fn wait(&mut self, want: usize, ended: &mut Vec<Completion>) -> Result<()> {
        while !self.wait_briefly(want, ended)? {}
        Ok(())
    }

    /// The same, but for a moment only; returns whether `want` are in `ended`, or nothing is in
    /// flight.
    fn wait_briefly(&mut self, want: usize, ended: &mut Vec<Completion>) -> Result<bool> {
        while ended.len() < want && self.in_flight > 0 {
            match self.inbox.recv_timeout(MOMENT) {
                Ok(next) => self.take(next, ended),
                Err(RecvTimeoutError::Timeout) => return Ok(false),
                Err(RecvTimeoutError::Disconnected) => {
                    let context = "the threads that do the I/O have ended";
                    return Err(Error::new(ErrorKind::Io, context));
                }
            }
        }
        while let Ok(next) = self.inbox.try_recv() {
            self.take(next, ended);
        }
        Ok(true)
    }

    fn take(&mut self, next: Completion, ended: &mut Vec<Completion>) {
        self.in_flight -= 1;
        ended.push(next);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.jobs = None;
        for handle in self.handles.drain(..) {
            let _ = handle.join();
        }
    }
}

/// A short name of what a mode and the descriptors come to.
pub(super) fn engine_name(mode: IoMode, files: &Files) -> &'static str {
    match (mode, files.direct.is_some()) {
        (IoMode::Threads, true) => "threads direct",
        (IoMode::Threads, false) => "threads buffered",
        (_, true) => "io_uring direct",
        (_, false) => "io_uring buffered",
    }
}

/// Whether an error says that the medium cannot be read there, as opposed to a fault of the
/// request or the loss of the whole device.
pub(super) fn is_medium_error(error: &io::Error) -> bool {
    use nix::libc::{EBADMSG, EILSEQ, EIO, ENODATA, EREMOTEIO, ETIMEDOUT};
    // The block layer's statuses that speak of a place: blk_errors in block/blk-core.c.
    matches!(error.raw_os_error(), Some(EIO | ENODATA | EREMOTEIO | EILSEQ | EBADMSG | ETIMEDOUT))
}

#[cfg(test)]
mod tests {
    use super::super::files::Access;
    use super::*;

    #[test]
    fn what_a_ring_gives_up_for_want_of_threads_is_done_without_it() {
        let file = tempfile::NamedTempFile::new().expect("made");
        std::fs::write(file.path(), vec![7; 4096]).expect("written");
        let files = Files::open(file.path(), Access::Read, false).expect("opened");
        let pool = BufferPool::new(1, 4096).expect("a pool");
        for (error, expected) in [(nix::libc::ECANCELED, Ok(4096)), (nix::libc::EIO, Err(()))] {
            let mut buffer = pool.take(&|| false).expect("a buffer");
            buffer.set_len(4096);
            let result = Err(io::Error::from_raw_os_error(error));
            let mut begun = Begun::from([(3, (false, 0))]);
            let done = again_if_refused(Completion { tag: 3, buffer, result }, &files, &mut begun);
            assert_eq!(done.result.map_err(drop), expected);
            assert!(begun.is_empty());
        }
    }
}
