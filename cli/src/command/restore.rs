//! `restore`: an image becomes a disk again, as the plan that is printed first says.

use std::time::Instant;

use imgx_engine::base::Result;
use imgx_engine::job::{Restore, RestoreOptions, RestorePlan, RestoreReport, Space, known_content};
use imgx_engine::store::repository::Image;
use serde_json::json;

use crate::args::RestoreArguments;
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
    let repository = session.repository()?;
    let images = repository.images()?;
    let image = images.resolve(&arguments.image)?.clone();
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
    let reporter = Reporter::new(console, stop);
    let report = restore.run(&reporter)?;
    drop(reporter);
    print_report(&report, &arguments.target.display().to_string(), clock, console);
    Ok(match report {
        RestoreReport { damaged: 1.., .. } => Outcome::Damaged,
        RestoreReport { unreadable: 1.., .. } => Outcome::Unreadable,
        _ => Outcome::Done,
    })
}

fn print_plan(plan: &RestorePlan, image: &Image, typed: &RestoreArguments, console: &Console) {
    let manifest = &image.manifest;
    console.json(&json!({
        "event": "plan",
        "command": "restore",
        "image": image.id,
        "name": manifest.name,
        "created": manifest.created,
        "target": plan.target,
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
    }));
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
    if typed.verify {
        rows.push(row("verify", "by reading everything back".to_owned()));
    }
    console.say("plan");
    table(&rows, &[]).iter().for_each(|line| console.say(line));
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

fn print_report(report: &RestoreReport, target: &str, clock: Instant, console: &Console) {
    let seconds = clock.elapsed().as_secs_f64();
    let rate = rate(report.written, seconds);
    console.json(&json!({
        "event": "result",
        "command": "restore",
        "target": target,
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
    }));
    console.say(&format!("restored {target}"));
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
