//! Tests: root extracts into another user's folder, and that user exchanges names in it at every
//! moment there is. Whatever comes of the extraction, nothing but what it made is touched.

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs::{self, File, OpenOptions};
    use std::num::NonZeroUsize;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{
        FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink,
    };
    use std::os::unix::net::UnixListener;
    use std::path::{Path, PathBuf};
    use std::sync::Mutex;

    use imgx_fixtures::tool;
    use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
    use nix::libc;
    use nix::sys::stat::{Mode, SFlag, makedev, mknod};
    use nix::unistd::mkfifo;

    use crate::base::Silent;
    use crate::block::Disk;
    use crate::job::extract::run::Run;
    use crate::job::extract::target::open_target;
    use crate::job::extract::tree::{Moment, Tree};
    use crate::job::extract::{Extract, ExtractOptions, ExtractReport};
    use crate::job::files::{FileDisk, LastLink, resolve};

    const MOMENTS: [Moment; 7] = [
        Moment::Making,
        Moment::Made,
        Moment::Settling,
        Moment::Settled,
        Moment::Linking,
        Moment::Opening,
        Moment::Giving,
    ];
    /// The user whose folder it is.
    const OTHER: u32 = 1000;
    const VICTIMS: [&str; 8] = [
        "victim-file",
        "victim-pipe",
        "victim-socket",
        "victim-device",
        "victim-link",
        "victim-folder",
        "planted-link",
        "planted-folder",
    ];

    fn nodes(folder: &Path, prefix: &str) {
        let path = |name: &str| folder.join(format!("{prefix}{name}"));
        let private = Mode::S_IRUSR | Mode::S_IWUSR;
        mkfifo(&path("pipe"), private).expect("made");
        drop(UnixListener::bind(path("socket")).expect("bound"));
        mknod(&path("device"), SFlag::S_IFCHR, private, makedev(1, 3)).expect("made");
        symlink("nowhere", path("link")).expect("linked");
        fs::set_permissions(path("socket"), PermissionsExt::from_mode(0o600)).expect("set");
    }

    /// A disk with every kind of file, most of them open to all.
    fn disk(folder: &Path) -> PathBuf {
        let content = folder.join("content");
        fs::create_dir_all(content.join("public/deep")).expect("made");
        fs::create_dir_all(content.join("private/deep")).expect("made");
        fs::create_dir_all(content.join("mail/new")).expect("made");
        nodes(&content, "");
        for name in ["pipe", "socket", "device", "public", "public/deep", "mail", "mail/new"] {
            fs::set_permissions(content.join(name), PermissionsExt::from_mode(0o777)).expect("set");
        }
        for name in ["private", "private/deep"] {
            fs::set_permissions(content.join(name), PermissionsExt::from_mode(0o700)).expect("set");
        }
        for name in ["open", "public/open", "mail/open", "mail/new/open"] {
            fs::write(content.join(name), "open").expect("written");
            fs::set_permissions(content.join(name), PermissionsExt::from_mode(0o666)).expect("set");
        }
        for name in ["private/secret", "private/deep/secret"] {
            fs::write(content.join(name), "secret").expect("written");
        }
        fs::hard_link(content.join("open"), content.join("public/again")).expect("linked");
        fs::hard_link(content.join("open"), content.join("zzz-again")).expect("linked");
        fs::hard_link(content.join("pipe"), content.join("zzz-pipe")).expect("linked");
        lchown(content.join("link"), Some(OTHER), Some(OTHER)).expect("given");
        chown(content.join("pipe"), Some(OTHER), Some(OTHER)).expect("given");
        xattr::set(content.join("open"), "user.open", b"yes").expect("set");
        xattr::set(content.join("link"), "trusted.open", b"yes").expect("set");
        let disk = folder.join("disk.img");
        let words = [content.to_str().expect("plain"), disk.to_str().expect("plain")];
        tool::run("mke2fs", &["-q", "-F", "-d", words[0], words[1], "16M"]).expect("mke2fs runs");
        disk
    }

    /// Another user's folder, with things of root's in it, and others behind links.
    struct Target {
        folder: PathBuf,
        outside: PathBuf,
        /// Root's things, held, and how they were.
        victims: Vec<(File, String)>,
    }

    fn held(path: &Path) -> File {
        let flags = libc::O_PATH | libc::O_NOFOLLOW;
        OpenOptions::new().read(true).custom_flags(flags).open(path).expect("opened")
    }

    /// All that an extraction could change of a file, but for its times, which renaming changes.
    fn facts(file: &File) -> String {
        use std::os::fd::AsRawFd;
        let found = file.metadata().expect("open");
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut attributes: Vec<_> = xattr::list_deref(&path).expect("listed").collect();
        attributes.sort();
        format!(
            "{:o} {}:{} {} bytes, {} names, {attributes:?}",
            found.mode(),
            found.uid(),
            found.gid(),
            found.len(),
            found.nlink(),
        )
    }

    impl Target {
        fn new(folder: &Path, number: usize) -> Self {
            let outside = folder.join(format!("outside-{number}"));
            let target = folder.join(format!("target-{number}"));
            fs::create_dir_all(outside.join("folder")).expect("made");
            fs::create_dir(&target).expect("made");
            fs::write(outside.join("victim"), "root's").expect("written");
            fs::set_permissions(outside.join("victim"), PermissionsExt::from_mode(0o600))
                .expect("set");
            fs::hard_link(outside.join("victim"), target.join("victim-file")).expect("linked");
            nodes(&target, "victim-");
            fs::create_dir(target.join("victim-folder")).expect("made");
            fs::set_permissions(target.join("victim-folder"), PermissionsExt::from_mode(0o700))
                .expect("set");
            symlink(outside.join("victim"), target.join("planted-link")).expect("linked");
            symlink(outside.join("folder"), target.join("planted-folder")).expect("linked");
            fs::create_dir(target.join("mail")).expect("made");
            for name in ["planted-link", "planted-folder", "mail", ""] {
                lchown(target.join(name), Some(OTHER), Some(OTHER)).expect("given");
            }
            let paths = VICTIMS.iter().map(|name| target.join(name));
            let paths = paths.chain([outside.join("victim"), outside.join("folder")]);
            let victims = paths.map(|path| held(&path)).map(|file| {
                let facts = facts(&file);
                (file, facts)
            });
            let victims = victims.collect();
            Self { folder: target, outside, victims }
        }

        /// Puts `victim` in the place of everything that is in the folder, one after the other, and
        /// those in each other's.
        fn exchange(&self, victim: &str) {
            let victim = self.folder.join(victim);
            let mut names: Vec<_> = fs::read_dir(&self.folder)
                .expect("listed")
                .map(|entry| entry.expect("listed").path())
                .filter(|path| !VICTIMS.iter().any(|victim| path.ends_with(victim)))
                .collect();
            names.sort();
            for path in names {
                let exchanged =
                    renameat2(AT_FDCWD, &path, AT_FDCWD, &victim, RenameFlags::RENAME_EXCHANGE);
                exchanged.expect("exchanged");
            }
        }

        fn assert_untouched(&self, what: &str) {
            for (file, before) in &self.victims {
                assert_eq!(facts(file), *before, "{what}");
            }
            let names = |folder: &Path| {
                let listed = fs::read_dir(folder).expect("listed");
                listed.map(|entry| entry.expect("listed").file_name()).collect::<Vec<_>>()
            };
            assert_eq!(names(&self.outside.join("folder")).len(), 0, "{what}");
            assert_eq!(names(&self.outside).len(), 2, "{what}");
            assert_eq!(fs::read(self.outside.join("victim")).expect("read"), b"root's", "{what}");
            self.assert_private(&self.folder, what);
        }

        /// Wherever the secrets are now, the folder that they are in is closed.
        fn assert_private(&self, folder: &Path, what: &str) {
            for entry in fs::read_dir(folder).expect("listed") {
                let path = entry.expect("listed").path();
                let found = fs::symlink_metadata(&path).expect("there");
                if found.is_dir() {
                    self.assert_private(&path, what);
                } else if found.is_file() && fs::read(&path).is_ok_and(|text| text == b"secret") {
                    let mode = fs::metadata(folder).expect("there").mode() & 0o7777;
                    assert_eq!(mode, 0o700, "{what}: {}", folder.display());
                }
                let is_odd = found.file_type().is_socket() && found.mode() & 0o7777 == 0o777;
                assert!(!is_odd || !path.ends_with("victim-socket"), "{what}");
            }
        }
    }

    /// Extracts everything while `witness` looks on.
    fn extract(
        disk: &Path,
        to: &Path,
        options: ExtractOptions,
        witness: crate::job::extract::tree::Witness,
    ) -> ExtractReport {
        let opened = Disk::open_to_browse(disk).expect("opened");
        let volume = FileDisk::of_disk(opened).expect("read").open(None).expect("a filesystem");
        let mut plan = Extract::new(&volume);
        let root = resolve(volume.filesystem.as_ref(), b"/", LastLink::Keep).expect("the root");
        plan.add(&root, &Silent).expect("planned");
        let mut tree =
            Tree::new(open_target(to).expect("opened"), to, options.overwrite).expect("opened");
        tree.witness = Some(witness);
        Run::new(&plan, tree, &options, &Silent).all().expect("it is not cancelled")
    }

    fn options(overwrite: bool) -> ExtractOptions {
        let threads = NonZeroUsize::MIN;
        ExtractOptions { overwrite, privileged: true, shorten_names: false, threads }
    }

    fn is_possible() -> bool {
        if !tool::is_root() || !tool::have("mke2fs") {
            println!("skipped: needs root and mke2fs");
            return false;
        }
        true
    }

    #[test]
    fn names_that_are_exchanged_at_any_moment_lead_to_nothing_else() {
        if !is_possible() {
            return;
        }
        let temporary = tempfile::tempdir().expect("made");
        fs::set_permissions(temporary.path(), PermissionsExt::from_mode(0o755)).expect("set");
        let disk = disk(temporary.path());
        let mut number = 0;
        let mut seen = BTreeMap::new();
        for victim in VICTIMS {
            for moment in MOMENTS {
                for overwrite in [false, true] {
                    number += 1;
                    let what = format!("{victim} at {moment:?}, overwrite: {overwrite}");
                    let target = std::sync::Arc::new(Target::new(temporary.path(), number));
                    let attacked = std::sync::Arc::new(Mutex::new(0_usize));
                    let (theirs, count) = (target.clone(), attacked.clone());
                    extract(
                        &disk,
                        &target.folder,
                        options(overwrite),
                        Box::new(move |now| {
                            if now == moment {
                                theirs.exchange(victim);
                                *count.lock().expect("whole") += 1;
                            }
                        }),
                    );
                    *seen.entry(format!("{moment:?}")).or_insert(0) +=
                        *attacked.lock().expect("whole");
                    target.assert_untouched(&what);
                }
            }
        }
        assert!(seen.len() == MOMENTS.len() && seen.values().all(|count| *count > 0), "{seen:?}");
    }

    #[test]
    fn nothing_is_wrong_with_what_is_made_while_nobody_disturbs() {
        if !is_possible() {
            return;
        }
        let temporary = tempfile::tempdir().expect("made");
        let disk = disk(temporary.path());
        let content = temporary.path().join("content");
        let target = Target::new(temporary.path(), 0);
        let report = extract(&disk, &target.folder, options(false), Box::new(|_| {}));
        assert!(report.failures.is_empty() && report.not_kept.is_empty(), "{report:?}");
        assert!(report.target_failures.is_empty() && report.stopped.is_none(), "{report:?}");
        target.assert_untouched("nobody disturbs");
        for name in [
            "open",
            "public",
            "public/deep",
            "public/open",
            "public/again",
            "private",
            "private/secret",
            "private/deep",
            "pipe",
            "zzz-pipe",
            "socket",
            "device",
            "link",
            "mail/open",
            "mail/new",
            "mail/new/open",
        ] {
            let [one, other] = [&content, &target.folder].map(|folder| held(&folder.join(name)));
            let [one, other] = [facts(&one), facts(&other)];
            assert_eq!(one, other, "{name}");
        }
        // It was there, and keeps its own.
        let mail = fs::metadata(target.folder.join("mail")).expect("there");
        assert_eq!((mail.mode() & 0o7777, mail.uid()), (0o755, OTHER));
        assert_eq!(report.folders_kept, 1);
        let again = extract(&disk, &target.folder, options(true), Box::new(|_| {}));
        assert!(again.target_failures.is_empty() && again.not_kept.is_empty(), "{again:?}");
        let mail = fs::metadata(target.folder.join("mail")).expect("there");
        assert_eq!((mail.mode() & 0o7777, mail.uid()), (0o777, 0));
        let listed = fs::read_dir(&target.folder).expect("listed");
        let left = listed.map(|entry| entry.expect("listed").file_name());
        let left: Vec<_> = left.filter(|name| name.as_bytes().starts_with(b".imgx")).collect();
        assert!(left.is_empty(), "{left:?} stayed");
    }

    #[test]
    fn folders_of_roots_that_stand_under_other_names_now_are_left_as_they_are() {
        if !is_possible() {
            return;
        }
        let temporary = tempfile::tempdir().expect("made");
        let disk = disk(temporary.path());
        let target = Target::new(temporary.path(), 0);
        extract(&disk, &target.folder, options(false), Box::new(|_| {}));
        // The same again, with nothing to be changed.
        let report = extract(&disk, &target.folder, options(true), Box::new(|_| {}));
        assert!(report.not_kept.is_empty() && report.target_failures.is_empty(), "{report:?}");
        let [public, private] = ["public", "private"].map(|name| target.folder.join(name));
        let exchange = RenameFlags::RENAME_EXCHANGE;
        renameat2(AT_FDCWD, &public, AT_FDCWD, &private, exchange).expect("exchanged");
        let report = extract(&disk, &target.folder, options(true), Box::new(|_| {}));
        target.assert_untouched("an earlier extraction's");
        let left = report.target_failures.iter();
        let left = left.map(|one| String::from_utf8_lossy(&one.path).into_owned());
        let left: std::collections::BTreeSet<_> = left.collect();
        for name in ["public", "private"] {
            assert!(left.contains(name), "{left:?}");
        }
        assert!(report.beneath > 0, "{report:?}");
    }

    #[test]
    fn lists_that_a_folder_lends_to_what_is_made_in_it_lend_nothing() {
        if !is_possible() || !tool::have("setfacl") {
            return;
        }
        let temporary = tempfile::tempdir().expect("made");
        let disk = disk(temporary.path());
        let target = Target::new(temporary.path(), 0);
        let folder = target.folder.to_str().expect("plain");
        let lent = tool::run("setfacl", &["-d", "-m", "u:1000:rwx", folder]);
        if let Err(error) = lent {
            println!("skipped: {error}");
            return;
        }
        let report = extract(&disk, &target.folder, options(false), Box::new(|_| {}));
        assert!(report.not_kept.is_empty() && report.target_failures.is_empty(), "{report:?}");
        for name in ["open", "private", "private/secret", "public/deep", "pipe", "socket", "device"]
        {
            let file = held(&target.folder.join(name));
            assert!(!facts(&file).contains("posix_acl"), "{name}: {}", facts(&file));
        }
    }

    #[test]
    fn without_openat2_folders_are_gone_through_one_by_one() {
        if !is_possible() {
            return;
        }
        let temporary = tempfile::tempdir().expect("made");
        let root = temporary.path().canonicalize().expect("there");
        fs::create_dir_all(root.join("a/b/c")).expect("made");
        symlink("b", root.join("a/link")).expect("linked");
        let mut tree =
            Tree::new(open_target(&root).expect("opened"), &root, false).expect("opened");
        for has_it in [true, false] {
            tree.set_openat2(has_it);
            let find = |names: &[&[u8]]| tree.open_below(&tree.root.handle, names);
            let found = File::from(find(&[b"a", b"b", b"c"]).expect("opened"));
            assert_eq!(found.metadata().expect("open").ino(), ino(&root.join("a/b/c")));
            assert!(find(&[b"a", b"link"]).is_err() && find(&[b"a", b"link", b"c"]).is_err());
            assert!(find(&[b"a", b"x"]).is_err());
        }
    }

    fn ino(path: &Path) -> u64 {
        fs::metadata(path).expect("there").ino()
    }
}
