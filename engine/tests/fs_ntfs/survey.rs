//! A survey of the master file table shows all that reading every file and stream needs.

use std::fs::{self, File};
use std::sync::Arc;

use imgx_engine::base::ReadAt;

use crate::fixture::{Fixture, MIB, RawFile, contents};
use crate::surveyed::assert_shows_all;
use crate::truth::of_engine;
use crate::{layouts, need_ntfs_3g, operations, streams_by_chance};

#[test]
fn a_survey_shows_all_that_reading_every_file_needs() {
    need_ntfs_3g!();
    // Of smaller clusters, the cache would read neighbours as well.
    for cluster_size in [4096, 65_536] {
        let context = format!("clusters of {cluster_size}");
        let fixture = Fixture::make(160 * MIB, cluster_size);
        let truth = fixture.fill("", |root| {
            let folder = root.join("contents");
            fs::create_dir(&folder).expect("made");
            contents(&folder);
            operations::fill(root, 3);
            streams_by_chance::fill(root, 3);
            // ntfs-3g does not know what this one is.
            for (name, case) in layouts::CASES.iter().filter(|(name, _)| *name != "overlaid") {
                fs::create_dir(root.join(name)).expect("made");
                (case.make)(&root.join(name));
            }
        });
        let file = File::open(fixture.image()).expect("opened");
        let volume: Arc<dyn ReadAt> = Arc::new(RawFile(file));
        assert_shows_all(&context, &volume, |filesystem| {
            // What links say is another test's.
            assert!(of_engine(filesystem).keys().eq(truth.keys()), "{context}");
        });
    }
}
