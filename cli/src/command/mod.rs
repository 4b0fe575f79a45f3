//! The commands, a file each: every one turns what was typed into the engine's plan, runs it, and
//! prints what came of it.

mod bench;
mod capture;
mod demo;
mod diff;
mod images;
mod init;
mod restore;
mod show;
mod verify;

use imgx_engine::base::Result;

use crate::args::Command;
use crate::session::{Outcome, Session};

/// Runs a command.
///
/// # Errors
/// The engine's, and those of the surroundings.
pub fn run(command: &Command, session: &Session) -> Result<Outcome> {
    match command {
        Command::Init(arguments) => init::run(arguments, session),
        Command::Capture(arguments) => capture::run(arguments, session),
        Command::Images => images::run(session),
        Command::Show(arguments) => show::run(arguments, session),
        Command::Diff(arguments) => diff::run(arguments, session),
        Command::Verify(arguments) => verify::run(arguments, session),
        Command::Restore(arguments) => restore::run(arguments, session),
        Command::Bench(arguments) => bench::run(arguments, session),
        Command::Demo(arguments) => demo::run(arguments, session),
    }
}
