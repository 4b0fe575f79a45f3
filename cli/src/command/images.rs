//! `images`: lists what a repository holds.

use imgx_engine::base::Result;
use imgx_engine::store::repository::Image;
use serde_json::{Value, json};

use crate::output::{local_time, short_id, size, table};
use crate::session::{Outcome, Session};

/// Runs the command.
///
/// # Errors
/// `Io` when the repository cannot be listed.
pub fn run(session: &Session) -> Result<Outcome> {
    let console = &session.console;
    let found = session.repository()?.images()?;
    let list: Vec<Value> = found.images.iter().map(describe).collect();
    console.document(&Value::Array(list));
    if !found.images.is_empty() {
        let heading = ["ID", "NAME", "CREATED", "SIZE", "NEW", "STORED"].map(str::to_owned);
        let mut rows = vec![heading.to_vec()];
        rows.extend(found.images.iter().map(row));
        table(&rows, &[3, 4, 5]).iter().for_each(|line| console.line(line));
    }
    for (name, error) in &found.damaged {
        let error = error.to_string();
        let is_named = error.contains(&name.name);
        console.complain(&if is_named {
            format!("damage: {error}")
        } else {
            format!("damage: {name}: {error}")
        });
    }
    Ok(if found.damaged.is_empty() { Outcome::Done } else { Outcome::Damaged })
}

fn row(image: &Image) -> Vec<String> {
    let manifest = &image.manifest;
    let name = match manifest.cost.unreadable {
        0 => manifest.name.clone(),
        bytes => format!("{} ({} unreadable)", manifest.name, size(bytes)),
    };
    vec![
        short_id(image.id),
        name,
        local_time(&manifest.created),
        size(manifest.size.0),
        size(manifest.cost.fresh),
        size(manifest.cost.stored),
    ]
}

fn describe(image: &Image) -> Value {
    let manifest = &image.manifest;
    json!({
        "id": image.id,
        "name": manifest.name,
        "created": manifest.created,
        "ordinal": manifest.ordinal,
        "host": manifest.host,
        "size": manifest.size,
        "block_size": manifest.block_size,
        "content": manifest.content,
        "parent": manifest.parent,
        "tracker": manifest.tracker,
        "source": manifest.source,
        "unreadable": manifest.unreadable,
        "cost": manifest.cost,
    })
}
