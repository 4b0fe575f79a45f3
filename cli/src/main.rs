//! `imgx`: the command line of the disk-imaging engine.
//!
//! Three steps: [`args`] says what was typed, [`command`] does it and says how it ended, and here
//! the end becomes an exit code and, after a failure, one line of what to do. Only this crate
//! knows arguments, terminals and JSON.

mod args;
mod command;
mod files;
mod listing;
mod output;
mod progress;
mod session;
mod unlock;
mod zone;

use std::process::ExitCode;

use clap::Parser;
use imgx_engine::base::{Error, ErrorKind};
use serde_json::json;

use crate::args::{Arguments, Command};
use crate::session::{Outcome, Session};

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const DAMAGED: u8 = 3;
const UNREADABLE: u8 = 4;
const NOT_KEPT: u8 = 7;
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let session = Session::new(&arguments.common);
    let outcome = command::run(&arguments.command, &session);
    let code = match outcome {
        Ok(Outcome::Done) => 0,
        Ok(Outcome::Failed) => FAILED,
        Ok(Outcome::Damaged) => DAMAGED,
        Ok(Outcome::Unreadable) => UNREADABLE,
        Ok(Outcome::NotKept) => NOT_KEPT,
        Err(error) => {
            report(&error, &arguments.command, &session);
            exit_code(error.kind())
        }
    };
    match session.console.close() {
        Err(error) if code == 0 => {
            session.console.complain(&format!("error: standard output: {error}"));
            ExitCode::from(FAILED)
        }
        _ => ExitCode::from(code),
    }
}

fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Invalid => USAGE,
        ErrorKind::Corrupt => DAMAGED,
        ErrorKind::Cancelled => INTERRUPTED,
        ErrorKind::Io
        | ErrorKind::Unsupported
        | ErrorKind::NotFound
        | ErrorKind::Conflict
        | ErrorKind::Key
        | ErrorKind::Limit => FAILED,
    }
}

fn report(error: &Error, command: &Command, session: &Session) {
    let console = &session.console;
    if console.is_json() {
        let kind = format!("{:?}", error.kind()).to_lowercase();
        console.json(&json!({"event": "error", "kind": kind, "message": error.to_string()}));
    }
    console.complain(&format!("error: {error}"));
    let advice = match command {
        Command::Restore(_) if !session.is_target_touched() => untouched(error.kind()),
        _ => advice(error, command),
    };
    if let Some(advice) = advice {
        console.complain(&format!("hint: {advice}"));
    }
}

/// What to do about an error of `kind` that came before a restore began to write.
fn untouched(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::Corrupt => advice_on_damage(),
        ErrorKind::Invalid => Some("nothing was written; `imgx help restore` explains the command"),
        _ => Some("nothing was written"),
    }
}

fn advice_on_damage() -> Option<&'static str> {
    Some(
        "`imgx verify` says what is damaged, `--packs` what can be had; `imgx repair` mends it from \
         a disk that still has the content",
    )
}

/// What to do about an error, where the message alone does not say it.
fn advice(error: &Error, command: &Command) -> Option<&'static str> {
    let advice = match (error.kind(), command) {
        (ErrorKind::Cancelled, Command::Capture(_)) => {
            "no image was made; the next capture uses the blocks that were stored"
        }
        (ErrorKind::Cancelled, Command::Restore(_)) => {
            "the target is incomplete; restore again, with --yes --only-changed to go on"
        }
        (ErrorKind::Io, Command::Capture(_)) => {
            "no image was made, earlier ones are intact; free space or check the disk, and retry"
        }
        (ErrorKind::Io, Command::Restore(_)) => "the target is incomplete; check it and retry",
        (ErrorKind::Corrupt, Command::Verify(_)) => return None,
        (ErrorKind::Corrupt, _) => return advice_on_damage(),
        (ErrorKind::Unsupported, _) if error.is_newer() => "a newer imgx may know this",
        (ErrorKind::Conflict, Command::Restore(_)) => "nothing was written",
        (ErrorKind::Invalid, _) => "`imgx help` explains every command",
        _ => return None,
    };
    Some(advice)
}
