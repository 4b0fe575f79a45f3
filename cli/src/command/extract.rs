//! `extract`: files and folders out of an image, into a folder or a tar archive.

use std::error::Error as _;
use std::io::{self, BufWriter, IsTerminal};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::thread;

use imgx_engine::base::{Error, ErrorKind, Observer, Result};
use imgx_engine::job::extract::{Failure, LeftOut, LeftOutPart, Property};
use imgx_engine::job::files::{FilePath, Found, LastLink, OpenVolume, resolve};
use imgx_engine::job::{Extract, ExtractOptions, ExtractReport};
use serde_json::{Map, Value, json};

use super::ls::{place, tell_notes};
use crate::args::{ExtractArguments, Names};
use crate::files::{Files, Losses};
use crate::listing::{printable, put_bytes};
use crate::output::{Console, count, size};
use crate::progress::Reporter;
use crate::session::{Outcome, Session, Stop};

/// A volume, and what is wanted of it.
struct Wanted {
    volume: OpenVolume,
    files: Vec<Found>,
}

/// Runs the command.
///
/// # Errors
/// `NotFound` for an unknown image, volume or path, before anything is written; `Io` when the
/// target takes no more; `Cancelled`.
pub fn run(arguments: &ExtractArguments, session: &Session) -> Result<Outcome> {
    let console = &session.console;
    if arguments.tar && (io::stdout().is_terminal() || console.is_json()) {
        let context = "--tar writes the archive to standard output: send that to a file or pipe";
        return Err(Error::new(ErrorKind::Invalid, context));
    }
    if !arguments.tar {
        session.prints_events();
    }
    let mut disk = Files::open_for_bulk(&arguments.image, &arguments.reading, "extract", session)?;
    let wanted = find_all(arguments, &mut disk)?;
    let stop = session.stop_on_signals()?;
    if arguments.tar {
        let observer = stop.clone();
        return disk.watched(&observer, || tar(&wanted, session, stop));
    }
    let threads = arguments.threads.and_then(NonZeroUsize::new);
    let options = ExtractOptions {
        overwrite: arguments.overwrite,
        privileged: arguments.privileged,
        shorten_names: arguments.names == Names::Shorten,
        threads: threads.or(thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN),
    };
    let mut total = Total::default();
    for one in &wanted {
        let reporter = Reporter::new(console, stop.clone());
        let (name, filesystem) = (&one.volume.name, one.volume.filesystem.as_ref());
        tell_notes(name, filesystem, console);
        total.losses.tell_doubts(name, filesystem, console);
        let report = disk
            .watched(&reporter, || plan(one, &reporter)?.run(&arguments.to, &options, &reporter))?;
        drop(reporter);
        total.losses.tell_doubts(name, filesystem, console);
        total.add(name, report, console);
        if total.stopped.is_some() {
            break;
        }
    }
    total.tell(arguments, console);
    match total.stopped {
        Some(error) => Err(error),
        None => Ok(total.losses.outcome()),
    }
}

/// Opens every volume once, and finds everything before anything is written.
fn find_all(arguments: &ExtractArguments, files: &mut Files) -> Result<Vec<Wanted>> {
    let mut wanted: Vec<Wanted> = Vec::new();
    for typed in &arguments.paths {
        let path = FilePath::parse(typed.as_bytes());
        let volume = files.disk.open(path.volume.as_deref())?;
        let at = match wanted.iter().position(|one| one.volume.name == volume.name) {
            Some(at) => at,
            None => {
                wanted.push(Wanted { volume, files: Vec::new() });
                wanted.len() - 1
            }
        };
        let one = &mut wanted[at];
        let found = resolve(one.volume.filesystem.as_ref(), &path.path, LastLink::Keep)?;
        one.files.push(found);
    }
    let mut names: Vec<&[u8]> =
        wanted.iter().flat_map(|one| one.files.iter().map(Found::name)).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => {
            let what = match pair[0].is_empty() {
                true => "two volumes' roots".to_owned(),
                false => format!("two things called '{}'", printable(pair[0])),
            };
            let context = format!("{what} would go into one place: extract them one by one");
            Err(Error::new(ErrorKind::Invalid, context))
        }
        None => Ok(wanted),
    }
}

fn plan<'a>(wanted: &'a Wanted, observer: &dyn Observer) -> Result<Extract<'a>> {
    let mut plan = Extract::new(&wanted.volume);
    wanted.files.iter().try_for_each(|found| plan.add(found, observer))?;
    Ok(plan)
}

fn tar(wanted: &[Wanted], session: &Session, stop: Stop) -> Result<Outcome> {
    let [one] = wanted else {
        let context = "one archive takes one volume: write one for each";
        return Err(Error::new(ErrorKind::Invalid, context));
    };
    let observer = stop.clone();
    let reporter = Reporter::new(&session.console, stop);
    let plan = plan(one, &reporter)?;
    let console = &session.console;
    let mut stdout = BufWriter::with_capacity(1 << 20, console.archive(&observer)?);
    let report = plan.write_tar(&mut stdout, &reporter)?;
    drop(reporter);
    let mut losses = Losses::default();
    losses.tell_doubts(&one.volume.name, one.volume.filesystem.as_ref(), console);
    told(&one.volume.name, &report.failures, &mut losses, console);
    for LeftOut { path, what } in &report.left_out {
        let what = match what {
            LeftOutPart::Socket => "socket left out: an archive holds none".to_owned(),
            LeftOutPart::Attribute(name) => {
                let name = printable(name);
                format!("attribute '{name}' left out: an archive holds no such name")
            }
        };
        losses.tell_not_kept(&place(&one.volume.name, path), &what, console);
    }
    if let number @ 1.. = report.left_out.len() as u64 {
        let what = "in all could not be kept in the archive";
        console.complain(&format!("warning: {} {what}", count(number, "thing")));
    }
    Ok(losses.outcome())
}

/// Tells what could not be extracted; returns it as JSON.
fn told(volume: &str, failures: &[Failure], losses: &mut Losses, console: &Console) -> Vec<Value> {
    let one = |failure: &Failure| {
        losses.tell(&place(volume, &failure.path), &failure.error, console);
        let cause = ("cause", "image".to_owned());
        row(volume, &failure.path, &[("error", failure.error.to_string()), cause])
    };
    failures.iter().map(one).collect()
}

/// A file in JSON, and what is to be said of it.
fn row(volume: &str, path: &[u8], more: &[(&str, String)]) -> Value {
    let mut object = Map::new();
    object.insert("volume".to_owned(), volume.into());
    put_bytes(&mut object, "path", path);
    for (key, text) in more {
        object.insert((*key).to_owned(), text.as_str().into());
    }
    object.into()
}

/// What was done on all volumes together.
#[derive(Default)]
struct Total {
    done: ExtractReport,
    losses: Losses,
    /// What was not extracted, what the target could not keep, and the names it was given, as
    /// JSON.
    failed: Vec<Value>,
    unattributed: Vec<Value>,
    not_kept: Vec<Value>,
    names: Vec<Value>,
    /// Something was there already.
    is_there: bool,
    stopped: Option<Error>,
}

impl Total {
    /// Adds what was done on a volume, and tells what was lost.
    fn add(&mut self, volume: &str, report: ExtractReport, console: &Console) {
        self.failed.extend(told(volume, &report.failures, &mut self.losses, console));
        let lost = told(volume, &report.attributes_lost, &mut self.losses, console);
        self.unattributed.extend(lost);
        for Failure { path, error } in &report.target_failures {
            let cause = ("cause", "target".to_owned());
            self.failed.push(row(volume, path, &[("error", error.to_string()), cause]));
            self.losses.tell_of_target(&place(volume, path), error, console);
            self.is_there |= error.kind() == ErrorKind::Conflict;
        }
        for one in &report.not_kept {
            let what = property(&one.property);
            let place = place(volume, &one.path);
            let why =
                one.error.source().map_or_else(|| one.error.to_string(), |error| error.to_string());
            console.complain(&format!("not kept: {place}: {what}: {why}"));
            let more = [("what", what), ("error", one.error.to_string())];
            self.not_kept.push(row(volume, &one.path, &more));
        }
        for one in &report.names {
            let mut object = Map::new();
            object.insert("volume".to_owned(), volume.into());
            put_bytes(&mut object, "path", &one.path);
            put_bytes(&mut object, "given", &one.given);
            self.names.push(object.into());
        }
        if report.has_losses_at_target() {
            self.losses.add_not_kept();
        }
        if let Some(file) = &report.names_file {
            console.say(&format!("names that were given are listed in {file}"));
        }
        let done = &mut self.done;
        done.files += report.files;
        done.folders += report.folders;
        done.folders_kept += report.folders_kept;
        done.written += report.written;
        done.devices_left_out += report.devices_left_out;
        done.rights_left_out += report.rights_left_out;
        done.attributes_left_out += report.attributes_left_out;
        done.refused += report.refused;
        done.beneath += report.beneath;
        self.stopped = report.stopped;
    }

    fn tell(&self, typed: &ExtractArguments, console: &Console) {
        let done = &self.done;
        console.json(&json!({
            "event": "extracted",
            "files": done.files,
            "folders": done.folders,
            "folders_kept": done.folders_kept,
            "bytes": done.written,
            "devices_left_out": done.devices_left_out,
            "rights_left_out": done.rights_left_out,
            "attributes_left_out": done.attributes_left_out,
            "refused": done.refused,
            "beneath": done.beneath,
            "attributes_lost": self.unattributed,
            "failed": self.failed,
            "not_kept": self.not_kept,
            "names": self.names,
        }));
        let (files, folders) = (count(done.files, "file"), count(done.folders, "folder"));
        let to = typed.to.display();
        console.say(&format!("extracted {files} and {folders} to {to}, {}", size(done.written)));
        let left_out = |number, noun| format!("{} left out", count(number, noun));
        let without = |number, what| format!("{} without {what}", count(number, "file"));
        let not_made = |number| format!("{} not extracted", count(number, "file"));
        let names = self.names.len() as u64;
        let notes = [
            (
                done.devices_left_out,
                left_out(done.devices_left_out, "device node"),
                "--privileged makes them",
            ),
            (
                done.rights_left_out,
                without(done.rights_left_out, "its set-id bits or capabilities"),
                "--privileged keeps them",
            ),
            (
                done.folders_kept,
                count(done.folders_kept, "folder"),
                "there before, with attributes that stay; --overwrite sets them",
            ),
            (
                done.attributes_left_out,
                without(done.attributes_left_out, "some attributes"),
                "the target does not keep them, see above",
            ),
            (
                done.refused,
                not_made(done.refused),
                "the target cannot have their names or kinds, see above",
            ),
            (
                done.beneath,
                not_made(done.beneath),
                "their folders, or the files that they are names of, are not there",
            ),
            (names, count(names, "other name"), "given, as the target cannot have theirs"),
        ];
        for (number, what, why) in notes {
            if number > 0 {
                console.say(&format!("{what} ({why})"));
            }
        }
        if !self.unattributed.is_empty() {
            let files = count(self.unattributed.len() as u64, "file");
            console.say(&format!("{files} without attributes that are damaged, see above"));
        }
        if !self.failed.is_empty() {
            let failed = count(self.failed.len() as u64, "failure");
            console.say(&format!("{failed}, see above"));
        }
        if self.is_there && !typed.overwrite {
            console.complain("hint: --overwrite replaces files that exist");
        }
        let is_name = |one: &Value| one.get("what").is_some_and(|what| what == "name");
        if self.not_kept.iter().any(is_name) {
            console.complain("hint: --names shorten gives other names, and lists them");
        }
    }
}

/// What the target could not keep, in a word.
fn property(property: &Property) -> String {
    match property {
        Property::Name => "name".to_owned(),
        Property::Kind => "kind".to_owned(),
        Property::Owner => "owner".to_owned(),
        Property::Mode => "mode".to_owned(),
        Property::Times => "times".to_owned(),
        Property::AccessList => "access control list".to_owned(),
        Property::Attribute(name) => format!("attribute {}", printable(name)),
    }
}
