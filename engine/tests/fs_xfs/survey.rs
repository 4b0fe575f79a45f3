//! A survey of the chunks of inodes shows all that reading every file needs; and it says nothing
//! where names lead past them.

use std::fs::File;
use std::sync::Arc;

use imgx_engine::base::{ErrorKind, ReadAt};

use crate::fill;
use crate::fixture::{Fixture, MIB, RawFile, open, xfs_db};
use crate::need_mounts;
use crate::surveyed::{assert_shows_all, shown};
use crate::truth::{assert_same, of_engine};

#[test]
fn a_survey_shows_all_that_reading_every_file_needs() {
    need_mounts!();
    for arguments in [
        [].as_slice(),
        &["-b", "size=1024", "-d", "agcount=3"],
        &["-i", "size=2048,nrext64=1", "-s", "size=4096"],
    ] {
        let context = arguments.join(" ");
        let fixture = Fixture::make(300 * MIB, arguments);
        let truth = fixture.fill(fill::everything);
        let file = File::open(fixture.image()).expect("opened");
        let volume: Arc<dyn ReadAt> = Arc::new(RawFile(file));
        assert_shows_all(&context, &volume, |filesystem| {
            assert_same(&context, &of_engine(filesystem), &truth);
        });
    }
}

/// The tree of inodes and all that counts them agree; but a file is in no chunk, or is free.
#[test]
fn a_name_that_leads_past_the_chunks_is_no_survey() {
    need_mounts!();
    let fixture = Fixture::make(64 * MIB, &["-d", "agcount=1"]);
    fixture.fill(|root| fill::names(&fill::folder(root, "names"), 300));
    let text = xfs_db(&fixture.image(), false, &["agi 0", "print count", "print freecount"]);
    let numbers: Vec<u64> =
        text.lines().filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    let [count, free] = numbers[..] else { panic!("{text}") };
    let recs = xfs_db(&fixture.image(), false, &["agi 0", "addr root", "print numrecs"]);
    let recs: u64 = recs.trim().rsplit(' ').next().and_then(|text| text.parse().ok()).expect("n");
    assert!(
        shown(open(&fixture.image()).expect("opened").as_ref()).is_ok_and(|some| some.is_some())
    );

    // A chunk of 64 that are all in use is taken out of the tree, from between others.
    let last = format!("print recs[{recs}].freecount");
    let last = xfs_db(&fixture.image(), false, &["agi 0", "addr root", &last]);
    let left: u64 = last.trim().rsplit(' ').next().and_then(|text| text.parse().ok()).expect("n");
    xfs_db(
        &fixture.image(),
        true,
        &[
            "agi 0",
            "addr root",
            &format!("write -d numrecs {}", recs - 1),
            "agi 0",
            &format!("write -d count {}", count - 64),
            &format!("write -d freecount {}", free - left),
        ],
    );
    let filesystem = open(&fixture.image()).expect("opened");
    let error = shown(filesystem.as_ref()).expect_err("a name leads to what is in no chunk");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    println!("{error}");
}
