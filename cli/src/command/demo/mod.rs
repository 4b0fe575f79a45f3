//! `demo`: the whole story on a small disk that it makes itself, each result checked byte for
//! byte. The commands are run as processes, as a user would; what they should have done is known
//! from the disk's maker and from comparing files, never from the engine alone.

mod files;
mod stage;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use imgx_engine::base::{ByteRange, Error, ErrorContext, ErrorKind, Result, Silent};
use imgx_engine::store::Manifest;
use imgx_engine::store::Repository;
use imgx_fixtures::demo::{self, DemoDisk};
use imgx_fixtures::pattern::incompressible;

use self::stage::Stage;
use crate::args::DemoArguments;
use crate::output::size;
use crate::session::{Outcome, Session};

const REPOSITORY: &str = "repository";
const NAME: &str = "harbour";
/// The file that is edited between the images.
const LETTER: &str = "/home/alice/letter.txt";

/// Runs the command.
///
/// # Errors
/// `Io` when the story cannot be told; a check that fails is no error.
pub fn run(arguments: &DemoArguments, session: &Session) -> Result<Outcome> {
    let stop = session.stop_on_signals()?;
    let folder = tempfile::Builder::new().prefix("imgx-demo-").tempdir();
    let folder = folder.context(|| "make a temporary folder")?;
    let mut stage = Stage::new(session, stop, folder.path())?;
    let told = tell(&mut stage);
    let outcome = stage.finish();
    let is_kept = arguments.keep || !matches!((&told, outcome), (Ok(()), Outcome::Done));
    if is_kept {
        let kept = folder.keep();
        session.console.say(&format!("Kept: {}", kept.display()));
    }
    told.map(|()| outcome)
}

fn tell(stage: &mut Stage<'_>) -> Result<()> {
    let disk = make_disk(stage)?;
    first_capture(stage, &disk)?;
    second_capture(stage, &disk)?;
    files::read(stage, &disk)?;
    bring_back(stage)?;
    damage(stage)
}

fn make_disk(stage: &mut Stage<'_>) -> Result<DemoDisk> {
    stage.tell("A disk with a GPT, a boot partition and an ext4 filesystem is made.");
    stage.shell(&format!("cd {}", stage.folder().display()));
    stage.shell(&format!("export IMGX_REPO={REPOSITORY}"));
    let disk = demo::write_disk(&stage.path("disk.raw")).context(|| "write disk.raw")?;
    stage.shell("cp --sparse=always disk.raw monday.raw");
    copy(&stage.path("disk.raw"), &stage.path("monday.raw"))?;
    Ok(disk)
}

fn first_capture(stage: &mut Stage<'_>, disk: &DemoDisk) -> Result<()> {
    stage.tell("Its first image stores every block that is not zero, once.");
    stage.run("init", 0)?;
    stage.run(&format!("capture disk.raw --name {NAME}"), 0)?;
    let first = newest(stage)?;
    let cost = &first.cost;
    let parts = cost.zero + cost.unallocated + cost.duplicate + cost.fresh;
    stage.check("the image has the disk's size", first.size.0 == disk.size);
    stage.check("every byte is zero, unallocated, a duplicate or new", parts == disk.size);
    stage.check("compression made it smaller", first.cost.stored < first.cost.fresh);

    stage.tell("The image knows what the disk holds.");
    let shown = stage.run("show latest", 0)?;
    let expected = ["gpt", "ext4", demo::LABEL, demo::UUID];
    let is_told = expected.iter().all(|word| shown.output.contains(word));
    stage.check("it names the GPT, the ext4 filesystem, its label and UUID", is_told);
    Ok(())
}

fn second_capture(stage: &mut Stage<'_>, disk: &DemoDisk) -> Result<()> {
    let changed = edit(&stage.path("disk.raw"), disk)?;
    stage.tell(&format!(
        "A letter is edited and data is written behind the partitions: {} bytes change.",
        changed.iter().map(ByteRange::len).sum::<u64>()
    ));
    stage.run(&format!("capture disk.raw --name {NAME}"), 0)?;
    let second = newest(stage)?;
    let blocks: u64 = changed
        .iter()
        .map(|range| {
            let block = second.block_size.bytes();
            (range.end.div_ceil(block) - range.start / block) * block
        })
        .sum();
    let (fresh, stored) = (second.cost.fresh, second.cost.stored);
    stage.check(
        &format!("only the {} of changed blocks are new, {} stored", size(fresh), size(stored)),
        fresh > 0 && fresh <= blocks && stored <= blocks + (64 << 10),
    );
    stage.check("it knows its parent", second.parent.is_some());

    stage.tell("Which file that was is told by what changed, for its times are as they were.");
    let told = stage.run(&format!("diff --files {NAME}~1 {NAME}"), 0)?;
    let changes: Vec<&str> = told.output.lines().filter(|line| line.starts_with("M ")).collect();
    let is_letter = |line: &&str| line.contains(LETTER) && line.ends_with("(content)");
    stage.check(
        "it is the letter, and no other",
        changes.len() == 1 && changes.iter().all(is_letter),
    );
    stage.run("images", 0)?;
    Ok(())
}

fn bring_back(stage: &mut Stage<'_>) -> Result<()> {
    stage.tell("Everything is read back against its digests, then both disks are brought back.");
    stage.run("verify", 0)?;
    stage.run(&format!("restore {NAME}~1 first.raw --verify"), 0)?;
    stage.run(&format!("restore {NAME} second.raw"), 0)?;
    stage.shell("cmp first.raw monday.raw && cmp second.raw disk.raw");
    for (restored, original) in [("first.raw", "monday.raw"), ("second.raw", "disk.raw")] {
        let difference = difference(&stage.path(restored), &stage.path(original))?;
        let what = match difference {
            None => format!("{restored} is {original}, byte for byte"),
            Some(place) => format!("{restored} is {original} (byte {place} differs)"),
        };
        stage.check(&what, difference.is_none());
    }
    let differ = difference(&stage.path("first.raw"), &stage.path("second.raw"))?;
    stage.check("and the two are not the same", differ.is_some());

    stage.tell("A target that holds data is not overwritten unless that is wanted.");
    stage.run(&format!("restore {NAME}~1 second.raw"), 1)?;
    let differ = difference(&stage.path("second.raw"), &stage.path("disk.raw"))?;
    stage.check("the refused target is untouched", differ.is_none());
    stage.run(&format!("restore {NAME}~1 second.raw --yes --only-changed"), 0)?;
    let differ = difference(&stage.path("second.raw"), &stage.path("monday.raw"))?;
    stage.check("second.raw is monday.raw now", differ.is_none());
    Ok(())
}

fn damage(stage: &mut Stage<'_>) -> Result<()> {
    stage.tell("One bit of a copy of the repository is flipped.");
    stage.shell(&format!("cp -r {REPOSITORY} damaged"));
    copy_tree(&stage.path(REPOSITORY), &stage.path("damaged"))?;
    let pack = flip_a_bit(&stage.path("damaged/packs"))?;
    stage.check("a pack was damaged", pack.is_some());
    let verified = stage.run("--repo damaged verify", 3)?;
    let is_named =
        verified.output.contains("of the disk are lost") && verified.output.contains(NAME);
    stage.check("verify names the bytes of the disk that are lost", is_named);
    stage.tell("The repository itself is sound.");
    stage.run("verify", 0)?;
    Ok(())
}

fn newest(stage: &Stage<'_>) -> Result<Manifest> {
    let repository = Repository::open(&stage.path(REPOSITORY))?;
    Ok(repository.resolve("latest", &Silent)?.manifest)
}

/// Edits the letter where it lies on the disk, writes beyond the partitions, and returns what
/// changed.
fn edit(path: &Path, disk: &DemoDisk) -> Result<Vec<ByteRange>> {
    let context = || format!("edit {}", path.display());
    let bytes = fs::read(path).context(context)?;
    let lacks = || Error::new(ErrorKind::NotFound, "the letter is not on the disk");
    let letter = disk.files.iter().find(|file| file.path == LETTER).ok_or_else(lacks)?;
    let is_it = |sector: &[u8]| sector.starts_with(&letter.content);
    let sector = bytes.chunks(512).position(is_it).ok_or_else(lacks)?;
    let (edited, data) = (edited(&letter.content), incompressible(5, 4096));
    let places = [(sector as u64 * 512, edited.as_slice()), (48 << 20, data.as_slice())];
    let file = fs::File::options().write(true).open(path).context(context)?;
    for (place, content) in places {
        file.write_all_at(content, place).context(context)?;
    }
    Ok(places.map(|(place, content)| ByteRange::new(place, content.len() as u64)).to_vec())
}

/// The letter with another name in it.
fn edited(letter: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(letter).replacen("Bob", "Eve", 1).into_bytes()
}

/// The first byte at which two files differ.
fn difference(one: &Path, other: &Path) -> Result<Option<usize>> {
    let read = |path: &Path| fs::read(path).context(|| format!("read {}", path.display()));
    let (one, other) = (read(one)?, read(other)?);
    if one == other {
        return Ok(None);
    }
    let place = one.iter().zip(&other).position(|(a, b)| a != b);
    Ok(Some(place.unwrap_or(one.len().min(other.len()))))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).context(|| format!("copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let context = || format!("copy {} to {}", from.display(), to.display());
    fs::create_dir(to).context(context)?;
    for entry in fs::read_dir(from).context(context)? {
        let entry = entry.context(context)?;
        let target = to.join(entry.file_name());
        if entry.file_type().context(context)?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            copy(&entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Flips a bit in the middle of the largest pack, which is returned.
fn flip_a_bit(packs: &Path) -> Result<Option<PathBuf>> {
    let context = || format!("damage a pack in {}", packs.display());
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs::read_dir(packs).context(context)? {
        let entry = entry.context(context)?;
        found.push((entry.metadata().context(context)?.len(), entry.path()));
    }
    let Some((length, path)) = found.into_iter().max() else { return Ok(None) };
    let file = fs::File::options().read(true).write(true).open(&path).context(context)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, length / 2).context(context)?;
    file.write_all_at(&[byte[0] ^ 1], length / 2).context(context)?;
    Ok(Some(path))
}
