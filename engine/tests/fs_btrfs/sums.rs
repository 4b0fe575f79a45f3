//! Checksums made anew, for images that are changed on purpose.

/// CRC32C, a bit at a time.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| TABLE[usize::from(*byte ^ sum.to_le_bytes()[0])] ^ sum >> 8)
}

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_u32;
    while byte < 256 {
        let mut sum = byte;
        let mut bit = 0;
        while bit < 8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
            bit += 1;
        }
        table[byte as usize] = sum;
        byte += 1;
    }
    table
};

/// Where there are superblocks and tree nodes of `nodesize` bytes: blocks with the filesystem's
/// identity whose checksums are right.
pub fn blocks(image: &[u8], nodesize: usize) -> Vec<(usize, usize)> {
    let fsid = &image[(64 << 10) + 0x20..(64 << 10) + 0x30];
    let mut found = Vec::new();
    for place in (0..image.len()).step_by(4096) {
        let is_ours = image[place + 0x20..place + 0x30] == *fsid;
        for length in [4096, nodesize] {
            let Some(block) = image.get(place..place + length).filter(|_| is_ours) else {
                continue;
            };
            if block[..4] == crc32c(&block[0x20..]).to_le_bytes() {
                found.push((place, length));
                break;
            }
        }
    }
    found
}

/// Makes the checksums of `blocks` right again.
pub fn fix(image: &mut [u8], blocks: &[(usize, usize)]) {
    for (place, length) in blocks {
        let block = &mut image[*place..*place + *length];
        let sum = crc32c(&block[0x20..]);
        block[..4].copy_from_slice(&sum.to_le_bytes());
    }
}
