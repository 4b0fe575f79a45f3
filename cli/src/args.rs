//! What can be typed: commands, options, and the words that they take.

use std::ffi::OsString;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use imgx_engine::base::{BlockSize, Granule};
use imgx_engine::block::IoMode;
use imgx_engine::fs::FileType;
use imgx_engine::job::{Effort, OnError, ParentChoice, TrackerChoice};

use crate::unlock::UnlockArguments;
use crate::zone::{Moment, Zone, parse_moment};

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed; the message says why
  2    wrong usage
  3    damage was found
  4    done, but some sectors could not be read
  7    done, but the target could not keep something (attributes, names, sockets)
  130  interrupted; nothing half-done is committed

IMAGE is an id's first 4 or more digits, `latest`, a NAME (its newest image), or NAME~2 (two before);
where files are read also a disk, a disk's file or an nbd:// URI, named by a path with a slash.
PATH is VOLUME:/path, with the volume as `show` prints it, LABEL=... or UUID=...; without a volume
the only filesystem there is.";

/// Images whole disks into a deduplicating repository, verifies them, and brings them back.
#[derive(Debug, Parser)]
#[command(name = "imgx", version, about, after_help = EXIT_CODES, max_term_width = 100)]
pub struct Arguments {
    /// Options that go with every command.
    #[command(flatten)]
    pub common: Common,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options that may stand before or after the command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Common {
    /// The repository's directory
    #[arg(long, global = true, value_name = "DIR", env = "IMGX_REPO", hide_env_values = true)]
    pub repo: Option<PathBuf>,
    /// Print JSON: queries one document, long jobs one event a line, the result last
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing but errors, damage and what was asked for
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more about what happens
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a repository
    Init(InitArguments),
    /// Capture a disk, or a file with a disk's bytes, as an image
    Capture(CaptureArguments),
    /// List the repository's images
    Images,
    /// Show what an image, a disk or a disk's file holds
    Show(ShowArguments),
    /// List files of an image, a disk or a disk's file
    Ls(LsArguments),
    /// Print a file's content
    Cat(CatArguments),
    /// Find files by name, type, size and time
    Find(FindArguments),
    /// Bring files and folders back, without mounting anything
    Extract(ExtractArguments),
    /// List the ranges of bytes in which two images differ, or the files
    Diff(DiffArguments),
    /// Draw what a disk's stretches hold, and with two images what changed
    Map(MapArguments),
    /// Read images back against their digests
    Verify(VerifyArguments),
    /// Make what is damaged again, from a disk that still has the content or from a copy
    Repair(RepairArguments),
    /// Write an image to a disk or file
    Restore(RestoreArguments),
    /// Have the kernel note what is written to disks, so that their next images cost what changed
    #[command(subcommand)]
    Track(TrackCommand),
    /// Measure this machine: each stage, and whole captures and restores
    Bench(BenchArguments),
    /// Tell the whole story on a small disk that it makes itself, checking every result
    Demo(DemoArguments),
}

/// `init`.
#[derive(Debug, Args)]
pub struct InitArguments {
    /// What is stored and compared as one: a power of two from 16K to 1M. Small ones suit disks
    /// with many small changes, large ones compress a little better
    #[arg(long, value_name = "SIZE", default_value = "128K", value_parser = parse_block_size)]
    pub block_size: BlockSize,
}

/// `capture`.
#[derive(Debug, Args)]
pub struct CaptureArguments {
    /// The block device, file or export to read: nbd://HOST[:PORT]/EXPORT,
    /// nbd+unix:///EXPORT?socket=PATH; a qcow2, VMDK or VHDX file is read through qemu-nbd
    pub source: PathBuf,
    /// Name of the disk's history [default: host and disk's serial number, or the file's
    /// or export's name]
    #[arg(long)]
    pub name: Option<String>,
    /// The image to compare with: `auto` is the newest of the same name
    #[arg(long, value_name = "auto|none|IMAGE", default_value = "auto", value_parser = parse_parent)]
    pub parent: ParentChoice,
    /// How to find what changed: `compare` reads everything, `ebpf` what its tracker names,
    /// `qemu` what the dirty bitmap of the export marks that is named after the parent
    #[arg(long, value_enum, default_value = "auto")]
    pub tracker: Tracker,
    /// How much to read of what a tracker says did not change, to audit it [default: 64M or a
    /// thousandth of the disk, the larger]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub audit: Option<u64>,
    /// How long the mounted filesystems of a disk in use may be frozen, in seconds, to have the
    /// image show one instant
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = parse_seconds)]
    pub freeze_timeout: Duration,
    /// Do not freeze anything: of a disk in use the image is not one instant then
    #[arg(long)]
    pub no_freeze: bool,
    /// A command that the shell runs before filesystems are frozen. If it fails there is no image.
    /// What it prints goes to standard error; interrupted, it is ended with all that it started
    #[arg(long, value_name = "COMMAND")]
    pub hook_pre: Option<String>,
    /// A command that the shell runs after they are thawed, once and whatever happened since the one
    /// before was started, even if imgx was killed. If it fails, the image is kept and imgx exits
    /// with 1, since what was locked may still be
    #[arg(long, value_name = "COMMAND")]
    pub hook_post: Option<String>,
    /// Read every block, also those that no filesystem uses
    #[arg(long)]
    pub all_blocks: bool,
    /// Leave out what nobody needs after a restart: the contents of Windows' paging and
    /// hibernation files, and of the swap files that a disk's own /etc/fstab names. The files stay,
    /// and read as zeros when the disk is restored
    #[arg(long, conflicts_with = "all_blocks")]
    pub skip_swap: bool,
    /// Take a file's bytes for the disk's, even if they look like a qcow2, VMDK or VHDX image
    #[arg(long)]
    pub raw: bool,
    /// How hard to compress: `auto` as hard as the disk leaves time for, or one of zstd's levels
    #[arg(long, value_name = "off|fast|1..19|auto", default_value = "auto")]
    #[arg(value_parser = Effort::from_str)]
    pub compress: Effort,
    /// What keeps reads in flight: `ring` is io_uring
    #[arg(long, value_enum, default_value = "auto")]
    pub io: Io,
    /// What to do about sectors that cannot be read
    #[arg(long, value_enum, default_value = "record")]
    pub on_error: Unreadable,
    /// Working threads [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    pub threads: Option<usize>,
    #[command(flatten)]
    pub unlock: UnlockArguments,
}

/// How disks are read for their files.
#[derive(Debug, Clone, Default, Args)]
pub struct ReadingArguments {
    /// A further disk, on which parts of its filesystems lie (btrfs on several devices, a volume
    /// group); may be given several times
    #[arg(long, value_name = "IMAGE", value_parser = image_word())]
    pub with: Vec<ImageWord>,
    /// The time zone in which times are meant that say none (FAT's, some of exFAT's, TIMEs that are
    /// typed), and in which they are shown: Europe/Berlin, +02:00, UTC [default: the machine's]
    #[arg(long, value_name = "ZONE", value_parser = Zone::parse, allow_hyphen_values = true)]
    pub tz: Option<Zone>,
    #[command(flatten)]
    pub unlock: UnlockArguments,
}

impl ReadingArguments {
    /// Further disks, and what is encrypted on any, where no times are shown.
    pub fn with(with: &[ImageWord], unlock: &UnlockArguments) -> Self {
        Self { with: with.to_vec(), tz: None, unlock: unlock.clone() }
    }

    /// The zone.
    pub fn zone(&self) -> Zone {
        self.tz.clone().unwrap_or_else(Zone::system)
    }
}

/// `show`.
#[derive(Debug, Args)]
pub struct ShowArguments {
    /// The image; or, with a slash in it, the path of a disk or a disk's file
    #[arg(value_parser = image_word())]
    pub image: ImageWord,
    /// A further disk, on which parts of its volumes lie; may be given several times
    #[arg(long, value_name = "IMAGE", value_parser = image_word())]
    pub with: Vec<ImageWord>,
    #[command(flatten)]
    pub unlock: UnlockArguments,
}

/// `diff`.
#[derive(Debug, Args)]
pub struct DiffArguments {
    /// The image before; with --files, a disk's path will do (with a slash in it)
    #[arg(value_name = "IMAGE", value_parser = image_word())]
    pub before: ImageWord,
    /// The image after
    #[arg(value_name = "IMAGE", value_parser = image_word())]
    pub after: ImageWord,
    /// List files instead: A added, D removed, M changed, R renamed. Of two images only metadata
    /// is read, and contents where they may differ
    #[arg(long)]
    pub files: bool,
    /// A further disk, on which parts of their filesystems lie; may be given several times. Of two
    /// states of one disk the first belongs to the image before, the other to the one after; what
    /// is given once belongs to both
    #[arg(long, value_name = "IMAGE", value_parser = image_word(), requires = "files")]
    pub with: Vec<ImageWord>,
    /// As `ls --tz`
    #[arg(long, value_name = "ZONE", value_parser = Zone::parse, allow_hyphen_values = true)]
    #[arg(requires = "files")]
    pub tz: Option<Zone>,
    #[command(flatten)]
    pub unlock: UnlockArguments,
}

/// `map`.
#[derive(Debug, Args)]
pub struct MapArguments {
    /// The image; if there are two, the one before
    #[arg(value_name = "IMAGE", value_parser = image_word())]
    pub first: ImageWord,
    /// The image after
    #[arg(value_name = "IMAGE", value_parser = image_word())]
    pub second: Option<ImageWord>,
    /// A further disk, on which parts of the image's volumes lie; may be given several times
    #[arg(long, value_name = "IMAGE", value_parser = image_word())]
    pub with: Vec<ImageWord>,
    /// Draw into this new file, as SVG
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Cells in a row, 8 to 256 [default: 64, with --svg 128]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(8..=256))]
    pub width: Option<u16>,
}

/// `verify`.
#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// The images [default: all, and every pack]
    #[arg(value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Check stored bytes' checksums only: nothing is decompressed
    #[arg(long)]
    pub quick: bool,
    /// List what the packs alone still hold, for when manifests or tree nodes are damaged
    #[arg(long, conflicts_with_all = ["images", "quick"])]
    pub packs: bool,
    /// Put back the manifests of images that are found in packs but not listed
    #[arg(long, requires = "packs")]
    pub restore_manifests: bool,
    /// Working threads [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    pub threads: Option<usize>,
}

/// `repair`.
#[derive(Debug, Args)]
pub struct RepairArguments {
    /// A disk, export or disk's file that still has the content, or a copy of the repository
    #[arg(long, value_name = "PATH|REPO")]
    pub from: PathBuf,
    /// Working threads [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    pub threads: Option<usize>,
}

/// `restore`.
#[derive(Debug, Args)]
pub struct RestoreArguments {
    /// The image
    pub image: String,
    /// The block device or file to write; a file that is missing is created, one that is longer is
    /// cut to the image's size
    pub target: PathBuf,
    /// Overwrite a target that holds data
    #[arg(long)]
    pub yes: bool,
    /// Read the target first and write only what differs
    #[arg(long)]
    pub only_changed: bool,
    /// Read everything back and compare
    #[arg(long)]
    pub verify: bool,
    /// On a larger disk, leave the GPT's backup where it was
    #[arg(long)]
    pub keep_table: bool,
    /// Reserve a file's space, zeros included
    #[arg(long, conflicts_with = "punch")]
    pub preallocate: bool,
    /// Keep a file's zeros as holes (the default)
    #[arg(long)]
    pub punch: bool,
    /// What keeps reads and writes in flight: `ring` is io_uring
    #[arg(long, value_enum, default_value = "auto")]
    pub io: Io,
    /// Working threads [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    pub threads: Option<usize>,
}

/// `ls`.
#[derive(Debug, Args)]
pub struct LsArguments {
    /// The image, or a disk's path (with a slash in it)
    #[arg(value_parser = image_word())]
    pub image: ImageWord,
    /// The folder or file [default: the root of the only filesystem]
    #[arg(value_name = "PATH")]
    pub path: Option<OsString>,
    #[command(flatten)]
    pub reading: ReadingArguments,
    /// Everything below it too
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Type and mode, links, owner, group, size, time, target
    #[arg(short, long)]
    pub long: bool,
}

/// `cat`.
#[derive(Debug, Args)]
pub struct CatArguments {
    /// The image, or a disk's path (with a slash in it)
    #[arg(value_parser = image_word())]
    pub image: ImageWord,
    /// The file; symbolic links are followed within its filesystem
    #[arg(value_name = "PATH")]
    pub path: OsString,
    #[command(flatten)]
    pub reading: ReadingArguments,
}

/// `find`.
#[derive(Debug, Args)]
pub struct FindArguments {
    /// The image, or a disk's path (with a slash in it)
    #[arg(value_parser = image_word())]
    pub image: ImageWord,
    /// A name with `*`, `?` and `[...]`; with a slash in it, a whole path, where `**` stands for
    /// any folders. VOLUME: before it searches that volume alone
    #[arg(value_name = "PATTERN")]
    pub pattern: OsString,
    #[command(flatten)]
    pub reading: ReadingArguments,
    /// Take upper and lower case as the same
    #[arg(short, long)]
    pub ignore_case: bool,
    /// Only these: f (file), d (folder), l (symbolic link), b, c (devices), p (pipe), s (socket)
    #[arg(long = "type", value_name = "LETTERS", value_parser = parse_types)]
    pub types: Option<FileTypes>,
    /// Only files of this size; +SIZE larger ones, -SIZE smaller ones
    #[arg(long, value_name = "[+-]SIZE", allow_hyphen_values = true)]
    #[arg(value_parser = parse_size_limit)]
    pub size: Option<SizeLimit>,
    /// Only what changed at or after this: 2026-11-24, 2026-11-24T12:30, or with a zone
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub newer: Option<Moment>,
    /// Only what changed before this
    #[arg(long, value_name = "TIME", value_parser = parse_moment)]
    pub older: Option<Moment>,
    /// As `ls --long`
    #[arg(short, long)]
    pub long: bool,
}

/// `extract`.
#[derive(Debug, Args)]
pub struct ExtractArguments {
    /// The image, or a disk's path (with a slash in it)
    #[arg(value_parser = image_word())]
    pub image: ImageWord,
    /// Files and folders, each put into DIR under its own name; a volume's root (p1:/) is spread
    /// out there
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<OsString>,
    #[command(flatten)]
    pub reading: ReadingArguments,
    /// Where to put them; it is made if need be
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub to: PathBuf,
    /// Replace files that exist, and give folders that exist the image's owners, modes and lists
    #[arg(long)]
    pub overwrite: bool,
    /// Make device nodes too, and keep set-user-id and set-group-id bits, capabilities and other
    /// attributes that lend rights
    #[arg(long)]
    pub privileged: bool,
    /// What to do about names that DIR cannot have (too long in UTF-8, characters that it refuses,
    /// the same as another in its eyes): `keep` leaves those files out and says so; `shorten`
    /// gives them others and lists them in DIR/imgx-names.tsv, the path and the path given
    #[arg(long, value_enum, value_name = "HOW", default_value = "keep")]
    pub names: Names,
    /// Write a tar archive of everything to standard output instead; GNU tar unpacks all that is in
    /// it with --acls --xattrs --xattrs-include='*' -Sxp. It holds no sockets: they are named
    #[arg(long, conflicts_with_all = ["to", "overwrite", "privileged", "names"])]
    pub tar: bool,
    /// Working threads [default: one for each processor]
    #[arg(long, value_name = "N", value_parser = parse_threads)]
    pub threads: Option<usize>,
}

/// What becomes of names that the target cannot have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Names {
    /// The files are left out.
    Keep,
    /// They get others.
    Shorten,
}

/// What `find` takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileTypes(pub Vec<FileType>);

/// Sizes that `find` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeLimit {
    Exactly(u64),
    Above(u64),
    Below(u64),
}

/// `track`.
#[derive(Debug, Subcommand)]
pub enum TrackCommand {
    /// Start tracking disks; it goes on with no process running, until stopped or the machine is
    /// shut down
    Start(TrackStartArguments),
    /// Stop tracking disks
    Stop(TrackStopArguments),
    /// Show how tracked disks are doing
    Status(TrackStatusArguments),
}

/// `track start`.
#[derive(Debug, Args)]
pub struct TrackStartArguments {
    /// The disks, whole
    #[arg(value_name = "DEVICE", required = true)]
    pub devices: Vec<PathBuf>,
    /// What is noted as one: a power of two from 4K to 1M; a bit of memory each [default: 16K,
    /// beyond a TiB 64K]
    #[arg(long, value_name = "SIZE", value_parser = parse_granule)]
    pub granule: Option<Granule>,
}

/// `track stop`.
#[derive(Debug, Args)]
pub struct TrackStopArguments {
    /// The disks
    #[arg(value_name = "DEVICE", required = true)]
    pub devices: Vec<PathBuf>,
}

/// `track status`.
#[derive(Debug, Args)]
pub struct TrackStatusArguments {
    /// The disks [default: all]
    #[arg(value_name = "DEVICE")]
    pub devices: Vec<PathBuf>,
}

/// `bench`.
#[derive(Debug, Args)]
pub struct BenchArguments {
    /// How much to read, write, capture and restore
    #[arg(long, default_value = "1G", value_parser = parse_size)]
    pub size: u64,
    /// A disk or file to read instead of generated data; it is only read
    #[arg(long, value_name = "PATH")]
    pub file: Option<PathBuf>,
    /// Where temporary files go, which should be a real disk [default: the temporary folder]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `demo`.
#[derive(Debug, Args)]
pub struct DemoArguments {
    /// Keep the folder with the disk, the repository and the restored disks
    #[arg(long)]
    pub keep: bool,
}

/// What yields the blocks that changed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Tracker {
    /// The best that can be trusted
    Auto,
    /// Read everything, store what differs
    Compare,
    /// Read what the tracker in the kernel names (see `track`)
    Ebpf,
    /// Read what QEMU's dirty bitmap marks
    Qemu,
}

impl From<Tracker> for TrackerChoice {
    fn from(choice: Tracker) -> Self {
        match choice {
            Tracker::Auto => Self::Auto,
            Tracker::Compare => Self::Compare,
            Tracker::Ebpf => Self::Ebpf,
            Tracker::Qemu => Self::Qemu,
        }
    }
}

/// What keeps reads and writes in flight.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Io {
    /// io_uring where it is to be had, else threads
    Auto,
    /// io_uring, or fail
    Ring,
    /// A thread for each operation in flight
    Threads,
}

impl From<Io> for IoMode {
    fn from(io: Io) -> Self {
        match io {
            Io::Auto => Self::Auto,
            Io::Ring => Self::Ring,
            Io::Threads => Self::Threads,
        }
    }
}

/// What to do about sectors that cannot be read.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Unreadable {
    /// Record them in the image, go on, and exit with 4
    Record,
    /// Give up at the first
    Abort,
}

impl From<Unreadable> for OnError {
    fn from(choice: Unreadable) -> Self {
        match choice {
            Unreadable::Record => Self::Record,
            Unreadable::Abort => Self::Abort,
        }
    }
}

/// What stands for an image: a reference, or the path of a disk, which need not be UTF-8.
#[derive(Debug, Clone)]
pub struct ImageWord {
    text: String,
    path: PathBuf,
}

impl ImageWord {
    /// The path, exactly as it was typed.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Deref for ImageWord {
    type Target = str;

    fn deref(&self) -> &str {
        &self.text
    }
}

fn image_word() -> impl TypedValueParser<Value = ImageWord> {
    OsStringValueParser::new().map(|typed| ImageWord {
        text: typed.to_string_lossy().into_owned(),
        path: PathBuf::from(typed),
    })
}

/// Whether what stands for an image is the path of a disk instead: it has a slash in it.
pub fn is_path(reference: &str) -> bool {
    reference.contains('/')
}

fn parse_parent(word: &str) -> Result<ParentChoice, String> {
    match word {
        "auto" => Ok(ParentChoice::Auto),
        "none" => Ok(ParentChoice::None),
        "" => Err("expected auto, none or an image".to_owned()),
        image => Ok(ParentChoice::Image(image.to_owned())),
    }
}

/// A time of 10 milliseconds to a minute.
fn parse_seconds(typed: &str) -> Result<Duration, String> {
    let seconds = typed.parse::<f64>().ok().filter(|seconds| (0.01..=60.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "expected 0.01 to 60 seconds".to_owned())
}

fn parse_threads(word: &str) -> Result<usize, String> {
    let number = word.parse().ok().filter(|number| (1..=1024).contains(number));
    number.ok_or_else(|| "expected a number from 1 to 1024".to_owned())
}

/// Reads sizes like `65536`, `64K`, `1M`, `2GiB`: powers of 1024.
fn parse_size(word: &str) -> Result<u64, String> {
    let digits = word.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match word[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err("expected a size like 64K, 1M or 2G".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "expected a size like 64K, 1M or 2G")?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}

fn parse_types(letters: &str) -> Result<FileTypes, String> {
    let parse = |letter| match letter {
        'f' => Ok(FileType::Regular),
        'd' => Ok(FileType::Directory),
        'l' => Ok(FileType::Symlink),
        'b' => Ok(FileType::BlockDevice),
        'c' => Ok(FileType::CharDevice),
        'p' => Ok(FileType::Fifo),
        's' => Ok(FileType::Socket),
        other => Err(format!("'{other}' is none of f, d, l, b, c, p, s")),
    };
    let letters = letters.chars().filter(|letter| *letter != ',');
    letters.map(parse).collect::<Result<_, _>>().map(FileTypes)
}

fn parse_size_limit(word: &str) -> Result<SizeLimit, String> {
    match (word.strip_prefix('+'), word.strip_prefix('-')) {
        (Some(above), _) => parse_size(above).map(SizeLimit::Above),
        (_, Some(below)) => parse_size(below).map(SizeLimit::Below),
        _ => parse_size(word).map(SizeLimit::Exactly),
    }
}

fn parse_granule(word: &str) -> Result<Granule, String> {
    Granule::new(parse_size(word)?).map_err(|error| error.to_string())
}

fn parse_block_size(word: &str) -> Result<BlockSize, String> {
    let bytes = parse_size(word)?;
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    BlockSize::new(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn sizes_take_binary_units() {
        let sizes = [("65536", 65536), ("64K", 65536), ("1m", 1 << 20), ("2GiB", 2 << 30)];
        for (word, bytes) in sizes {
            assert_eq!(parse_size(word), Ok(bytes), "{word}");
        }
        for wrong in ["", "K", "1X", "-1", "1.5M", "99999999999999999T"] {
            assert!(parse_size(wrong).is_err(), "{wrong} was accepted");
        }
    }

    #[test]
    fn a_size_may_be_a_limit() {
        let limits = [
            ("1K", SizeLimit::Exactly(1024)),
            ("+1M", SizeLimit::Above(1 << 20)),
            ("-7", SizeLimit::Below(7)),
        ];
        for (word, limit) in limits {
            assert_eq!(parse_size_limit(word), Ok(limit));
        }
        assert!(parse_size_limit("+").is_err() && parse_types("fx").is_err());
    }

    #[test]
    fn global_options_stand_before_and_after_the_command() {
        for line in ["imgx --repo r --json images", "imgx images --repo r --json"] {
            let parsed = Arguments::try_parse_from(line.split(' ')).expect("parses");
            assert_eq!((parsed.common.repo, parsed.common.json), (Some("r".into()), true));
        }
    }
}
