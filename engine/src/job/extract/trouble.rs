//! Why something was not made, by whose fault: the image's, the target's, or nobody's.

use nix::errno::Errno;

use crate::base::{Error, ErrorKind};

/// Why a file or folder was not made. There is no conversion from an [`Error`]: whoever meets one
/// says whether it was the image that failed or the target.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The image cannot give it.
    Image(Error),
    /// The target cannot have this name: it is too long, has characters that it refuses, or is
    /// the same as another's in its eyes.
    Name(Error),
    /// The target has no such kind of file.
    Kind(Error),
    /// The target refused or failed.
    Target(Error),
    /// What was made cannot be moved into its folder, but can be made there: once more.
    Elsewhere,
    /// Nothing more can be made at all.
    End(Error),
}

/// The outcome of making something.
pub(super) type Made<T> = Result<T, Trouble>;

/// Descriptors are used up: whatever comes next would fail in the same way.
const USED_UP: [Errno; 2] = [Errno::EMFILE, Errno::ENFILE];
/// The target as a whole takes no more.
const FULL: [Errno; 3] = [Errno::ENOSPC, Errno::EDQUOT, Errno::EROFS];

fn is_one_of(error: &Error, numbers: &[Errno]) -> bool {
    error.raw_os_error().is_some_and(|number| numbers.contains(&Errno::from_raw(number)))
}

impl Trouble {
    /// A failure to read from the image.
    pub(super) fn image(error: Error) -> Self {
        let is_end = error.kind() == ErrorKind::Cancelled || is_one_of(&error, &USED_UP);
        if is_end { Self::End(error) } else { Self::Image(error) }
    }

    /// A failure to write to the target.
    pub(super) fn target(error: Error) -> Self {
        let is_end = error.kind() == ErrorKind::Cancelled
            || is_one_of(&error, &USED_UP)
            || is_one_of(&error, &FULL);
        if is_end { Self::End(error) } else { Self::Target(error) }
    }

    /// The same of making a link, device, pipe or socket, which not every filesystem has.
    pub(super) fn or_kind(self) -> Self {
        let unknown = [Errno::EPERM, Errno::EOPNOTSUPP, Errno::ENOSYS];
        match self {
            Self::Target(error) if is_one_of(&error, &unknown) => Self::Kind(error),
            other => other,
        }
    }
}
