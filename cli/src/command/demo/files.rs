//! Files out of both images, compared with what the disk was made of.

use std::fs;
use std::path::Path;

use imgx_engine::base::Result;
use imgx_fixtures::demo::{DemoDisk, LINKS};

use super::stage::Stage;
use super::{LETTER, NAME, edited};

/// Lists, finds, prints and extracts files.
///
/// # Errors
/// `Io` when a command cannot be run; `Cancelled`.
pub fn read(stage: &mut Stage<'_>, disk: &DemoDisk) -> Result<()> {
    stage.tell("Files are read out of any image, without mounting it.");
    let listed = stage.run(&format!("ls -l {NAME} p2:/home/alice"), 0)?;
    let lines = listed.lines();
    let has = |end: &str| lines.iter().any(|line| line.ends_with(end));
    let is_whole = lines.len() == 3 && has("letter.txt") && has("photos");
    let is_whole = is_whole && has(&format!("latest -> {}", LINKS[0].1));
    stage.check("ls lists the letter, the photos and the link", is_whole);

    let found = stage.run(&format!("find {NAME} '*.raw' --size +90K"), 0)?;
    let mut paths = found.lines();
    paths.sort_unstable();
    let photos = disk.files.iter().filter(|file| file.path.ends_with(".raw"));
    let mut expected: Vec<String> = photos.map(|file| format!("p2:{}", file.path)).collect();
    expected.sort_unstable();
    stage.check("find finds both photos and nothing else", paths == expected);

    let letter = disk.files.iter().find(|file| file.path == LETTER);
    let letter = letter.map(|file| file.content.clone()).unwrap_or_default();
    let before = stage.run(&format!("cat {NAME}~1 p2:{LETTER}"), 0)?;
    stage.check("the letter is as it was before the edit", before.stdout == letter);
    let after = stage.run(&format!("cat {NAME} p2:{LETTER}"), 0)?;
    stage.check("and as it was edited", after.stdout == edited(&letter));

    stage.run(&format!("extract {NAME}~1 p2:/ --to files"), 0)?;
    stage.run(&format!("extract {NAME} p2:{LETTER} --to newest"), 0)?;
    let place = stage.path("files");
    let is_file = |path: &str, content: &[u8]| holds(&place.join(&path[1..]), content);
    let are_same = disk.files.iter().all(|file| is_file(file.path, &file.content));
    stage.check(&format!("all {} files are there, byte for byte", disk.files.len()), are_same);
    let is_link = |(path, target): &(&str, &str)| {
        fs::read_link(place.join(&path[1..])).is_ok_and(|found| found == Path::new(target))
    };
    stage.check("so is the symbolic link", LINKS.iter().all(is_link));
    let newest = holds(&stage.path("newest/letter.txt"), &edited(&letter));
    stage.check("and the edited letter, of the second image", newest);
    Ok(())
}

fn holds(path: &Path, content: &[u8]) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes == content)
}
