//! `extract`: files and folders out of an image, into a folder or a tar archive.

use std::io::{self, BufWriter, IsTerminal};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::thread;

use imgx_engine::base::{Error, ErrorKind, Observer, Result};
use imgx_engine::job::extract::{Failure, LeftOut, LeftOutPart};
use imgx_engine::job::files::{FilePath, Found, LastLink, OpenVolume, resolve};
use imgx_engine::job::{Extract, ExtractOptions, ExtractReport};
use serde_json::{Map, Value, json};

use super::ls::{place, tell_notes};
use crate::args::ExtractArguments;
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
        threads: threads.or(thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN),
    };
    let mut losses = Losses::default();
    let mut total = ExtractReport::default();
    let (mut failed, mut unattributed) = (Vec::new(), Vec::new());
    for one in &wanted {
        let reporter = Reporter::new(console, stop.clone());
        let (name, filesystem) = (&one.volume.name, one.volume.filesystem.as_ref());
        tell_notes(name, filesystem, console);
        losses.tell_doubts(name, filesystem, console);
        let report = disk
            .watched(&reporter, || plan(one, &reporter)?.run(&arguments.to, &options, &reporter))?;
        drop(reporter);
        losses.tell_doubts(name, filesystem, console);
        failed.extend(told(name, &report.failures, &mut losses, console));
        unattributed.extend(told(name, &report.attributes_lost, &mut losses, console));
        add(&mut total, &report);
    }
    tell(&total, &[failed, unattributed], arguments, console);
    Ok(losses.outcome())
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
        let mut object = Map::new();
        object.insert("volume".to_owned(), volume.into());
        put_bytes(&mut object, "path", &failure.path);
        object.insert("error".to_owned(), failure.error.to_string().into());
        object.into()
    };
    failures.iter().map(one).collect()
}

fn add(total: &mut ExtractReport, report: &ExtractReport) {
    total.files += report.files;
    total.folders += report.folders;
    total.written += report.written;
    total.devices_left_out += report.devices_left_out;
    total.rights_left_out += report.rights_left_out;
    total.attributes_left_out += report.attributes_left_out;
}

fn tell(
    total: &ExtractReport,
    [failed, unattributed]: &[Vec<Value>; 2],
    typed: &ExtractArguments,
    console: &Console,
) {
    console.json(&json!({
        "event": "extracted",
        "files": total.files,
        "folders": total.folders,
        "bytes": total.written,
        "devices_left_out": total.devices_left_out,
        "rights_left_out": total.rights_left_out,
        "attributes_left_out": total.attributes_left_out,
        "attributes_lost": unattributed,
        "failed": failed,
    }));
    let (files, folders) = (count(total.files, "file"), count(total.folders, "folder"));
    let to = typed.to.display();
    console.say(&format!("extracted {files} and {folders} to {to}, {}", size(total.written)));
    let left_out = [
        (total.devices_left_out, "device node left out", "--privileged makes them"),
        (total.rights_left_out, "file without its set-id bits or capabilities", "--privileged"),
        (total.attributes_left_out, "file without some attributes", "the target keeps no such"),
    ];
    for (number, what, why) in left_out {
        if number > 0 {
            console.say(&format!("{number} {what} ({why})"));
        }
    }
    if !unattributed.is_empty() {
        let files = count(unattributed.len() as u64, "file");
        console.say(&format!("{files} without attributes that are damaged, see above"));
    }
    if !failed.is_empty() {
        console.say(&format!("{} not extracted, see above", count(failed.len() as u64, "file")));
    }
}
