//! `diff`: where two images differ, from their trees alone, or with `--files` which files do.

use imgx_engine::base::{ByteRange, Error, ErrorKind, Result};
use imgx_engine::store::difference;
use serde_json::json;

use super::{diff_files, refuse_paths};
use crate::args::DiffArguments;
use crate::output::{count, size};
use crate::progress::Reporter;
use crate::session::{Outcome, Session};

/// Runs the command.
///
/// # Errors
/// `NotFound` for an unknown image; `Corrupt` or `Io` when a tree cannot be read.
pub fn run(arguments: &DiffArguments, session: &Session) -> Result<Outcome> {
    if arguments.files {
        return diff_files::run(arguments, session);
    }
    if !arguments.unlock.is_empty() {
        let context = "--unlock opens volumes for their files: it needs --files";
        return Err(Error::new(ErrorKind::Invalid, context));
    }
    refuse_paths([&*arguments.before, &*arguments.after])?;
    let repository = session.repository()?;
    let _lock = repository.lock_to_read("diff")?;
    let stop = session.stop_on_signals()?;
    let images = repository.images()?;
    let before = images.resolve(&arguments.before, session)?;
    let after = images.resolve(&arguments.after, session)?;
    let readers = [repository.reader(before), repository.reader(after)];
    let console = &session.console;
    let reporter = Reporter::new(console, stop);
    let (mut bytes, mut places, mut listed) = (0, 0_u64, Vec::new());
    difference([&readers[0], &readers[1]], &reporter, &mut |range: ByteRange| {
        bytes += range.len();
        places += 1;
        if console.is_json() {
            listed.push(json!({"offset": range.start, "length": range.len()}));
        } else {
            console.line(&format!("{} {}", range.start, range.len()));
        }
        console.check()
    })?;
    drop(reporter);
    console.document(&json!({
        "before": before.id,
        "after": after.id,
        "block_size": after.manifest.block_size,
        "bytes": bytes,
        "ranges": listed,
    }));
    console.say(&match places {
        0 => "no difference".to_owned(),
        places => format!("{} in {} differ", size(bytes), count(places, "place")),
    });
    Ok(Outcome::Done)
}
