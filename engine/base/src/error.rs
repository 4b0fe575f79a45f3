//! The engine's one error type: a kind, where it happened, and what lay beneath.

use std::fmt;
use std::io;

/// The engine's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it is; the command line maps each to an exit code and one line of advice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The operating system failed an operation.
    Io,
    /// Stored or imaged data is not what its checksum, digest or format demands.
    Corrupt,
    /// The data is valid but uses something that this version cannot handle.
    Unsupported,
    /// The named thing does not exist.
    NotFound,
    /// Somebody else holds it, it exists already, or it would overwrite data.
    Conflict,
    /// A key is missing or wrong.
    Key,
    /// A size, depth or count is beyond a documented limit.
    Limit,
    /// What the caller asked for makes no sense.
    Invalid,
    /// The user stopped the run.
    Cancelled,
}

/// A failure: its kind, a context that names object and place, and its source.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
    /// Whether a later version may do what this one cannot.
    is_newer: bool,
}

impl Error {
    /// A failure of `kind`; `context` says what was done to what, and where.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None, is_newer: false }
    }

    /// An operating system error, and what was being done when it came.
    pub fn io(context: impl Into<String>, source: io::Error) -> Self {
        let source = Some(Box::new(source) as Box<_>);
        Self { source, ..Self::new(ErrorKind::Io, context) }
    }

    /// Damage at `place`: what was expected there, and what was found.
    pub fn corrupt(
        place: impl fmt::Display,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        Self::new(ErrorKind::Corrupt, format!("{place}: expected {expected}, found {found}"))
    }

    /// `Unsupported` because of a version or feature that this version does not know, unlike what
    /// is refused whatever the version.
    pub fn newer(context: impl Into<String>) -> Self {
        Self { is_newer: true, ..Self::new(ErrorKind::Unsupported, context) }
    }

    /// The run was stopped on request.
    #[must_use]
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "interrupted")
    }

    /// The failure's kind.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether a later version may do what this one cannot.
    #[must_use]
    pub fn is_newer(&self) -> bool {
        self.is_newer
    }

    /// The operating system's error number, if one lies beneath.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        self.source.as_deref()?.downcast_ref::<io::Error>()?.raw_os_error()
    }

    /// The same failure, with an outer place put before its context.
    #[must_use]
    pub fn within(mut self, outer: impl fmt::Display) -> Self {
        self.context = format!("{outer}: {}", self.context);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        match &self.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// Adds a context to operating system results.
pub trait ErrorContext<T> {
    /// Turns the error into an [`Error`] whose context `describe` writes.
    ///
    /// # Errors
    /// The receiver's own error, described.
    fn context<C: Into<String>>(self, describe: impl FnOnce() -> C) -> Result<T>;
}

impl<T, E: Into<io::Error>> ErrorContext<T> for std::result::Result<T, E> {
    fn context<C: Into<String>>(self, describe: impl FnOnce() -> C) -> Result<T> {
        self.map_err(|source| Error::io(describe(), source.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_place_expectation_and_finding() {
        let error = Error::corrupt("pack ab12 at 64", "magic IMGF", "00000000").within("image 7");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert_eq!(
            error.to_string(),
            "image 7: pack ab12 at 64: expected magic IMGF, found 00000000"
        );
    }

    #[test]
    fn an_io_error_keeps_the_system_error_number() {
        let error = Error::io("read x", io::Error::from_raw_os_error(28));
        assert_eq!(error.raw_os_error(), Some(28));
        assert!(error.to_string().starts_with("read x: "));
    }
}
