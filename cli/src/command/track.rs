//! `track`: the kernel notes what is written to disks.

use std::path::PathBuf;

use imgx_engine::base::{Error, ErrorKind, Result};
use imgx_engine::track::{Sectors, Status, Tracking, Verdict};
use serde_json::{Value, json};

use crate::args::TrackCommand;
use crate::output::{count, size, table};
use crate::session::{Outcome, Session};

/// Runs the command.
///
/// # Errors
/// `Unsupported` for a disk that cannot be tracked, or saying what the kernel lacks; `NotFound`
/// for one that is not tracked and should be.
pub fn run(command: &TrackCommand, session: &Session) -> Result<Outcome> {
    let (tracking, console) = (Tracking::default(), &session.console);
    match command {
        TrackCommand::Start(arguments) => {
            for device in &arguments.devices {
                let is_new = tracking.start(device, arguments.granule)?;
                let how = if is_new { "is tracked from now on" } else { "was tracked already" };
                console.say(&format!("{} {how}", device.display()));
            }
            show(&named(&tracking.status()?, &arguments.devices)?, session);
        }
        TrackCommand::Stop(arguments) => {
            for device in &arguments.devices {
                let was = tracking.stop(device)?;
                let how = if was { "is not tracked any more" } else { "was not tracked" };
                console.say(&format!("{} {how}", device.display()));
            }
            console.document(&json!({"stopped": arguments.devices}));
        }
        TrackCommand::Status(arguments) => {
            let all = tracking.status()?;
            let named = match arguments.devices.as_slice() {
                [] => all.iter().collect(),
                devices => named(&all, devices)?,
            };
            show(&named, session);
        }
    }
    Ok(Outcome::Done)
}

/// The status of each of `devices`.
fn named<'a>(all: &'a [Status], devices: &[PathBuf]) -> Result<Vec<&'a Status>> {
    let of = |device: &PathBuf| {
        let real = device.canonicalize().unwrap_or_else(|_| device.clone());
        let name = real.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        all.iter().find(|status| status.name.is_some() && status.name == name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("{} is not tracked", device.display()))
        })
    };
    devices.iter().map(of).collect()
}

fn show(disks: &[&Status], session: &Session) {
    let console = &session.console;
    let documents: Vec<Value> = disks.iter().map(|status| document(status)).collect();
    console.document(&json!({"disks": documents}));
    if disks.is_empty() {
        console.say("no disk is tracked");
        return;
    }
    let mut rows = vec![
        ["disk", "size", "granule", "memory", "epochs", "written", "state"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(disks.iter().map(|status| {
        vec![
            status.name.clone().unwrap_or_else(|| format!("{} (gone)", status.device)),
            size(status.size.0),
            size(status.granule.bytes()),
            size(status.memory),
            status.open_epochs.to_string(),
            size((status.completed.written + status.completed.discarded).saturating_mul(512)),
            state(&status.verdict),
        ]
    }));
    table(&rows, &[]).iter().for_each(|line| console.line(line));
    console.say(&count(disks.len() as u64, "disk"));
}

fn state(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Exact => "exact: the kernel counts the same sectors".to_owned(),
        Verdict::Carried => "carried: some completions were missed, none unnoticed".to_owned(),
        Verdict::Tainted(reason) => format!("in doubt: {reason}"),
    }
}

fn document(status: &Status) -> Value {
    let (verdict, reason) = match &status.verdict {
        Verdict::Exact => ("exact", None),
        Verdict::Carried => ("carried", None),
        Verdict::Tainted(reason) => ("tainted", Some(reason)),
    };
    let bytes = |sectors: Sectors| json!({"written": sectors.written * 512, "discarded": sectors.discarded * 512});
    json!({
        "name": status.name,
        "device": status.device,
        "size": status.size,
        "granule": status.granule.bytes(),
        "memory": status.memory,
        "epoch": status.epoch,
        "open_epochs": status.open_epochs,
        "verdict": verdict,
        "reason": reason,
        "completed": bytes(status.completed),
        "kernel": bytes(status.kernel),
    })
}
