//! Sizes of disks: requests in bytes, and bytes as quantities.

use k8s_openapi::apimachinery::pkg::api::resource;
use microkube_manifest::quantity::Quantity;

use crate::fields::Amounts;
use crate::keys::STORAGE;

/// Disks have whole mebibytes.
const UNIT: u64 = 1 << 20;
const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// The size of the largest disk, 16 TiB: what ext4 has with block numbers of 32 bits and blocks of 4 KiB. mke2fs needs
/// memory in proportion to the size, even for an empty disk.
const MAX_BYTES: u64 = 16 << 40;

/// Why [`disk_bytes`] is `None`.
pub(crate) const OUT_OF_RANGE: &str = "the requested size is not between 1 byte and 16Ti";

/// The bytes of a disk for this amount. `None` if the amount is not positive, or larger than any disk.
pub(crate) fn disk_bytes(amount: Quantity) -> Option<u64> {
    let bytes = u64::try_from(amount.units()).ok().filter(|bytes| *bytes > 0)?;
    let rounded = bytes.checked_next_multiple_of(UNIT)?;
    (rounded <= MAX_BYTES).then_some(rounded)
}

/// The amount of storage of a disk: the requested one if the disk was made for it, otherwise all bytes.
pub(crate) fn capacity_of(requested: Option<&Amounts>, bytes: u64) -> resource::Quantity {
    let requested = requested.and_then(|amounts| amounts.get(STORAGE));
    let fits = |amount: &&resource::Quantity| amount.0.parse().ok().and_then(disk_bytes) == Some(bytes);
    requested
        .filter(fits)
        .cloned()
        .unwrap_or_else(|| resource::Quantity(in_binary_units(bytes)))
}

/// `1536Mi`
fn in_binary_units(bytes: u64) -> String {
    let mut number = bytes;
    let mut power = 0_usize;
    while number > 0 && number.is_multiple_of(1024) && power < SUFFIXES.len() - 1 {
        number /= 1024;
        power += 1;
    }
    format!("{number}{}", SUFFIXES.get(power).unwrap_or(&""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(text: &str) -> Option<u64> {
        disk_bytes(text.parse().unwrap())
    }

    fn requested(text: &str) -> Amounts {
        Amounts::from([(STORAGE.to_owned(), resource::Quantity(text.to_owned()))])
    }

    #[test]
    fn disks_have_whole_mebibytes() {
        for (text, expected) in [
            ("1Gi", Some(1 << 30)),
            ("1", Some(1 << 20)),
            ("1G", Some(954 << 20)),
            ("0.5Mi", Some(1 << 20)),
            ("16Ti", Some(16 << 40)),
            ("17592186044417", None),
            ("1Ei", None),
            ("0", None),
            ("-1Gi", None),
            ("9223372036854775807", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn a_capacity_is_written_as_requested() {
        assert_eq!(capacity_of(Some(&requested("1000M")), 954 << 20).0, "1000M");
        assert_eq!(capacity_of(Some(&requested("1Gi")), 2 << 30).0, "2Gi");
        assert_eq!(capacity_of(None, 1536 << 20).0, "1536Mi");
        assert_eq!(capacity_of(None, 0).0, "0");
    }

    proptest! {
        #[test]
        fn a_disk_is_large_enough_and_its_capacity_is_its_size(text in "[1-9][0-9]{0,17}(Mi|Gi|M|G|k|)") {
            let amount: Quantity = text.parse().unwrap();
            if let Some(bytes) = disk_bytes(amount) {
                prop_assert!(bytes as i64 >= amount.units());
                let shown: Quantity = capacity_of(None, bytes).0.parse().unwrap();
                prop_assert_eq!(disk_bytes(shown), Some(bytes));
                let kept = requested(&text);
                prop_assert_eq!(capacity_of(Some(&kept), bytes).0, text);
            }
        }
    }
}
