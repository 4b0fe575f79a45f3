//! `restore`: an image becomes a disk again, as the plan that is printed first says.

use std::path::Path;
use std::time::Instant;

use imgx_engine::base::{Error, ErrorKind, Result};
use imgx_engine::job::{Restore, RestoreOptions, RestorePlan, RestoreReport, Space, known_content};
use imgx_engine::store::repository::Image;
use imgx_engine::volume::Leftover;
use serde_json::json;

use crate::args::RestoreArguments;
use crate::listing::put_path;
use crate::output::{
    Console, duration, exact_size, local_time, rate, short_id, size, speed, table,
};
use crate::progress::Reporter;
use crate::session::{Outcome, Session};

/// Runs the command.
///
/// # Errors
/// Those of the engine's restore; damage in the repository is none.
pub fn run(arguments: &RestoreArguments, session: &Session) -> Result<Outcome> {
    let console = &session.console;
    session.prints_events();
    let repository = session.repository()?;
    let images = repository.images()?;
    let image = images.resolve(&arguments.image, session)?.clone();
    let known = match arguments.only_changed {
        // A tracker that cannot be asked only means that all is compared.
        true => known_content(&images, &arguments.target).unwrap_or_default(),
        false => None,
    };
    let options = RestoreOptions {
        overwrite: arguments.yes,
        only_changed: arguments.only_changed,
        known,
        verify: arguments.verify,
        keep_table: arguments.keep_table,
        space: if arguments.preallocate { Space::Preallocate } else { Space::Sparse },
        io: arguments.io.into(),
        threads: arguments.threads,
    };
    let restore = Restore::plan(&repository, &image, &arguments.target, options)?;
    print_plan(restore.describe(), &image, arguments, console);
    let stop = session.stop_on_signals()?;
    let clock = Instant::now();
    if let (Some(place), false) = (restore.describe().held, arguments.yes) {
        let target = arguments.target.display();
        let context = format!("{target} holds data (at byte {place}): add --yes to overwrite it");
        return Err(Error::new(ErrorKind::Conflict, context));
    }
    let writable = restore.begin()?;
    session.writes_to_target();
    let reporter = Reporter::new(console, stop);
    let report = writable.run(&reporter)?;
    drop(reporter);
    print_report(&report, &arguments.target, clock, console);
    Ok(match report {
        RestoreReport { damaged: 1.., .. } => Outcome::Damaged,
        RestoreReport { unreadable: 1.., .. } => Outcome::Unreadable,
        _ => Outcome::Done,
    })
}

fn print_plan(plan: &RestorePlan, image: &Image, typed: &RestoreArguments, console: &Console) {
    let manifest = &image.manifest;
    let mut event = json!({
        "event": "plan",
        "command": "restore",
        "image": image.id,
        "name": manifest.name,
        "created": manifest.created,
        "target_info": plan.info,
        "target_size": plan.target_size,
        "creates": plan.info.is_none(),
        "content": plan.content,
        "zero": plan.zero,
        "unreadable": plan.unreadable,
        "first_data": plan.held,
        "only_changed": typed.only_changed,
        "compared": plan.compared,
        "verify": typed.verify,
        "gpt_grows": plan.gpt_grows,
        "cut": plan.cut,
        "wiped": plan.wiped.iter().map(described).collect::<Vec<_>>(),
        "stays": plan.stays,
        "unseen": plan.unseen,
    });
    put_path(&mut event, "target", &plan.target);
    console.json(&event);
    let id = short_id(image.id);
    let created = local_time(&manifest.created);
    let mut rows = vec![
        row("image", format!("{id} of {}, {created}", manifest.name)),
        row("target", describe_target(plan)),
        row("write", format!("{} of content, {} of zeros", size(plan.content), size(plan.zero))),
    ];
    if typed.only_changed {
        let compared = size(plan.compared);
        rows.push(row("only", format!("what differs from the target, {compared} to compare")));
    }
    if plan.unreadable > 0 {
        let bytes = size(plan.unreadable);
        rows.push(row("lack", format!("{bytes} that could not be read at capture, as zeros")));
    }
    if let Some(place) = plan.held {
        rows.push(row("erase", format!("what the target holds (first at byte {place})")));
    }
    if let Some(grows) = plan.gpt_grows {
        let grows = size(grows.0);
        rows.push(row("move", format!("the GPT's backup to the disk's end, {grows} further on")));
    }
    if let Some(cut) = plan.cut {
        let bytes = exact_size(cut.0);
        rows.push(row("cut", format!("what the file has behind the image, {bytes}")));
    }
    for leftover in &plan.wiped {
        let place = leftover.range.start;
        rows.push(row("wipe", format!("{} behind the image, at byte {place}", leftover.what)));
    }
    if plan.stays.0 > 0 {
        let besides = if plan.wiped.is_empty() { "" } else { " besides" };
        let bytes = exact_size(plan.stays.0);
        rows.push(row("leave", format!("what is behind the image{besides}, {bytes}")));
    }
    for unseen in &plan.unseen {
        rows.push(row("unseen", format!("{unseen}: whether the target is used there")));
    }
    if typed.verify {
        rows.push(row("verify", "by reading everything back".to_owned()));
    }
    console.say("plan");
    table(&rows, &[]).iter().for_each(|line| console.say(line));
}

fn described(leftover: &Leftover) -> serde_json::Value {
    json!({"what": leftover.what, "start": leftover.range.start, "end": leftover.range.end})
}

fn describe_target(plan: &RestorePlan) -> String {
    let mut parts = vec![plan.target.display().to_string()];
    match &plan.info {
        None => parts.push("a new file".to_owned()),
        Some(info) => {
            parts.extend(info.model.clone());
            parts.extend(info.serial.as_ref().map(|serial| format!("serial {serial}")));
        }
    }
    parts.push(exact_size(plan.target_size.0));
    parts.join(", ")
}

fn print_report(report: &RestoreReport, target: &Path, clock: Instant, console: &Console) {
    let seconds = clock.elapsed().as_secs_f64();
    let rate = rate(report.written, seconds);
    let mut event = json!({
        "event": "result",
        "command": "restore",
        "written": report.written,
        "zeroed": report.zeroed,
        "unchanged": report.unchanged,
        "compared": report.compared,
        "trusted": report.trusted,
        "unreadable": report.unreadable,
        "damaged": report.damaged,
        "verified": report.verified,
        "seconds": seconds,
        "rate": rate,
    });
    put_path(&mut event, "target", target);
    console.json(&event);
    console.say(&format!("restored {}", target.display()));
    let rate = rate.map(|rate| format!(", {} written", speed(rate))).unwrap_or_default();
    let mut rows = vec![row("written", size(report.written)), row("zeroed", size(report.zeroed))];
    let others = [
        ("unchanged", report.unchanged),
        ("trusted", report.trusted),
        ("unreadable", report.unreadable),
        ("damaged", report.damaged),
        ("verified", report.verified),
    ];
    for (name, bytes) in others.into_iter().filter(|(_, bytes)| *bytes > 0) {
        rows.push(row(name, exact_size(bytes)));
    }
    rows.push(row("time", format!("{}{rate}", duration(seconds))));
    table(&rows, &[]).iter().for_each(|line| console.say(line));
}

fn row(name: &str, value: String) -> Vec<String> {
    vec![format!("  {name}"), value]
}
