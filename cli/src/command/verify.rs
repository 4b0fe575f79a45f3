//! `verify`: reads everything back; with `--packs`, says what can still be had.

use imgx_engine::base::{ByteCount, Result};
use imgx_engine::job::verify::SalvagedImage;
use imgx_engine::job::{Salvage, SalvageReport, VerifyOptions, VerifyReport, verify};
use imgx_engine::store::Repository;
use serde_json::{Map, Value, json};

use crate::args::VerifyArguments;
use crate::listing::put_bytes;
use crate::output::{Console, count, local_time, short_id, size, table};
use crate::progress::Reporter;
use crate::session::{Outcome, Session};

/// Runs the command.
///
/// # Errors
/// Those of the engine's verification; damage is none.
pub fn run(arguments: &VerifyArguments, session: &Session) -> Result<Outcome> {
    let repository = session.repository()?;
    let reporter = Reporter::new(&session.console, session.stop_on_signals()?);
    if arguments.packs {
        return look(&repository, arguments.restore_manifests, reporter, &session.console);
    }
    let options = VerifyOptions {
        images: arguments.images.clone(),
        quick: arguments.quick,
        threads: arguments.threads,
    };
    let report = verify(&repository, &options, &reporter)?;
    drop(reporter);
    print(&report, arguments.quick, &session.console);
    Ok(outcome(report.damage))
}

fn outcome(damage: u64) -> Outcome {
    if damage == 0 { Outcome::Done } else { Outcome::Damaged }
}

fn print(report: &VerifyReport, quick: bool, console: &Console) {
    let lost = report.lost.iter().map(|lost| {
        json!({
            "image": lost.image,
            "name": lost.name,
            "offset": lost.range.start,
            "length": lost.range.len(),
            "volumes": lost.volumes,
        })
    });
    let lost: Vec<Value> = lost.collect();
    let files = report.files.iter().map(|file| {
        let mut object = Map::new();
        object.insert("image".to_owned(), file.image.as_str().into());
        object.insert("volume".to_owned(), file.volume.as_str().into());
        put_bytes(&mut object, "path", &file.path);
        Value::Object(object)
    });
    let files: Vec<Value> = files.collect();
    console.json(&json!({
        "event": "result",
        "command": "verify",
        "images": report.images,
        "packs": report.packs,
        "read": report.read,
        "quick": quick,
        "damage": report.damage,
        "lost": lost,
        "files": files,
    }));
    let [images, packs] = [(report.images, "image"), (report.packs, "pack")]
        .map(|(number, noun)| count(number as u64, noun));
    console.say(&format!("verified {images}, {packs}, {} read", size(report.read)));
    if report.damage == 0 {
        let against = if quick { "checksums" } else { "digests" };
        console.say(&format!("no damage: everything matches its {against}"));
        return;
    }
    let bytes = ByteCount::total(report.lost.iter().map(|lost| lost.range.len())).0;
    let damage = count(report.damage, "damage");
    let places = count(report.lost.len() as u64, "place");
    let files = count(report.files.len() as u64, "file");
    console.say(&format!("{damage}; images lost {} in {places}, of {files}", size(bytes)));
}

fn look(
    repository: &Repository,
    restore: bool,
    reporter: Reporter<'_>,
    console: &Console,
) -> Result<Outcome> {
    let salvage = Salvage::new(repository, &reporter);
    let report = salvage.look()?;
    let restored = if restore { Some(salvage.restore_manifests(&report)?) } else { None };
    drop(reporter);
    print_salvage(&report, restored, console);
    // A pack that is gone altogether is no damage of a pack, but costs its images all the same.
    let unreadable = |image: &SalvagedImage| image.manifest.cost.unreadable;
    let is_lacking = report.images.iter().any(|image| image.lost > unreadable(image));
    Ok(if is_lacking { Outcome::Damaged } else { outcome(report.damage) })
}

fn print_salvage(report: &SalvageReport, restored: Option<usize>, console: &Console) {
    let [blocks, nodes, manifests] = report.members;
    let images: Vec<Value> = report
        .images
        .iter()
        .map(|image| {
            json!({
                "id": image.id,
                "name": image.manifest.name,
                "created": image.manifest.created,
                "size": image.manifest.size,
                "listed": image.is_listed,
                "reachable": image.reachable,
                "lost": image.lost,
            })
        })
        .collect();
    console.json(&json!({
        "event": "result",
        "command": "verify",
        "packs": report.packs,
        "blocks": blocks,
        "nodes": nodes,
        "manifests": manifests,
        "damage": report.damage,
        "images": images,
        "restored_manifests": restored,
    }));
    console.say(&format!(
        "{}: {}, {} and {} are sound",
        count(report.packs as u64, "pack"),
        count(blocks, "block"),
        count(nodes, "node"),
        count(manifests, "manifest"),
    ));
    if !report.images.is_empty() {
        let heading = ["ID", "NAME", "CREATED", "SIZE", "REACHABLE", "LOST", "LISTED"];
        let mut rows = vec![heading.map(str::to_owned).to_vec()];
        rows.extend(report.images.iter().map(salvage_row));
        table(&rows, &[3, 4, 5]).iter().for_each(|line| console.say(line));
    }
    let unlisted = report.images.iter().filter(|image| !image.is_listed).count();
    match restored {
        Some(restored) => console.say(&format!("put {} back", count(restored as u64, "manifest"))),
        None if unlisted > 0 => {
            console.say(&format!("{unlisted} can be listed again with --restore-manifests"));
        }
        None => {}
    }
    if report.damage > 0 {
        console.say(&count(report.damage, "damage"));
    }
}

fn salvage_row(image: &SalvagedImage) -> Vec<String> {
    let manifest = &image.manifest;
    vec![
        short_id(image.id),
        manifest.name.clone(),
        local_time(&manifest.created),
        size(manifest.size.0),
        size(image.reachable),
        size(image.lost),
        if image.is_listed { "yes" } else { "no" }.to_owned(),
    ]
}
