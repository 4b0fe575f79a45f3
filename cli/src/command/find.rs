//! `find`: files of one volume or all, by name, type, size and time.

use std::os::unix::ffi::OsStrExt;

use globset::{Candidate, GlobBuilder, GlobMatcher};
use imgx_engine::base::{Error, ErrorKind, Result};
use imgx_engine::fs::{FileType, Metadata, Timestamp as FileTime};
use imgx_engine::job::files::{Descend, FilePath, LastLink, OpenVolume, Visited, Walk, resolve};
use imgx_engine::volume::Kind;

use super::ls::{place, tell_notes};
use crate::args::{FileTypes, FindArguments, SizeLimit};
use crate::files::{Files, Losses};
use crate::listing::{Listing, Row};
use crate::session::{Outcome, Session};

/// Runs the command.
///
/// # Errors
/// `NotFound` for an unknown image or volume; `Invalid` for a pattern that means nothing;
/// `Unsupported` when no filesystem can be read.
pub fn run(arguments: &FindArguments, session: &Session) -> Result<Outcome> {
    let pattern = FilePath::parse(arguments.pattern.as_bytes());
    let filter = Filter::new(&pattern.path, arguments)?;
    let mut files = Files::open(&arguments.image, &arguments.reading, "find", session)?;
    let mut losses = Losses::default();
    let console = &session.console;
    let mut listing = Listing::new(console, arguments.long, arguments.reading.zone());
    if let Some(selector) = &pattern.volume {
        let volume = files.disk.open(Some(selector))?;
        search(&volume, &filter, &mut listing, &mut losses, session)?;
        listing.flush();
        return Ok(losses.outcome());
    }
    let mut searched = 0_u32;
    for (volume, opened) in files.disk.open_all() {
        match opened {
            Ok(opened) => {
                search(&opened, &filter, &mut listing, &mut losses, session)?;
                searched += 1;
            }
            Err(error) => losses.tell(&volume.name, &error, console),
        }
    }
    for (volume, error) in files.disk.closed() {
        let name = &volume.name;
        let error = match volume.kind() {
            Some(Kind::Luks) => {
                let opens = format!("--unlock {name} or --unlock {name}=FILE opens it");
                Error::new(error.kind(), format!("{error}: {opens}"))
            }
            _ => error,
        };
        losses.tell(name, &error, console);
    }
    listing.flush();
    if searched == 0 {
        // Says which volumes there are.
        files.disk.open(None)?;
    }
    Ok(losses.outcome())
}

fn search(
    volume: &OpenVolume,
    filter: &Filter,
    listing: &mut Listing<'_>,
    losses: &mut Losses,
    session: &Session,
) -> Result<()> {
    let filesystem = volume.filesystem.as_ref();
    tell_notes(&volume.name, filesystem, &session.console);
    losses.tell_doubts(&volume.name, filesystem, &session.console);
    let root = resolve(filesystem, b"/", LastLink::Keep)?;
    Walk::new(filesystem).run(&root, &mut |visited| {
        match visited {
            Visited::File { path, file, metadata, .. } if filter.takes(path, &metadata) => {
                let has_target = metadata.file_type == FileType::Symlink && listing.has_targets();
                let target = has_target.then(|| filesystem.link_target(file)).transpose();
                let target = target.unwrap_or_else(|error| {
                    losses.tell(&place(&volume.name, path), &error, &session.console);
                    None
                });
                let shown = [volume.name.as_bytes(), b":", path].concat();
                let name = volume.name.as_str();
                listing.add(&Row {
                    volume: name,
                    path,
                    shown: &shown,
                    metadata: &metadata,
                    target,
                })?;
            }
            Visited::File { .. } => {}
            Visited::Lost { path, error } => {
                losses.tell(&place(&volume.name, path), &error, &session.console);
            }
        }
        Ok(Descend::Into)
    })?;
    losses.tell_doubts(&volume.name, filesystem, &session.console);
    Ok(())
}

/// What is searched for.
struct Filter {
    glob: GlobMatcher,
    is_of_path: bool,
    types: Option<FileTypes>,
    size: Option<SizeLimit>,
    newer: Option<FileTime>,
    older: Option<FileTime>,
}

impl Filter {
    fn new(pattern: &[u8], arguments: &FindArguments) -> Result<Self> {
        let invalid = |why: String| Error::new(ErrorKind::Invalid, why);
        let pattern = std::str::from_utf8(pattern)
            .map_err(|_| invalid("the pattern is not UTF-8: use `?` for such bytes".to_owned()))?;
        let is_of_path = pattern.contains('/');
        let rooted = match is_of_path && !pattern.starts_with('/') {
            true => format!("/{pattern}"),
            false => pattern.to_owned(),
        };
        let glob = GlobBuilder::new(&rooted)
            .literal_separator(true)
            .backslash_escape(true)
            .case_insensitive(arguments.ignore_case)
            .build()
            .map_err(|error| invalid(format!("pattern '{pattern}': {}", error.kind())))?;
        let (types, size) = (arguments.types.clone(), arguments.size);
        let zone = arguments.reading.zone();
        let [newer, older] = [arguments.newer, arguments.older]
            .map(|moment| moment.map(|moment| zone.instant(moment)));
        Ok(Self { glob: glob.compile_matcher(), is_of_path, types, size, newer, older })
    }

    fn takes(&self, path: &[u8], metadata: &Metadata) -> bool {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let text = if self.is_of_path { path } else { name };
        let has_type =
            self.types.as_ref().is_none_or(|types| types.0.contains(&metadata.file_type));
        let has_size = self.size.is_none_or(|limit| match limit {
            SizeLimit::Exactly(size) => metadata.size == size,
            SizeLimit::Above(size) => metadata.size > size,
            SizeLimit::Below(size) => metadata.size < size,
        });
        let is_newer = self.newer.is_none_or(|time| metadata.modified.is_some_and(|at| at >= time));
        let is_older = self.older.is_none_or(|time| metadata.modified.is_some_and(|at| at < time));
        has_type && has_size && is_newer && is_older && {
            let path = std::path::Path::new(std::ffi::OsStr::from_bytes(text));
            self.glob.is_match_candidate(&Candidate::new(path))
        }
    }
}
