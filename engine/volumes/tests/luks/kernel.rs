//! Volumes that the kernel wrote, by `tests/vm-luks`.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use imgx_volumes::volume::luks::{Header, Opened, Secret};
use sha2::{Digest, Sha256};

use crate::support::all;

/// Opens each volume `NAME.luks` of the folder `IMGX_LUKS_VOLUMES`, with `NAME.header` where the
/// header was kept apart, and compares all of it with `NAME.sha256`, which the kernel's own
/// reading gave.
#[test]
#[ignore = "run by tests/vm-luks, which makes the volumes"]
fn what_the_kernel_wrote_is_read() {
    let folder = PathBuf::from(env::var_os("IMGX_LUKS_VOLUMES").expect("tests/vm-luks sets it"));
    let mut read = 0;
    for entry in fs::read_dir(&folder).expect("listed").flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "luks") {
            continue;
        }
        let data = fs::read(&path).expect("read");
        let apart = fs::read(path.with_extension("header")).ok();
        let device = apart.as_ref().unwrap_or(&data).clone();
        let header = Header::read(&device).expect("sound").expect("there is one");
        let secret = Secret::new(fs::read(folder.join("passphrase")).expect("read"));
        let key = header.unlock(&device, &secret).expect("it opens");
        let volume = Opened::new(Arc::new(data), &header, &key).expect("it can be read");
        let bytes = all(&volume);
        let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = fs::read_to_string(path.with_extension("sha256")).expect("read");
        let what = format!("{}: {:?}", path.display(), header.encryption());
        assert_eq!(expected.split_whitespace().next(), Some(sum.as_str()), "{what}");
        println!("{what}, sectors of {}", header.sector_size());
        read += 1;
    }
    assert!(read > 0, "no volumes");
}
