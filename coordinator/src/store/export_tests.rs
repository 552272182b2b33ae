#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn rows_come_back_as_they_were_written_and_no_flipped_byte_goes_unseen(
        rows in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..20), prop::collection::vec(any::<u8>(), 0..60)), 0..12),
        at: prop::sample::Index,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("records");
        let mut writer = Writer::create(&path).unwrap();
        for (key, value) in &rows {
            writer.record(key, value).unwrap();
        }
        let written = writer.finish().unwrap();
        let mut seen = Vec::new();
        let got = read(&path, |row| {
            seen.push(row);
            Ok(())
        });
        prop_assert_eq!(got.unwrap(), written);
        prop_assert_eq!(seen, rows);

        let mut bytes = std::fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 0x80;
        std::fs::write(&path, bytes).unwrap();
        prop_assert!(read(&path, |_| Ok(())).is_err(), "byte {}", at);
    }
}
