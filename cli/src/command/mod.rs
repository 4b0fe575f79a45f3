//! The commands, a file each: every one turns what was typed into the engine's plan, runs it, and
//! prints what came of it.

mod bench;
mod capture;
mod cat;
mod demo;
mod diff;
mod diff_files;
mod extract;
mod find;
mod images;
mod init;
mod ls;
mod map;
mod repair;
mod restore;
mod show;
mod track;
mod verify;

use imgx_engine::base::{Error, ErrorKind, Result};

use crate::args::{Command, is_path};
use crate::session::{Outcome, Session};

/// Runs a command.
///
/// # Errors
/// The engine's, and those of the surroundings.
pub fn run(command: &Command, session: &Session) -> Result<Outcome> {
    match dispatch(command, session) {
        // Whoever read has had enough: what they were given was right.
        Err(_) if only_prints(command) && session.console.has_lost_reader() => Ok(Outcome::Done),
        ended => ended,
    }
}

/// Whether a command has nothing left to do once nobody reads what it prints.
fn only_prints(command: &Command) -> bool {
    match command {
        Command::Images | Command::Show(_) | Command::Ls(_) | Command::Cat(_) => true,
        Command::Find(_) | Command::Diff(_) => true,
        Command::Map(arguments) => arguments.svg.is_none(),
        Command::Extract(arguments) => arguments.tar,
        _ => false,
    }
}

fn dispatch(command: &Command, session: &Session) -> Result<Outcome> {
    match command {
        Command::Init(arguments) => init::run(arguments, session),
        Command::Capture(arguments) => capture::run(arguments, session),
        Command::Images => images::run(session),
        Command::Show(arguments) => show::run(arguments, session),
        Command::Ls(arguments) => ls::run(arguments, session),
        Command::Cat(arguments) => cat::run(arguments, session),
        Command::Find(arguments) => find::run(arguments, session),
        Command::Extract(arguments) => extract::run(arguments, session),
        Command::Diff(arguments) => diff::run(arguments, session),
        Command::Map(arguments) => map::run(arguments, session),
        Command::Verify(arguments) => verify::run(arguments, session),
        Command::Repair(arguments) => repair::run(arguments, session),
        Command::Restore(arguments) => restore::run(arguments, session),
        Command::Track(command) => track::run(command, session),
        Command::Bench(arguments) => bench::run(arguments, session),
        Command::Demo(arguments) => demo::run(arguments, session),
    }
}

/// Refuses what is no image but a disk's path, where only images will do.
fn refuse_paths<'a>(references: impl IntoIterator<Item = &'a str>) -> Result<()> {
    match references.into_iter().find(|reference| is_path(reference)) {
        Some(path) => {
            let context = format!("{path} is not an image: capture it first");
            Err(Error::new(ErrorKind::Invalid, context))
        }
        None => Ok(()),
    }
}
