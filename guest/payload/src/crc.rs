// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! CRC-32 as in zlib and `dmabufctl crc`.

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut rest: &mut [u32] = &mut table;
    let mut byte = 0;
    while let Some((entry, tail)) = rest.split_first_mut() {
        let mut crc = byte;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ 0xedb8_8320
            } else {
                crc >> 1
            };
            bit += 1;
        }
        *entry = crc;
        byte += 1;
        rest = tail;
    }
    table
};

/// The CRC of these bytes.
pub fn crc32(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(!0, |crc: u32, byte| {
        let [low, ..] = crc.to_le_bytes();
        let entry = TABLE
            .get(usize::from(low ^ byte))
            .copied()
            .unwrap_or_default();
        entry ^ crc >> 8
    })
}
