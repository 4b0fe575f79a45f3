//! A survey of the inode tables shows all that reading every file needs.

use std::sync::Arc;

use imgx_engine::base::ReadAt;

use crate::fill;
use crate::fixture::{Fixture, MIB, RawFile};
use crate::need_mounts;
use crate::surveyed::assert_shows_all;
use crate::truth::{assert_same, of_engine};

#[test]
fn a_survey_shows_all_that_reading_every_file_needs() {
    need_mounts!();
    for arguments in [
        ["-t", "ext4"].as_slice(),
        &["-t", "ext4", "-b", "1024", "-I", "512", "-O", "inline_data"],
        &["-t", "ext2", "-b", "1024"],
    ] {
        let context = arguments.join(" ");
        let fixture = Fixture::make(180 * MIB, arguments);
        let truth = fixture.fill(fill::everything_small);
        let file = std::fs::File::open(fixture.image()).expect("opened");
        let volume: Arc<dyn ReadAt> = Arc::new(RawFile(file));
        assert_shows_all(&context, &volume, |filesystem| {
            assert_same(&context, &of_engine(filesystem), &truth);
        });
    }
}
