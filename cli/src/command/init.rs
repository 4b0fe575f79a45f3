//! `init`: creates a repository.

use imgx_engine::base::Result;
use imgx_engine::store::Repository;
use serde_json::json;

use crate::args::InitArguments;
use crate::listing::put_path;
use crate::output::size;
use crate::session::{Outcome, Session};

/// Runs the command.
///
/// # Errors
/// Those of [`Repository::create`].
pub fn run(arguments: &InitArguments, session: &Session) -> Result<Outcome> {
    let path = session.repository_path()?;
    let repository = Repository::create(&path, arguments.block_size)?;
    let config = repository.config();
    let block_size = config.block_size.bytes();
    let line = format!(
        "created repository {} in {}, blocks of {}",
        config.id,
        path.display(),
        size(block_size)
    );
    session.console.say(&line);
    let mut document = json!({
        "repository": config.id,
        "block_size": block_size,
        "format": config.format,
    });
    put_path(&mut document, "path", &path);
    session.console.document(&document);
    Ok(Outcome::Done)
}
