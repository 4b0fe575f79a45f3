//! Writing to a pipe whose reader may pause for as long as it likes, and a run that is to stop all
//! the same.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::base::{Error, Observer};

/// Bytes that a pipe takes at once when it is ready: `PIPE_BUF` of pipe(7).
const AT_ONCE: usize = 4096;
/// Milliseconds after which the observer is asked again.
const PATIENCE: u8 = 100;

/// A descriptor that is written to as long as an observer does not want to stop.
pub struct Output<'a> {
    file: File,
    /// Whether it may keep a writer waiting.
    is_pipe: bool,
    observer: &'a dyn Observer,
}

impl<'a> Output<'a> {
    /// Writes to `descriptor`.
    ///
    /// # Errors
    /// The system's, when it does not say what that is.
    pub fn new(descriptor: OwnedFd, observer: &'a dyn Observer) -> io::Result<Self> {
        let file = File::from(descriptor);
        let is_pipe = !file.metadata()?.is_file();
        Ok(Self { file, is_pipe, observer })
    }

    /// Waits until something can be written.
    fn wait(&self) -> io::Result<()> {
        loop {
            if self.observer.cancelled() {
                return Err(io::Error::other(Error::cancelled()));
            }
            let mut waiting = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut waiting, PollTimeout::from(PATIENCE)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Write for Output<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_pipe {
            return self.file.write(bytes);
        }
        self.wait()?;
        self.file.write(&bytes[..bytes.len().min(AT_ONCE)])
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::base::Event;

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
        let observer = Asked(AtomicU32::new(1000));
        let mut output = Output::new(writer.into(), &observer).expect("a pipe");
        let bytes = vec![7; 1 << 20];
        let mut written = 0;
        let stopped = loop {
            match output.write(&bytes[written..]) {
                Ok(count) => written += count,
                Err(error) => break error,
            }
            // The pipe is full some time; then it is asked twice more.
            if written >= 32 << 10 {
                observer.0.store(2, Ordering::Relaxed);
            }
        };
        assert!(stopped.to_string().contains("interrupted"), "{stopped}");
        drop(output);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).expect("read");
        assert!(read == bytes[..written] && written > 0);
    }
}
