//! Writing to a pipe whose reader may pause for as long as it likes, and a run that is to stop all
//! the same: a thread of its own waits for the reader.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender, bounded, unbounded};

use crate::base::{Error, Observer};

/// After which time the observer is asked again.
const PATIENCE: Duration = Duration::from_millis(100);

/// A descriptor that is written to as long as an observer does not want to stop. Bytes that were
/// taken have arrived only after [`flush`](Write::flush).
pub struct Output<'a> {
    way: Way,
    observer: &'a dyn Observer,
}

/// How bytes get there.
enum Way {
    /// A file takes them at once.
    File(File),
    /// A thread waits until a pipe takes them.
    Thread(Waiting),
}

/// What a thread is to write, and what came of it.
struct Waiting {
    pieces: Sender<Vec<u8>>,
    written: Receiver<io::Result<()>>,
    /// Pieces of which nothing was heard yet.
    pending: usize,
}

impl<'a> Output<'a> {
    /// Writes to `descriptor`.
    ///
    /// # Errors
    /// The system's, when it does not say what that is.
    pub fn new(descriptor: OwnedFd, observer: &'a dyn Observer) -> io::Result<Self> {
        let file = File::from(descriptor);
        let way = match file.metadata()?.is_file() {
            true => Way::File(file),
            // Without a thread, whoever stops the run has to wait for the reader.
            false => match Waiting::start(file.try_clone()?) {
                Ok(waiting) => Way::Thread(waiting),
                Err(_) => Way::File(file),
            },
        };
        Ok(Self { way, observer })
    }
}

impl Waiting {
    fn start(mut file: File) -> io::Result<Self> {
        let (pieces, to_write) = bounded::<Vec<u8>>(1);
        let (tell, written) = unbounded();
        thread::Builder::new().name("output".to_owned()).spawn(move || {
            for piece in to_write {
                let outcome = file.write_all(&piece);
                let is_over = outcome.is_err();
                if tell.send(outcome).is_err() || is_over {
                    break;
                }
            }
        })?;
        Ok(Self { pieces, written, pending: 0 })
    }

    fn add(&mut self, mut piece: Vec<u8>, observer: &dyn Observer) -> io::Result<()> {
        loop {
            check(observer)?;
            piece = match self.pieces.send_timeout(piece, PATIENCE) {
                Ok(()) => break,
                Err(SendTimeoutError::Timeout(piece)) => piece,
                // The thread ended, and has said why.
                Err(SendTimeoutError::Disconnected(_)) => {
                    return self.wait(observer).and(Err(io::ErrorKind::BrokenPipe.into()));
                }
            };
        }
        self.pending += 1;
        while let Ok(outcome) = self.written.try_recv() {
            self.pending = self.pending.saturating_sub(1);
            outcome?;
        }
        Ok(())
    }

    /// Waits until everything is written.
    fn wait(&mut self, observer: &dyn Observer) -> io::Result<()> {
        while self.pending > 0 {
            check(observer)?;
            match self.written.recv_timeout(PATIENCE) {
                Ok(outcome) => {
                    self.pending -= 1;
                    outcome?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        Ok(())
    }
}

fn check(observer: &dyn Observer) -> io::Result<()> {
    if observer.cancelled() { Err(io::Error::other(Error::cancelled())) } else { Ok(()) }
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.way {
            Way::File(file) => file.write(bytes),
            Way::Thread(waiting) => {
                waiting.add(bytes.to_vec(), self.observer).map(|()| bytes.len())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.way {
            Way::File(_) => Ok(()),
            Way::Thread(waiting) => waiting.wait(self.observer),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::base::{Event, Silent};

    /// Wants to stop when it was asked this often.
    struct Asked(AtomicU32);

    impl Observer for Asked {
        fn event(&self, _event: &Event<'_>) {}

        fn cancelled(&self) -> bool {
            let left = self.0.load(Ordering::Relaxed);
            self.0.store(left.saturating_sub(1), Ordering::Relaxed);
            left == 0
        }
    }

    #[test]
    fn a_full_pipe_that_nobody_reads_does_not_hold_a_run() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let observer = Asked(AtomicU32::new(6));
        let mut output = Output::new(writer.into(), &observer).expect("a pipe");
        let piece = vec![7; 1 << 20];
        let taken = (0..9).take_while(|_| output.write(&piece).is_ok()).count();
        assert!(taken < 9, "nobody read that much");
        assert!(output.flush().is_err(), "it did not arrive");
        drop(output);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).expect("read");
        assert!(read.len() % piece.len() == 0 && read.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn what_is_flushed_has_arrived_and_a_closed_pipe_is_an_error() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let mut output = Output::new(writer.into(), &Silent).expect("a pipe");
        let text = vec![3; 300_000];
        let read = thread::scope(|scope| {
            let read = scope.spawn(move || {
                let mut read = vec![0; 300_000];
                reader.read_exact(&mut read).expect("read");
                read
            });
            text.chunks(70_000).for_each(|piece| output.write_all(piece).expect("taken"));
            output.flush().expect("it arrived");
            read.join().expect("it ended")
        });
        assert!(read == text);
        // The reader is gone.
        let ended = output.write_all(&text).and_then(|()| output.flush());
        assert_eq!(ended.expect_err("closed").kind(), io::ErrorKind::BrokenPipe);
    }
}
