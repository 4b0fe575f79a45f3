//! A `qemu-nbd` of our own, which makes a raw disk of an image file of another format.
//!
//! It serves a socket in a folder that is ours alone, and ends with its last client: also when we
//! are killed.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::uri::{NbdServer, NbdUri};
use crate::base::fields::has;
use crate::base::{Error, ErrorContext, ErrorKind, Result, limits};

/// How long the server may take to listen.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long it may take to end after its last client.
const END_LIMIT: Duration = Duration::from_secs(2);
/// How often it is looked after.
const PAUSE: Duration = Duration::from_millis(5);
/// Bytes of what a program says that are kept.
const MAX_OUTPUT: u64 = 4096;

/// A format of image files that hold a disk's bytes in an order of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    /// QEMU's, versions 2 and 3.
    Qcow2,
    /// VMware's, with its description in the file.
    Vmdk,
    /// VMware's description of extents in other files.
    VmdkDescription,
    /// Hyper-V's.
    Vhdx,
    /// Virtual PC's, of a dynamic size.
    Vpc,
    /// VirtualBox's.
    Vdi,
}

impl ImageFormat {
    /// The format whose magic a file begins with, if it is one of them.
    #[must_use]
    pub fn of(file: &File) -> Option<Self> {
        let mut start = [0; 512];
        let length = file.read_at(&mut start, 0).ok()?;
        let start = &start[..length];
        // Each stands in its format's specification, under "header".
        match () {
            () if has(start, 0, b"QFI\xfb\0\0\0\x02") || has(start, 0, b"QFI\xfb\0\0\0\x03") => {
                Some(Self::Qcow2)
            }
            () if has(start, 0, b"KDMV") || has(start, 0, b"COWD") => Some(Self::Vmdk),
            () if has(start, 0, b"# Disk DescriptorFile") => Some(Self::VmdkDescription),
            () if has(start, 0, b"vhdxfile") => Some(Self::Vhdx),
            () if has(start, 0, b"conectix") => Some(Self::Vpc),
            () if has(start, 0x40, &0xbeda_107f_u32.to_le_bytes()) => Some(Self::Vdi),
            () => None,
        }
    }

    /// QEMU's name of it.
    fn driver(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Vmdk | Self::VmdkDescription => "vmdk",
            Self::Vhdx => "vhdx",
            Self::Vpc => "vpc",
            Self::Vdi => "vdi",
        }
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Qcow2 => "qcow2",
            Self::Vmdk | Self::VmdkDescription => "VMDK",
            Self::Vhdx => "VHDX",
            Self::Vpc => "VHD",
            Self::Vdi => "VDI",
        })
    }
}

/// A running server, ended when this is dropped.
#[derive(Debug)]
pub struct LocalServer {
    child: Child,
    folder: PathBuf,
}

impl LocalServer {
    /// Serves the disk in the image file `path`, and the last of its dirty bitmaps whose name
    /// begins with `bitmaps`.
    ///
    /// # Errors
    /// `Unsupported` where QEMU's tools are missing, or the file needs others; `Io` with what they
    /// say.
    pub fn start(path: &Path, format: ImageFormat, bitmaps: &str) -> Result<Self> {
        let shown = path.display();
        if format == ImageFormat::VmdkDescription {
            return Err(refers_to_others(path, format));
        }
        let options = image_options(path, format)?;
        let info = describe(path, format, &options)?;
        let bitmap = checked(path, format, &info)?
            .into_iter()
            .rfind(|name| name.starts_with(bitmaps) && name.len() <= limits::MAX_NBD_NAME / 2);
        let folder = private_folder()?;
        let log = File::create(folder.join("log")).context(|| format!("serve {shown}"));
        let mut command = Command::new("qemu-nbd");
        command.args(["--read-only", "--shared=8", "--socket"]).arg(folder.join("socket"));
        command.args(bitmap.iter().flat_map(|name| ["--bitmap", name.as_str()]));
        command.args(["--image-opts", &options]).stdin(Stdio::null()).stdout(Stdio::null());
        let child = log.and_then(|log| {
            command.stderr(log).spawn().map_err(|error| missing(path, format, error))
        });
        let child = child.inspect_err(|_| remove(&folder))?;
        let mut server = Self { child, folder };
        server.wait_for_socket().map_err(|error| error.within(shown))?;
        Ok(server)
    }

    /// Where it serves.
    pub fn uri(&self) -> NbdUri {
        NbdUri { server: NbdServer::Unix(self.folder.join("socket")), export: String::new() }
    }

    /// Removes its socket: nobody else is to connect.
    pub fn hide(&self) {
        remove(&self.folder);
    }

    /// Why it ended, if it did.
    pub fn failure(&mut self) -> Option<Error> {
        self.child.try_wait().ok().flatten()?;
        let mut said = String::new();
        let log = File::open(self.folder.join("log")).ok()?;
        log.take(MAX_OUTPUT).read_to_string(&mut said).ok()?;
        Some(Error::new(ErrorKind::Io, format!("qemu-nbd: {}", first_line(&said))))
    }

    fn wait_for_socket(&mut self) -> Result<()> {
        let clock = Instant::now();
        let socket = self.folder.join("socket");
        while !listens(&socket) {
            if let Some(failure) = self.failure() {
                return Err(failure);
            }
            if clock.elapsed() > START_LIMIT {
                return Err(Error::new(ErrorKind::Io, "qemu-nbd does not begin to serve"));
            }
            sleep(PAUSE);
        }
        Ok(())
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        let clock = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && clock.elapsed() < END_LIMIT {
            sleep(PAUSE);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        remove(&self.folder);
    }
}

/// Whether somebody listens at `socket`, which is there a moment before. It is not tried: the
/// server ends with its last connection.
fn listens(socket: &Path) -> bool {
    // proc_net(5): `__SO_ACCEPTCON` of the kernel's `linux/net.h` among the flags.
    const LISTENS: u32 = 1 << 16;
    let (Ok(table), Some(path)) = (fs::read("/proc/net/unix"), socket.to_str()) else {
        return socket.exists();
    };
    let flags = |line: &str| {
        let fields = line.strip_suffix(path)?;
        u32::from_str_radix(fields.split_ascii_whitespace().nth(3)?, 16).ok()
    };
    let table = String::from_utf8_lossy(&table);
    table.lines().filter_map(flags).any(|flags| flags & LISTENS != 0)
}

/// How QEMU is told of the file: by format and path, neither of which it is to guess.
fn image_options(path: &Path, format: ImageFormat) -> Result<String> {
    let path = path.to_str().ok_or_else(|| {
        let context = format!("{}: a path that is not UTF-8", path.display());
        Error::new(ErrorKind::Unsupported, context)
    })?;
    let (driver, path) = (format.driver(), path.replace(',', ",,"));
    Ok(format!("driver={driver},file.driver=file,file.filename={path}"))
}

fn describe(path: &Path, format: ImageFormat, options: &str) -> Result<Value> {
    let mut command = Command::new("qemu-img");
    command.args(["info", "--output=json", "--image-opts", options]).stdin(Stdio::null());
    let Output { status, stdout, stderr } =
        command.output().map_err(|error| missing(path, format, error))?;
    let info = serde_json::from_slice(&stdout).ok().filter(|_| status.success());
    info.ok_or_else(|| {
        let said = first_line(&String::from_utf8_lossy(&stderr));
        Error::new(ErrorKind::Io, format!("{}: {said}", path.display()))
    })
}

/// The sound dirty bitmaps of an image that needs no other file. What another file holds may be
/// somebody else's: whoever writes to a raw disk can make it look like an image that refers to any
/// file of this machine.
fn checked(path: &Path, format: ImageFormat, info: &Value) -> Result<Vec<String>> {
    let data = &info["format-specific"]["data"];
    let extents = data["extents"].as_array();
    let is_alone = |extent: &Value| extent["filename"].as_str().map(Path::new) == Some(path);
    let needs_others = !info["backing-filename"].is_null()
        || !data["data-file"].is_null()
        || extents.is_some_and(|extents| extents.len() != 1 || !extents.iter().all(is_alone));
    if needs_others {
        return Err(refers_to_others(path, format));
    }
    let bitmaps = data["bitmaps"].as_array().into_iter().flatten();
    let is_sound = |bitmap: &&Value| {
        let flags = bitmap["flags"].as_array();
        flags.is_some_and(|flags| !flags.iter().any(|flag| flag == "in-use"))
    };
    let names = bitmaps.filter(is_sound).filter_map(|bitmap| bitmap["name"].as_str());
    Ok(names.map(str::to_owned).collect())
}

fn refers_to_others(path: &Path, format: ImageFormat) -> Error {
    let context = format!(
        "{}: a {format} image that refers to other files; serve it by `qemu-nbd --read-only` and \
         name the source nbd://HOST/EXPORT",
        path.display()
    );
    Error::new(ErrorKind::Unsupported, context)
}

fn missing(path: &Path, format: ImageFormat, error: io::Error) -> Error {
    if error.kind() != io::ErrorKind::NotFound {
        return Error::io(format!("{}: run QEMU's tools", path.display()), error);
    }
    let context = format!(
        "{}: a {format} image, which needs qemu-nbd and qemu-img (package qemu-utils)",
        path.display()
    );
    Error::new(ErrorKind::Unsupported, context)
}

fn first_line(said: &str) -> String {
    let line = said.lines().next().unwrap_or("a tool of QEMU's failed without a word");
    line.chars().filter(|c| !c.is_control()).take(500).collect()
}

/// A new folder that nobody else can enter.
fn private_folder() -> Result<PathBuf> {
    let mut random = [0; 8];
    getrandom::fill(&mut random)
        .map_err(|error| Error::new(ErrorKind::Io, format!("random numbers: {error}")))?;
    let name = format!("imgx-nbd-{:016x}", u64::from_be_bytes(random));
    let folder = std::env::temp_dir().join(name);
    let made = DirBuilder::new().mode(0o700).create(&folder);
    made.context(|| format!("make {}", folder.display()))?;
    Ok(folder)
}

fn remove(folder: &Path) {
    for name in ["socket", "log"] {
        let _ = fs::remove_file(folder.join(name));
    }
    let _ = fs::remove_dir(folder);
}
