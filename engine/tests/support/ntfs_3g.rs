//! Volumes in files, mounted by ntfs-3g.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use imgx_fixtures::tool;

/// Why none can be made and mounted here.
pub fn missing() -> Option<&'static str> {
    let has_tools = ["mkfs.ntfs", "ntfs-3g"].into_iter().all(tool::have);
    let is_here = has_tools && Path::new("/dev/fuse").exists() && tool::is_root();
    (!is_here).then_some("no ntfs-3g, FUSE or root")
}

/// A mounted volume, unmounted when dropped, after which its file is whole.
pub struct Mount(PathBuf);

impl Mount {
    /// Mounts the volume in the file `image` at `point` with `options`.
    pub fn new(image: &Path, point: &Path, options: &str) -> Self {
        fs::create_dir_all(point).expect("made");
        let paths = [image, point].map(|path| path.to_str().expect("plain"));
        tool::run("ntfs-3g", &["-o", options, paths[0], paths[1]]).expect("mounted");
        Self(point.to_owned())
    }

    pub fn root(&self) -> &Path {
        &self.0
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let point = self.0.to_str().unwrap_or_default();
        for _ in 0..200 {
            let gone = Command::new("umount").arg(point).output();
            if gone.is_ok_and(|output| output.status.success()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // The driver goes on writing for a moment after that.
        while is_served(point) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Whether a process still serves the mount of `point`.
fn is_served(point: &str) -> bool {
    let processes = fs::read_dir("/proc").expect("there are processes").flatten();
    let mut lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.any(|line| {
        let mut words = line.split(|byte| *byte == 0);
        words.next().is_some_and(|word| word.ends_with(b"ntfs-3g"))
            && words.any(|word| word == point.as_bytes())
    })
}
