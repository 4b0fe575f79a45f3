//! `diff --files`: which files differ between two disks.

use imgx_engine::base::{Error, Observer, Result};
use imgx_engine::job::DiffFiles;
use imgx_engine::job::diff_files::{
    Aspect, Aspects, Brief, ChangeKind, FileChange, Side, Told, VolumeState,
};
use imgx_engine::volume::Volume;
use serde_json::{Map, Value, json};

use super::ls::place;
use crate::args::{DiffArguments, ImageWord, ReadingArguments, is_path};
use crate::files::{Files, Losses};
use crate::listing::{printable, put_bytes, type_name};
use crate::output::{Console, count, harmless, size};
use crate::session::{Outcome, Session};
use crate::zone::Zone;

/// Bytes that are gathered before they are printed.
const GATHERED: usize = 64 * 1024;

/// Runs the command.
///
/// # Errors
/// `NotFound` for an unknown image or path; `Corrupt` or `Io` when one cannot be read at all.
pub fn run(arguments: &DiffArguments, session: &Session) -> Result<Outcome> {
    let stop = session.stop_on_signals()?;
    let references = [&arguments.before, &arguments.after];
    let mut printer = Printer {
        console: &session.console,
        losses: Losses::default(),
        gathered: String::new(),
        counts: Counts::default(),
    };
    let zone = arguments.tz.clone().unwrap_or_else(Zone::system);
    if references.into_iter().any(|reference| is_path(reference)) || !arguments.with.is_empty() {
        arguments.unlock.keys()?;
        let unlock = &arguments.unlock;
        let [before, after] = beside(&arguments.with, session)?.map(|with| ReadingArguments {
            with,
            tz: Some(zone.clone()),
            unlock: unlock.clone(),
        });
        let before = Files::open(references[0], &before, "diff", session)?;
        let after = Files::open(references[1], &after, "diff", session)?;
        let job = DiffFiles::of_disks([before.disk, after.disk]);
        printer.run(&job, &stop)?;
    } else {
        let repository = session.repository()?;
        let _lock = repository.lock_to_read("diff")?;
        let images = repository.images()?;
        let readers = [
            repository.reader(images.resolve(references[0], session)?),
            repository.reader(images.resolve(references[1], session)?),
        ];
        let job = DiffFiles::of_images(readers, &stop)?.unlocked(&arguments.unlock.keys()?)?;
        let job = job.with_options(&zone.read_options());
        printer.run(&job, &stop)?;
    }
    Ok(printer.losses.outcome())
}

/// Which further disks belong to the first side and which to the second: of two states of one
/// disk one to each, all else to both.
fn beside(with: &[ImageWord], session: &Session) -> Result<[Vec<ImageWord>; 2]> {
    let none = ReadingArguments::default();
    let opened = with.iter().map(|one| Files::open(one, &none, "diff", session));
    let opened = opened.collect::<Result<Vec<_>>>()?;
    let mut sides = [Vec::new(), Vec::new()];
    let mut paired = vec![false; opened.len()];
    for (at, one) in opened.iter().enumerate() {
        if paired[at] {
            continue;
        }
        sides[0].push(with[at].clone());
        let is_other =
            |later: &usize| !paired[*later] && one.disk.is_state_of(&opened[*later].disk);
        let other = (at + 1..opened.len()).find(is_other);
        let other = other.inspect(|other| paired[*other] = true).unwrap_or(at);
        sides[1].push(with[other].clone());
    }
    Ok(sides)
}

/// Files of one volume, by what happened to them.
#[derive(Debug, Default)]
struct Counts {
    added: u64,
    removed: u64,
    changed: u64,
    renamed: u64,
}

impl Counts {
    fn add(&mut self, kind: ChangeKind) {
        match kind {
            ChangeKind::Added => self.added += 1,
            ChangeKind::Removed => self.removed += 1,
            ChangeKind::Changed => self.changed += 1,
            ChangeKind::Renamed => self.renamed += 1,
        }
    }

    fn in_words(&self) -> String {
        let all = [
            (self.added, "added"),
            (self.removed, "removed"),
            (self.changed, "changed"),
            (self.renamed, "renamed"),
        ];
        let some: Vec<String> = all
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        if some.is_empty() { "no file differs".to_owned() } else { some.join(", ") }
    }
}

/// Prints what is told, many lines at a time.
struct Printer<'a> {
    console: &'a Console,
    losses: Losses,
    gathered: String,
    counts: Counts,
}

impl Printer<'_> {
    fn run(&mut self, job: &DiffFiles, observer: &dyn Observer) -> Result<()> {
        let ended = job.run(observer, &mut |told| {
            match told {
                Told::Change { volume, change } => self.change(volume, change),
                Told::Lost { volume, side, path, error } => self.lost(volume, side, path, &error),
                Told::Volume { volume, state } => self.volume(volume, &state),
            }
            self.console.check()
        });
        self.flush();
        ended
    }

    fn change(&mut self, volume: &str, change: &FileChange) {
        self.counts.add(change.kind);
        match self.console.is_json() {
            true => self.gathered.push_str(&json_change(volume, change).to_string()),
            false => self.gathered.push_str(&harmless(&line(volume, change))),
        }
        self.gathered.push('\n');
        if self.gathered.len() >= GATHERED {
            self.flush();
        }
    }

    fn lost(&mut self, volume: &str, side: Side, path: &[u8], error: &Error) {
        let disk = match side {
            Side::Before => "before",
            Side::After => "after",
        };
        let place = match path {
            b"" => volume.to_owned(),
            path => place(volume, path),
        };
        self.losses.tell(&format!("{disk}: {place}"), error, self.console);
    }

    fn volume(&mut self, volume: &Volume, state: &VolumeState) {
        let counts = std::mem::take(&mut self.counts);
        self.flush();
        if self.console.is_json() {
            self.console.json(&json_volume(volume, state, &counts));
            return;
        }
        let name = &volume.name;
        let held = volume.content.as_ref().map_or_else(
            || "holds no filesystem".to_owned(),
            |content| format!("holds {}", content.kind),
        );
        match state {
            VolumeState::Added => self.console.line(&format!("A  volume {name} ({held})")),
            VolumeState::Removed => self.console.line(&format!("D  volume {name} ({held})")),
            VolumeState::Same => self.console.say(&format!("{name}: no block differs")),
            VolumeState::Unread { changed: Some(0) } => {
                self.console.say(&format!("{name}: no block differs"));
            }
            VolumeState::Unread { changed } => {
                let changed = changed.map_or_else(|| "unknown".to_owned(), size);
                self.console.line(&format!("M  volume {name} ({held}): {changed} changed"));
            }
            VolumeState::Compared { sealed } => {
                self.console.say(&format!("{name}: {}", counts.in_words()));
                if *sealed > 0 {
                    let files = count(*sealed, "encrypted file");
                    self.console.complain(&format!(
                        "warning: {name}: the contents of {files} cannot be compared"
                    ));
                }
            }
        }
    }

    fn flush(&mut self) {
        self.console.lines(&self.gathered);
        self.gathered.clear();
    }
}

/// A change for people: a letter, the path, and in what it differs.
fn line(volume: &str, change: &FileChange) -> String {
    let path = place(volume, &change.path);
    let aspects = names(change.aspects).join(", ");
    let aspects = if aspects.is_empty() { aspects } else { format!(" ({aspects})") };
    match (change.kind, &change.old_path) {
        (ChangeKind::Added, _) => format!("A  {path}"),
        (ChangeKind::Removed, _) => format!("D  {path}"),
        (ChangeKind::Renamed, Some(old)) => {
            format!("R  {} -> {}{aspects}", place(volume, old), printable(&change.path))
        }
        _ => format!("M  {path}{aspects}"),
    }
}

fn json_change(volume: &str, change: &FileChange) -> Value {
    let mut object = Map::new();
    let kind = match change.kind {
        ChangeKind::Added => "added",
        ChangeKind::Removed => "removed",
        ChangeKind::Changed => "changed",
        ChangeKind::Renamed => "renamed",
    };
    object.insert("volume".to_owned(), volume.into());
    object.insert("change".to_owned(), kind.into());
    put_bytes(&mut object, "path", &change.path);
    if let Some(old) = &change.old_path {
        put_bytes(&mut object, "old_path", old);
    }
    object.insert("what".to_owned(), names(change.aspects).into());
    let brief = |brief: &Brief| json!({"type": type_name(brief.file_type), "size": brief.size});
    object.insert("before".to_owned(), change.before.as_ref().map(brief).into());
    object.insert("after".to_owned(), change.after.as_ref().map(brief).into());
    object.into()
}

fn json_volume(volume: &Volume, state: &VolumeState, counts: &Counts) -> Value {
    let mut object = json!({
        "volume": volume.name,
        "holds": volume.content.as_ref().map(|content| content.kind.name()),
    });
    object["state"] = match state {
        VolumeState::Added => "added",
        VolumeState::Removed => "removed",
        VolumeState::Same => "same",
        VolumeState::Compared { .. } => "compared",
        VolumeState::Unread { .. } => "unread",
    }
    .into();
    match state {
        VolumeState::Unread { changed } => object["changed_bytes"] = (*changed).into(),
        VolumeState::Compared { sealed } => {
            object["added"] = counts.added.into();
            object["removed"] = counts.removed.into();
            object["changed"] = counts.changed.into();
            object["renamed"] = counts.renamed.into();
            object["sealed"] = (*sealed).into();
        }
        _ => {}
    }
    object
}

fn names(aspects: Aspects) -> Vec<&'static str> {
    let name = |aspect| match aspect {
        Aspect::Type => "type",
        Aspect::Content => "content",
        Aspect::Target => "target",
        Aspect::Device => "device",
        Aspect::Mode => "mode",
        Aspect::Owner => "owner",
        Aspect::Modified => "mtime",
        Aspect::Xattrs => "xattrs",
        Aspect::Protection => "protection",
    };
    aspects.iter().map(name).collect()
}
