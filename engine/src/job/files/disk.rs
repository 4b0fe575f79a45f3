//! The filesystems of one disk.

use std::sync::Arc;

use crate::base::{Error, ErrorKind, Result};
use crate::block::{Cached, Disk, ReadAt};
use crate::fs::{self, Filesystem};
use crate::store::ImageReader;
use crate::volume::{self, DiskLayout, Volume, probe};

/// Bytes of a sector where nothing says more; a partition table knows better by itself.
const USUAL_SECTOR: u32 = 512;

/// What the whole disk is called.
const WHOLE: &str = "disk";

/// A disk whose files are to be read: an image, a device, a raw file.
pub struct FileDisk {
    disk: Arc<dyn ReadAt>,
    layout: DiskLayout,
    /// Whether the layout was read from the disk itself, by this version.
    is_probed: bool,
}

/// A volume's filesystem.
pub struct OpenVolume {
    /// The volume's name.
    pub name: String,
    /// What it holds.
    pub filesystem: Box<dyn Filesystem>,
    /// The volume's own bytes.
    pub bytes: Arc<dyn ReadAt>,
}

impl FileDisk {
    /// The disk that an image holds. What the image's manifest says of its volumes is believed
    /// as long as it leads to what is asked for, which saves reading it.
    ///
    /// # Errors
    /// `Corrupt` or `Io` when the image cannot be read.
    pub fn of_image(image: ImageReader) -> Result<Self> {
        let layout = layout_of(&image);
        let disk: Arc<dyn ReadAt> = Arc::new(Cached::new(Arc::new(image)));
        match layout {
            Some(layout) => Ok(Self { disk, layout, is_probed: false }),
            None => Self::probed(disk, USUAL_SECTOR),
        }
    }

    /// The disk that `image` holds, read by way of `disk`; its volumes are found anew.
    ///
    /// # Errors
    /// As [`of_image`](Self::of_image).
    pub(in crate::job) fn of_image_on(image: &ImageReader, disk: Arc<dyn ReadAt>) -> Result<Self> {
        let sector_size = layout_of(image).map_or(USUAL_SECTOR, |layout| layout.sector_size);
        Self::probed(disk, sector_size)
    }

    /// A device or raw file.
    ///
    /// # Errors
    /// `Io` when it cannot be read.
    pub fn of_disk(disk: Disk) -> Result<Self> {
        let sector_size = disk.info().logical_sector_size;
        Self::probed(Arc::new(Cached::new(Arc::new(disk))), sector_size)
    }

    fn probed(disk: Arc<dyn ReadAt>, sector_size: u32) -> Result<Self> {
        let layout = probe(disk.as_ref(), sector_size)?;
        Ok(Self { disk, layout, is_probed: true })
    }

    /// Its volumes.
    #[must_use]
    pub fn layout(&self) -> &DiskLayout {
        &self.layout
    }

    /// Opens the filesystem of a volume: by its name, its label (`LABEL=`) or its UUID (`UUID=`);
    /// without a selector the only filesystem there is.
    ///
    /// # Errors
    /// `NotFound` or `Invalid`, listing the volumes, when there is none or more than one;
    /// `Unsupported` when it holds nothing that can be read; the filesystem's own.
    pub fn open(&mut self, selector: Option<&str>) -> Result<OpenVolume> {
        let opened = self.try_open(selector);
        let may_differ =
            |error: &Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unsupported);
        if self.is_probed || !opened.as_ref().err().is_some_and(may_differ) {
            return opened;
        }
        // The manifest's layout may be an earlier version's, which knew less.
        self.layout = probe(self.disk.as_ref(), self.layout.sector_size)?;
        self.is_probed = true;
        self.try_open(selector)
    }

    fn try_open(&self, selector: Option<&str>) -> Result<OpenVolume> {
        match selector {
            Some(selector) => match self.layout.find(selector) {
                Ok(volume) => self.open_volume(volume),
                // A filesystem may lie on the whole disk beside a partition table.
                Err(missing) if selector == WHOLE => match fs::open(&self.disk) {
                    Ok(filesystem) => {
                        let bytes = Arc::clone(&self.disk);
                        Ok(OpenVolume { name: WHOLE.to_owned(), filesystem, bytes })
                    }
                    Err(error) if error.kind() == ErrorKind::Unsupported => Err(missing),
                    Err(error) => Err(error.within("the whole disk")),
                },
                Err(error) => Err(error),
            },
            None => self.open_only(),
        }
    }

    /// Every volume that holds what looks like a filesystem, opened, or why it cannot be.
    pub fn open_all(&self) -> impl Iterator<Item = (&Volume, Result<OpenVolume>)> {
        let volumes = self.layout.volumes.iter();
        let is_opened = |error: &Error| error.kind() != ErrorKind::Unsupported;
        volumes.map(|volume| (volume, self.open_volume(volume))).filter(move |(volume, opened)| {
            let held = volume.content.as_ref().map(|content| content.kind.as_str());
            opened.as_ref().map_or_else(is_opened, |_| true) || held.is_some_and(is_filesystem)
        })
    }

    /// The bytes of a volume.
    ///
    /// # Errors
    /// `Unsupported`, saying why, when they cannot be had.
    pub(in crate::job) fn bytes_of(&self, volume: &Volume) -> Result<Arc<dyn ReadAt>> {
        volume::open(&self.disk, volume)
    }

    /// Opens the filesystem of `volume`, which is one of the layout's.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(in crate::job) fn open_volume(&self, volume: &Volume) -> Result<OpenVolume> {
        let bytes = volume::open(&self.disk, volume)?;
        let filesystem = fs::open(&bytes).map_err(|error| match &volume.content {
            Some(content) if error.kind() == ErrorKind::Unsupported => {
                error.within(format!("volume {} holds {}", volume.name, content.kind))
            }
            _ => error.within(format!("volume {}", volume.name)),
        })?;
        Ok(OpenVolume { name: volume.name.clone(), filesystem, bytes })
    }

    fn open_only(&self) -> Result<OpenVolume> {
        let (mut only, mut failed) = (None, None);
        for (volume, opened) in self.open_all() {
            match opened {
                Ok(_) if only.is_some() => return Err(self.several()),
                Ok(opened) => only = Some(opened),
                Err(error) => failed = failed.or(Some((volume, error))),
            }
        }
        match (only, failed) {
            // Another one that cannot be read makes this one no less one of several.
            (Some(_), Some(_)) => Err(self.several()),
            (Some(only), None) => Ok(only),
            (None, Some((_, error))) => Err(error),
            (None, None) => {
                let context = format!("no filesystem that can be read is here: {}", self.listed());
                Err(Error::new(ErrorKind::NotFound, context))
            }
        }
    }

    fn several(&self) -> Error {
        let context = format!("say which volume is meant (VOLUME:/path): {}", self.listed());
        Error::new(ErrorKind::Invalid, context)
    }

    /// The volumes in words.
    fn listed(&self) -> String {
        let one = |volume: &Volume| match &volume.content {
            Some(content) => format!("{} ({})", volume.name, content.kind),
            None => volume.name.clone(),
        };
        let volumes: Vec<String> = self.layout.volumes.iter().map(one).collect();
        match volumes.is_empty() {
            true => "the disk has no volumes".to_owned(),
            false => format!("the volumes are {}", volumes.join(", ")),
        }
    }
}

/// What an image's manifest says of its volumes, if this version understands it.
fn layout_of(image: &ImageReader) -> Option<DiskLayout> {
    serde_json::from_value(image.manifest().layout.clone()).ok()
}

/// Whether content of this kind has files, as far as anybody could read them.
pub(in crate::job) fn is_filesystem(kind: &str) -> bool {
    const KINDS: [&str; 9] =
        ["ext", "fat", "vfat", "exfat", "ntfs", "xfs", "btrfs", "hfs", "iso9660"];
    KINDS.iter().any(|known| kind.starts_with(known))
}
