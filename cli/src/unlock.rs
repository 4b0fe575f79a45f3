//! Keys of encrypted volumes, from where the command line says that they are.

use std::fs::File;
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};

use clap::Args;
use imgx_engine::base::limits::MAX_KEY_FILE;
use imgx_engine::base::{Error, ErrorKind, ReadAt, Result};
use imgx_engine::block::Disk;
use imgx_engine::volume::luks::Secret;
use imgx_engine::volume::{Keys, Volume};

/// How encrypted volumes are opened.
#[derive(Debug, Clone, Default, Args)]
pub struct UnlockArguments {
    /// Open a volume that is encrypted with LUKS: by a key file (`-` is the standard input), or else
    /// by a passphrase that is asked for; may be given several times. What it holds is VOLUME/luks.
    /// Keys are used for this run and kept nowhere
    #[arg(long, value_name = "VOLUME[=FILE]")]
    pub unlock: Vec<String>,
    /// A command that the shell runs for each encrypted volume that --unlock does not name. What it
    /// prints, but for a line's end, is the passphrase, nothing leaves the volume closed; its
    /// environment has IMGX_VOLUME and IMGX_UUID
    #[arg(long, value_name = "COMMAND")]
    pub unlock_command: Option<String>,
    /// The file or device with the LUKS header of a volume that has none of its own
    #[arg(long, value_name = "VOLUME=FILE")]
    pub unlock_header: Vec<String>,
    /// The keys, once they were asked for.
    #[arg(skip)]
    known: OnceLock<Arc<Keys>>,
}

impl UnlockArguments {
    /// Whether anything is to be opened.
    pub fn is_empty(&self) -> bool {
        self.unlock.is_empty() && self.unlock_command.is_none() && self.unlock_header.is_empty()
    }

    /// The keys. Nobody is asked for one twice.
    ///
    /// # Errors
    /// `Io` when a file cannot be read; `Invalid` for one that is too large.
    pub fn keys(&self) -> Result<Arc<Keys>> {
        if let Some(known) = self.known.get() {
            return Ok(Arc::clone(known));
        }
        let mut keys = Keys::default();
        for word in &self.unlock_header {
            let (selector, file) = split(word);
            let Some(file) = file else {
                let context = format!("--unlock-header {word}: expected VOLUME=FILE");
                return Err(Error::new(ErrorKind::Invalid, context));
            };
            let header: Arc<dyn ReadAt> = Arc::new(Disk::open_to_browse(Path::new(file))?);
            keys = keys.with_header(selector.to_owned(), header);
        }
        for word in &self.unlock {
            let (selector, file) = split(word);
            let secret = match file {
                Some(file) => key_file(file)?,
                None => asked(selector)?,
            };
            keys = keys.with_secret(selector.to_owned(), secret);
        }
        if let Some(command) = self.unlock_command.clone() {
            keys = keys.asking(Box::new(move |volume| printed(&command, volume)));
        }
        Ok(Arc::clone(self.known.get_or_init(|| Arc::new(keys))))
    }
}

/// The volume and the file in `VOLUME=FILE`, where a volume may be meant by `UUID=` and the like.
fn split(word: &str) -> (&str, Option<&str>) {
    const KEYS: [&str; 4] = ["LABEL=", "UUID=", "PARTLABEL=", "PARTUUID="];
    let key = KEYS.iter().find(|key| word.starts_with(**key)).map_or(0, |key| key.len());
    match word[key..].find('=') {
        Some(at) => (&word[..key + at], Some(&word[key + at + 1..])),
        None => (word, None),
    }
}

/// All of a key file.
fn key_file(path: &str) -> Result<Secret> {
    let read = |from: &mut dyn Read| -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        from.take(MAX_KEY_FILE + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = match path {
        "-" => read(&mut io::stdin().lock()),
        path => File::open(path).and_then(|mut file| read(&mut file)),
    };
    let bytes = bytes.map_err(|error| Error::io(format!("read the key file {path}"), error))?;
    if bytes.len() as u64 > MAX_KEY_FILE {
        let context = format!("the key file {path} has more than {MAX_KEY_FILE} bytes");
        return Err(Error::new(ErrorKind::Invalid, context));
    }
    Ok(Secret::new(bytes))
}

/// A passphrase that somebody types, or, where nobody is there, the next line of the input.
fn asked(selector: &str) -> Result<Secret> {
    let failed = |error| Error::io(format!("ask for the passphrase of {selector}"), error);
    if io::stdin().is_terminal() {
        let prompt = format!("passphrase of {selector}: ");
        let typed = rpassword::prompt_password(prompt).map_err(failed)?;
        return Ok(Secret::new(typed.into_bytes()));
    }
    let mut line = Vec::new();
    io::stdin().lock().take(MAX_KEY_FILE).read_until(b'\n', &mut line).map_err(failed)?;
    if line.is_empty() {
        let context = format!("no passphrase of {selector} on the standard input");
        return Err(Error::new(ErrorKind::Invalid, context));
    }
    Ok(Secret::new(without_end(line)))
}

/// What `command` prints for `volume`.
fn printed(command: &str, volume: &Volume) -> Result<Option<Secret>> {
    let uuid = volume.content.as_ref().and_then(|content| content.uuid.as_deref());
    let failed = |why: &dyn std::fmt::Display| {
        let context = format!("--unlock-command for volume {}: {why}", volume.name);
        Error::new(ErrorKind::Io, context)
    };
    let mut run = Command::new("/bin/sh");
    run.arg("-c").arg(command).stdin(Stdio::inherit()).stderr(Stdio::inherit());
    run.env("IMGX_VOLUME", &volume.name).env("IMGX_UUID", uuid.unwrap_or_default());
    let output = run.output().map_err(|error| failed(&error))?;
    if !output.status.success() {
        return Err(failed(&output.status));
    }
    let bytes = without_end(output.stdout);
    Ok((!bytes.is_empty()).then(|| Secret::new(bytes)))
}

fn without_end(mut line: Vec<u8>) -> Vec<u8> {
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_volume_may_be_meant_by_what_it_holds() {
        for (word, volume, file) in [
            ("p3", "p3", None),
            ("p3=key", "p3", Some("key")),
            ("vg0/root=/a=b", "vg0/root", Some("/a=b")),
            ("UUID=1-2", "UUID=1-2", None),
            ("UUID=1-2=key", "UUID=1-2", Some("key")),
            ("PARTLABEL=a b=-", "PARTLABEL=a b", Some("-")),
        ] {
            assert_eq!(split(word), (volume, file), "{word}");
        }
    }
}
