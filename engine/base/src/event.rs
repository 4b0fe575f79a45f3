//! What long jobs tell while they run: a closed set of events, through one observer, which may
//! also stop them.

use super::units::ByteRange;

/// The part of a job that is running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Finding what the repository already holds.
    Index,
    /// Reading the source and storing its blocks.
    Capture,
    /// Writing the target.
    Restore,
    /// Reading the target back.
    ReadBack,
    /// Reading images against their digests.
    Verify,
    /// Reading packs against their checksums.
    Scrub,
    /// Writing files out of an image.
    Extract,
    /// Reading a disk for what the repository has lost.
    Repair,
}

impl Phase {
    /// The phase's name, as it stands in JSON events.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Capture => "capture",
            Self::Restore => "restore",
            Self::ReadBack => "read-back",
            Self::Verify => "verify",
            Self::Scrub => "scrub",
            Self::Extract => "extract",
            Self::Repair => "repair",
        }
    }
}

/// How far a phase is. All counts are bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the phase's total that are done, holes and zeros included.
    pub done: u64,
    /// The phase's total.
    pub total: u64,
    /// Bytes really read from or written to the disk so far.
    pub moved: u64,
    /// Source bytes that had to be stored so far (capture only).
    pub fresh: u64,
    /// Bytes that the repository grew by so far (capture only).
    pub stored: u64,
}

impl Progress {
    /// Goes on by `bytes` that were moved. Sizes that a repository claims may be anything: what is
    /// beyond 64 bits is not counted.
    pub fn advance(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes);
        self.moved = self.done;
    }
}

/// Something that the user may want to know while a job runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// A phase began; `total` bytes are to be done.
    Started {
        /// Which.
        phase: Phase,
        /// Its bytes.
        total: u64,
    },
    /// The phase went on.
    Progress(Progress),
    /// The source or target could not be read here; the job goes on.
    Unreadable {
        /// Bytes of the disk.
        range: ByteRange,
        /// The system's word.
        reason: &'a str,
    },
    /// Damage was found in the repository; the job goes on.
    Damage {
        /// The object, the place, what was expected and found, and what it costs.
        report: &'a str,
    },
    /// Damage in the repository may have what was asked for mean something else; told like damage.
    Doubt {
        /// In a line.
        message: &'a str,
    },
    /// Something unexpected that costs nothing yet.
    Warning {
        /// In a line.
        message: &'a str,
    },
}

/// Listens to a job. Called from several threads; it must not block for long.
pub trait Observer: Sync {
    /// Takes one event.
    fn event(&self, event: &Event<'_>);

    /// Whether the job is to stop as soon as it safely can, with kind `Cancelled`.
    fn cancelled(&self) -> bool {
        false
    }
}

/// An observer that ignores everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _event: &Event<'_>) {}
}
