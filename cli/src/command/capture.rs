//! `capture`: a disk becomes an image.

use std::time::Instant;

use imgx_engine::base::{ByteRange, Result};
use imgx_engine::job::{Capture, CaptureOptions, CaptureReport, LiveOptions, next_bitmap};
use imgx_engine::store::Manifest;
use imgx_engine::store::manifest::{Moment, MountedFilesystem, SkippedFile, UnreadableRange};
use serde_json::json;

use crate::args::CaptureArguments;
use crate::listing::printable;
use crate::output::{count, duration, exact_size, rate, ratio, short_id, size, speed, table};
use crate::progress::Reporter;
use crate::session::{Outcome, Session};

/// Unreadable ranges that are listed; the image records all.
const LISTED: usize = 20;

/// Runs the command.
///
/// # Errors
/// Those of the engine's capture.
pub fn run(arguments: &CaptureArguments, session: &Session) -> Result<Outcome> {
    let repository = session.repository()?;
    let stop = session.stop_on_signals()?;
    let options = CaptureOptions {
        name: arguments.name.clone(),
        parent: arguments.parent.clone(),
        effort: arguments.compress,
        io: arguments.io.into(),
        on_error: arguments.on_error.into(),
        tracker: arguments.tracker.into(),
        live: live(arguments),
        all_blocks: arguments.all_blocks,
        skip_swap: arguments.skip_swap,
        raw: arguments.raw,
        audit: arguments.audit,
        threads: arguments.threads,
        keys: arguments.unlock.keys()?,
    };
    let clock = Instant::now();
    let reporter = Reporter::new(&session.console, stop);
    let capture = Capture::plan(&repository, &arguments.source, options, &reporter)?;
    let parent = capture.parent().map(|parent| parent.manifest.created.clone());
    let report = capture.run(&reporter)?;
    drop(reporter);
    let seconds = clock.elapsed().as_secs_f64();
    print(&report, parent.as_deref(), seconds, session);
    let has_bad = report.manifest.cost.unreadable > 0;
    Ok(match (report.hook_failure, report.alarm) {
        (Some(failure), _) => {
            let id = report.id;
            let words = format!("error: {failure}; image {id} is kept and sound");
            session.console.complain(&words);
            Outcome::Failed
        }
        (None, Some(_)) => Outcome::Damaged,
        (None, None) if has_bad => Outcome::Unreadable,
        (None, None) => Outcome::Done,
    })
}

fn live(arguments: &CaptureArguments) -> Option<LiveOptions> {
    let (hook_pre, hook_post) = (arguments.hook_pre.clone(), arguments.hook_post.clone());
    let options = LiveOptions { limit: arguments.freeze_timeout, hook_pre, hook_post };
    (!arguments.no_freeze).then_some(options)
}

fn print(report: &CaptureReport, parent: Option<&str>, seconds: f64, session: &Session) {
    let (manifest, cost) = (&report.manifest, &report.manifest.cost);
    let ratio = ratio(cost.fresh, cost.stored);
    let rate = rate(cost.read, seconds);
    session.console.json(&json!({
        "event": "result",
        "command": "capture",
        "id": report.id,
        "name": manifest.name,
        "created": manifest.created,
        "size": manifest.size,
        "content": manifest.content,
        "parent": manifest.parent,
        "tracker": manifest.tracker,
        "tracker_doubt": manifest.tracker_doubt,
        "alarm": report.alarm,
        "hook_failure": report.hook_failure,
        "next_bitmap": next_bitmap(report.id, manifest),
        "cost": cost,
        "allocation": manifest.allocation,
        "live": manifest.live,
        "unreadable": manifest.unreadable,
        "ratio": ratio,
        "seconds": seconds,
        "rate": rate,
        "io_engine": report.io_engine,
    }));
    let console = &session.console;
    console.say(&format!("image {} of {}", report.id, manifest.name));
    let ratio = ratio.map(|ratio| format!(", ratio {ratio:.2}")).unwrap_or_default();
    let rate = rate.map(|rate| format!(", {} read", speed(rate))).unwrap_or_default();
    let mut rows = vec![
        row("size", exact_size(manifest.size.0)),
        row("read", size(cost.read)),
        row("unchanged", size(cost.unchanged)),
        row("unused", unused(manifest)),
        row("zero", size(cost.zero)),
        row("duplicate", size(cost.duplicate)),
        row("new", size(cost.fresh)),
        row("stored", format!("{}{ratio}", size(cost.stored))),
        row("time", format!("{}{rate}", duration(seconds))),
    ];
    rows.push(row("tracker", tracker(manifest)));
    rows.extend(manifest.live.as_ref().map(|moment| row("instant", instant(moment))));
    rows.extend(next_bitmap(report.id, manifest).map(|name| row("next bitmap", name)));
    if let (Some(parent), Some(created)) = (manifest.parent, parent) {
        let created = crate::output::local_time(created);
        rows.push(row("parent", format!("{} of {created}", short_id(parent))));
    }
    if console.is_verbose() {
        rows.push(row("io", report.io_engine.to_owned()));
        rows.push(row("tree", size(cost.nodes)));
    }
    table(&rows, &[]).iter().for_each(|line| console.say(line));
    for line in doubt_lines(manifest).iter().chain(&skipped_lines(manifest)) {
        console.say(line);
    }
    for line in unreadable_lines(&manifest.unreadable, cost.unreadable) {
        console.say(&line);
    }
}

/// What was left out because no filesystem uses it, and where.
fn unused(manifest: &Manifest) -> String {
    let volumes = manifest.allocation.iter().filter(|volume| volume.unallocated > 0);
    let volumes: Vec<&str> = volumes.map(|volume| volume.volume.as_str()).collect();
    match (manifest.cost.unallocated, volumes.as_slice()) {
        (0, _) => size(0),
        (bytes, volumes) => format!("{} of {}", size(bytes), volumes.join(", ")),
    }
}

/// Says of which volumes nothing was left out, and why.
pub fn doubt_lines(manifest: &Manifest) -> Vec<String> {
    let doubted = manifest.allocation.iter().filter_map(|volume| {
        let doubt = printable(volume.doubt.as_ref()?.as_bytes());
        Some(format!("{}: all of it was read: {doubt}", volume.volume))
    });
    doubted.collect()
}

/// Says which files' contents were left out, and of which files they were not though they should.
pub fn skipped_lines(manifest: &Manifest) -> Vec<String> {
    let line = |(volume, file): (&str, &SkippedFile)| {
        let bytes =
            (file.bytes > 0).then(|| format!("{} left out by --skip-swap", size(file.bytes)));
        let words: Vec<String> = bytes.into_iter().chain(file.note.clone()).collect();
        format!("{volume}:{}: {}", printable(file.path.as_bytes()), words.join("; "))
    };
    let volumes = manifest.allocation.iter();
    let files =
        volumes.flat_map(|volume| volume.skipped.iter().map(|file| (volume.volume.as_str(), file)));
    files.map(line).collect()
}

/// How the image of a disk in use came to be one instant, or of which volumes it did not.
pub fn instant(moment: &Moment) -> String {
    let is_frozen = |filesystem: &&MountedFilesystem| filesystem.not_frozen.is_none();
    let (frozen, others): (Vec<_>, Vec<_>) = moment.filesystems.iter().partition(is_frozen);
    let name = |filesystem: &&MountedFilesystem| {
        format!("{} ({})", printable(filesystem.mounted.as_bytes()), filesystem.kind)
    };
    let mut parts = Vec::new();
    if let Some(doubt) = &moment.doubt {
        let sound = moment.volumes.iter().filter(|volume| volume.doubt.is_none());
        let sound: Vec<&str> = sound.map(|volume| volume.volume.as_str()).collect();
        parts.push(match sound.as_slice() {
            [] => format!("no: {doubt}"),
            sound => format!("of {} only: {doubt}", sound.join(", ")),
        });
    }
    if !frozen.is_empty() {
        let names: Vec<String> = frozen.iter().map(name).collect();
        let rounds = count(moment.rounds.len() as u64, "round");
        let milliseconds = moment.frozen_milliseconds;
        parts.push(format!("{} frozen for {milliseconds} ms, {rounds}", names.join(", ")));
    }
    for filesystem in others {
        let why = filesystem.not_frozen.as_deref().unwrap_or_default();
        parts.push(format!("{} not frozen: {why}", name(&filesystem)));
    }
    if parts.is_empty() {
        parts.push(match moment.rounds.len() as u64 {
            0 => "yes: nothing was written meanwhile".to_owned(),
            rounds => format!("yes, {}", count(rounds, "round")),
        });
    }
    parts.join("; ")
}

/// How changes were found, and why not in a better way.
pub fn tracker(manifest: &Manifest) -> String {
    match &manifest.tracker_doubt {
        Some(doubt) => format!("{} ({doubt})", manifest.tracker),
        None => manifest.tracker.clone(),
    }
}

fn row(name: &str, value: String) -> Vec<String> {
    vec![format!("  {name}"), value]
}

/// Says what could not be read; nothing when all could.
pub fn unreadable_lines(ranges: &[UnreadableRange], bytes: u64) -> Vec<String> {
    if ranges.is_empty() {
        return Vec::new();
    }
    let mut lines =
        vec![format!("unreadable: {} in {}", size(bytes), count(ranges.len() as u64, "place"))];
    for range in ranges.iter().take(LISTED) {
        lines.push(format!("  {}", ByteRange::new(range.offset, range.length)));
    }
    if ranges.len() > LISTED {
        lines.push(format!("  and {} more (--json lists all)", ranges.len() - LISTED));
    }
    lines
}
