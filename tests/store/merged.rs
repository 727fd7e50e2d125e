//! Merged layers must look like the layers stacked by overlayfs.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};

use crate::attributes;
use crate::mounted::{Fixture, Mount};

/// Random numbers, the same in every run (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// A layer with only a few different names, so that layers hide, replace and reveal each other's files.
fn layer(numbers: &mut Numbers, file: &Path) {
    let mut tar = Builder::new(fs::File::create(file).unwrap());
    let mut add = |numbers: &mut Numbers, path: &str, kind: EntryType, data: &[u8], link: &str| {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(numbers.below(0o10000) as u32);
        header.set_uid(numbers.below(70_000));
        header.set_gid(numbers.below(10));
        header.set_mtime(numbers.below(1 << 31));
        header.set_size(data.len() as u64);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1 + numbers.below(100) as u32).unwrap();
            header.set_device_minor(numbers.below(1000) as u32).unwrap();
        }
        if !link.is_empty() {
            header.set_link_name(link).unwrap();
        } else if numbers.below(3) == 0 && matches!(kind, EntryType::Regular | EntryType::Directory) {
            tar.append_pax_extensions([
                ("SCHILY.xattr.user.a", b"value".as_slice()),
                ("SCHILY.xattr.trusted.b", b""),
            ])
            .unwrap();
        }
        header.set_path(path).unwrap();
        header.set_cksum();
        tar.append(&header, data).unwrap();
    };
    add(numbers, "./", EntryType::Directory, b"", "");
    let mut used = vec![String::new()];
    for directory in ["", "d/", "d/e/", "f/"] {
        if !directory.is_empty() {
            let present = used
                .iter()
                .any(|path| directory.starts_with(path.as_str()) && path.len() + 2 == directory.len());
            if !present || numbers.below(3) == 0 {
                continue;
            }
            add(numbers, directory, EntryType::Directory, b"", "");
            used.push(directory.to_owned());
            if numbers.below(5) == 0 {
                add(
                    numbers,
                    &format!("{directory}.wh..wh..opq"),
                    EntryType::Regular,
                    b"",
                    "",
                );
            }
        }
        let mut files: Vec<String> = Vec::new();
        for name in ["a", "b", "c", "g", "h"] {
            let path = format!("{directory}{name}");
            let size = [0, 1, 4000, 5000, 70_000][numbers.below(5) as usize];
            let seed = numbers.below(250) as u8;
            match numbers.below(16) {
                0..=3 => {
                    let data: Vec<u8> = (0..size).map(|byte| (byte as u8).wrapping_mul(seed)).collect();
                    add(numbers, &path, EntryType::Regular, &data, "");
                    files.push(path);
                }
                4 | 5 => add(numbers, &format!("{directory}.wh.{name}"), EntryType::Regular, b"", ""),
                6 => add(numbers, &path, EntryType::Symlink, b"", "somewhere/else"),
                7 => add(numbers, &path, EntryType::Directory, b"", ""),
                8 => add(numbers, &path, EntryType::Fifo, b"", ""),
                9 => add(numbers, &path, EntryType::Char, b"", ""),
                10 | 11 => {
                    if let Some(target) = files.last() {
                        add(numbers, &path, EntryType::Link, b"", target);
                    }
                }
                _ => {}
            }
        }
        // A whole directory that an upper layer hides and another recreates.
        if directory.is_empty() && numbers.below(6) == 0 {
            add(numbers, ".wh.f", EntryType::Regular, b"", "");
        }
    }
    tar.into_inner().unwrap().flush().unwrap();
}

#[test]
fn merged_layers_equal_the_same_layers_stacked_by_overlayfs() {
    let mut numbers = Numbers(1);
    for round in 0..30 {
        let fixture = Fixture::new();
        let count = 2 + numbers.below(9);
        let archives: Vec<PathBuf> = (0..count)
            .map(|number| fixture.path(&format!("{number}.tar")))
            .collect();
        for archive in &archives {
            layer(&mut numbers, archive);
        }
        let paths: Vec<&Path> = archives.iter().map(PathBuf::as_path).collect();
        for store in fixture.stores() {
            let image = fixture.load_into(store, "test:v1", &paths);
            let singles: Vec<_> = image
                .layers
                .iter()
                .enumerate()
                .map(|(number, layer)| Mount::layer(&layer.path, fixture.path(&format!("single-{number}"))))
                .collect();
            let overlay = Mount::overlay(&singles, fixture.path("overlay"));
            let mut expected = attributes::of_overlay(&overlay.0);
            drop(overlay);
            drop(singles);
            // Merges all layers, or only the lowest ones.
            for max in [1, 2] {
                let fitted = store.fit(vec![image.clone()], max).unwrap().remove(0);
                assert_eq!(fitted.layers.len(), max.min(image.layers.len()), "round {round}");
                let merged: Vec<_> = fitted
                    .layers
                    .iter()
                    .enumerate()
                    .map(|(number, layer)| Mount::layer(&layer.path, fixture.path(&format!("merged-{number}"))))
                    .collect();
                let overlay = Mount::overlay(&merged, fixture.path("overlay-of-merged"));
                let mut found = attributes::of_overlay(&overlay.0);
                for tree in [&mut expected, &mut found] {
                    attributes::count_links(tree);
                }
                attributes::assert_equal(&expected, &found);
            }
        }
    }
}
