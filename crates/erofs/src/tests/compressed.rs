//! Compressed files.

use std::os::unix::fs::{FileExt, MetadataExt};

use super::super::data::FileWriter;
use super::*;

/// Parts that LZ4 shrinks, cannot shrink, and shrinks as far as possible.
fn mixed(parts: &[(u8, usize)]) -> Vec<u8> {
    let mut state = 1u64;
    let mut noise = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    let mut content = Vec::new();
    for (kind, length) in parts {
        let start = content.len();
        match kind % 3 {
            0 => {
                let lines = (start..).flat_map(|number| format!("line {number} of some text\n").into_bytes());
                content.extend(lines.take(*length));
            }
            1 => content.extend(std::iter::repeat_with(&mut noise).take(*length)),
            _ => content.resize(start + length, 0),
        }
    }
    content
}

fn write(tar: &[u8], compression: Compression) -> File {
    let image = tempfile::tempfile().unwrap();
    let limits = Limits::default();
    write_layer(&mut Cursor::new(tar), &image, scratch(), &limits, compression, None).unwrap();
    image
}

/// Everything a volume returns for a file in the root directory, read in pieces.
fn content(volume: &Volume, name: &[u8], piece: usize) -> Result<Vec<u8>, VolumeError> {
    let inode = volume.lookup(&volume.root()?, name)?.unwrap();
    let (mut data, mut buffer) = (Vec::new(), vec![0; piece]);
    loop {
        match volume.read_data(&inode, data.len() as u64, &mut buffer)? {
            0 => return Ok(data),
            count => data.extend_from_slice(&buffer[..count]),
        }
    }
}

#[test]
fn compressible_files_take_less_space_and_others_are_unchanged() {
    let text = mixed(&[(0, 400_000)]);
    let tar = Tar::new().file("text", &text).finish();
    let blocks = |compression| write(&tar, compression).metadata().unwrap().len() / 4096;
    assert!(blocks(Compression::None) > 98);
    assert!(blocks(Compression::Lz4) < 50, "{}", blocks(Compression::Lz4));
    let others = Tar::new()
        .file("small", &text[..8192])
        .file("noise", &mixed(&[(1, 400_000)]))
        .file("zeros", &mixed(&[(2, 400_000)]))
        .finish();
    assert!(convert_as(&others, Compression::Lz4, None).unwrap() == convert(&others).unwrap());
}

#[test]
fn compressed_files_of_every_size_keep_their_content() {
    let sizes = [
        8193,
        12_288,
        65_535,
        65_536,
        65_537,
        131_071,
        131_072,
        131_073,
        1 << 20,
        3_000_001,
    ];
    let mut tar = Tar::new();
    for (size, attribute) in sizes.into_iter().zip(0..) {
        // The index starts at multiples of eight bytes; attributes end at multiples of four.
        let attribute = vec![b'x'; attribute];
        tar = tar
            .pax(&[("SCHILY.xattr.user.a", &attribute)])
            .file(&size.to_string(), &mixed(&[(0, size)]));
    }
    let tree = tree(&tar.finish());
    for size in sizes {
        assert!(tree[size.to_string().as_bytes()].data == mixed(&[(0, size)]), "{size}");
    }
}

#[test]
fn a_run_of_zeros_in_a_compressed_file_costs_little() {
    let start = mixed(&[(0, 200_000)]);
    let image = tempfile::tempfile().unwrap();
    let mut files = FileWriter::new(&image, tempfile::tempfile().unwrap(), 1 << 40, Compression::Lz4);
    files.begin(64, false).unwrap();
    files.write(&start).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..256 {
        files.write(&zeros).unwrap();
    }
    files.end().unwrap();
    let mut written = files.finish();
    assert!(written.compressed);
    written.blocks.flush().unwrap();
    let index = written.spill.end();
    let disk = image.metadata().unwrap().blocks() * 512;
    assert!(disk < 256 * 4096 + (1 << 19), "{disk}");
    assert_eq!(index, (start.len() as u64 + (256 << 20)).div_ceil(4096) * 8);
}

#[test]
fn compressed_files_of_lower_layers_are_copied() {
    let big = mixed(&[(0, 300_000), (2, 2_000_000), (1, 5000), (0, 70_000)]);
    let below = write(&Tar::new().file("big", &big).finish(), Compression::Lz4);
    let below = LowerLayers::open(vec![below]).unwrap();
    let top = Tar::new().link("again", EntryType::Link, "big").finish();
    for compression in [Compression::None, Compression::Lz4] {
        let tree = read(&convert_as(&top, compression, Some(&below)).unwrap());
        assert!(tree[b"again".as_slice()].data == big, "{compression:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_content_reads_back_in_any_chunks(
        parts in prop::collection::vec((0u8..3, 0usize..150_000), 1..6),
        piece in 1000usize..200_000,
        offsets in prop::collection::vec(any::<prop::sample::Index>(), 8),
    ) {
        let expected = mixed(&parts);
        let tar = Tar::new().file("before", b"x").file("file", &expected).finish();
        let image = convert_as(&tar, Compression::Lz4, None).unwrap();
        prop_assert!(image == convert_as(&tar, Compression::Lz4, None).unwrap(), "the same layer gives the same bytes");
        prop_assert!(read(&image)[b"file".as_slice()].data == expected);
        let volume = Volume::open(write(&tar, Compression::Lz4)).unwrap();
        prop_assert!(content(&volume, b"file", piece).unwrap() == expected);
        let inode = volume.lookup(&volume.root().unwrap(), b"file").unwrap().unwrap();
        for offset in offsets {
            let offset = offset.index(expected.len() + 1);
            let mut buffer = [0; 5000];
            let count = volume.read_data(&inode, offset as u64, &mut buffer).unwrap();
            prop_assert!(count > 0 || offset == expected.len());
            prop_assert!(buffer[..count] == expected[offset..offset + count]);
        }
    }

    #[test]
    fn a_damaged_image_never_panics(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..30)) {
        let tar = Tar::new().file("file", &mixed(&[(0, 60_000), (2, 200_000), (1, 9000), (0, 5000)])).finish();
        let image = write(&tar, Compression::Lz4);
        let length = image.metadata().unwrap().len();
        // Most of the metadata is in the last block: inodes and the index.
        for (count, (place, byte)) in flips.into_iter().enumerate() {
            let start = if count % 2 == 0 { 4096 } else { length - 4096 };
            image.write_all_at(&[byte], start + place.index((length - start) as usize) as u64).unwrap();
        }
        let volume = Volume::open(image).unwrap();
        let mut nids = Vec::new();
        if let Ok(root) = volume.root() {
            let _ = volume.entries(&root, |_, nid, _| {
                nids.push(nid);
                nids.len() < 100
            });
        }
        for nid in nids {
            let Ok(inode) = volume.inode(nid) else { continue };
            let _ = volume.small_data(&inode, 1 << 20);
            let mut buffer = [0; 5000];
            let _ = volume.read_data(&inode, 250_000, &mut buffer);
        }
    }
}
