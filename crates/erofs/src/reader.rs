//! A small reader of EROFS images, for tests. It follows the format's definition, not the writer's code.

use std::collections::BTreeMap;

/// A file of an image as a user would see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub nid: u64,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub links: u32,
    pub size: u64,
    pub device: u32,
    pub data: Vec<u8>,
    pub xattrs: BTreeMap<(u8, Vec<u8>), Vec<u8>>,
}

pub(super) struct Reader<'a> {
    image: &'a [u8],
    meta: usize,
    build: (i64, u32),
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(bytes[offset..offset + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// Every path of the image with its node. Paths have no leading slash; the root's path is empty.
pub(super) fn read(image: &[u8]) -> BTreeMap<Vec<u8>, Node> {
    let sb = &image[1024..];
    assert_eq!(u32_at(sb, 0), 0xE0F5_E1E2, "magic");
    assert_eq!(image.len() % 4096, 0, "whole blocks");
    assert_eq!(u32_at(sb, 36) as usize * 4096, image.len(), "blocks in the superblock");
    assert_eq!(sb[12], 12, "block size");
    let reader = Reader {
        image,
        meta: u32_at(sb, 40) as usize * 4096,
        build: (u64_at(sb, 24) as i64, u32_at(sb, 32)),
    };
    let root = u64::from(u16_at(sb, 14));
    let mut tree = BTreeMap::new();
    let mut pending = vec![(Vec::new(), root, root)];
    while let Some((path, nid, parent)) = pending.pop() {
        let node = reader.node(nid);
        if node.mode & 0o170000 == 0o040000 {
            for (name, child, kind) in reader.entries(&node) {
                match name.as_slice() {
                    b"." => assert_eq!(child, nid),
                    b".." => assert_eq!(child, parent),
                    _ => {
                        let expected = match reader.node(child).mode >> 12 {
                            0o10 => 1,
                            0o4 => 2,
                            0o2 => 3,
                            0o6 => 4,
                            0o1 => 5,
                            0o12 => 7,
                            other => panic!("file type {other:o}"),
                        };
                        assert_eq!(kind, expected, "entry type of {}", name.escape_ascii());
                        let mut path = path.clone();
                        if !path.is_empty() {
                            path.push(b'/');
                        }
                        path.extend(name);
                        pending.push((path, child, nid));
                    }
                }
            }
        }
        tree.insert(path, node);
    }
    let inodes: std::collections::BTreeSet<_> = tree.values().map(|node| node.nid).collect();
    assert_eq!(u64_at(sb, 16), inodes.len() as u64, "inodes in the superblock");
    tree
}

impl Reader<'_> {
    fn node(&self, nid: u64) -> Node {
        let start = self.meta + nid as usize * 32;
        let inode = &self.image[start..];
        let format = u16_at(inode, 0);
        let extended = format & 1 == 1;
        let (inline, compressed) = match format >> 1 {
            0 => (false, false),
            1 => (false, true),
            2 => (true, false),
            other => panic!("data layout {other}"),
        };
        let (head, size, uid, gid, mtime, links) = if extended {
            let mtime = (u64_at(inode, 32) as i64, u32_at(inode, 40));
            (
                64,
                u64_at(inode, 8),
                u32_at(inode, 24),
                u32_at(inode, 28),
                mtime,
                u32_at(inode, 44),
            )
        } else {
            let ids = (u32::from(u16_at(inode, 24)), u32::from(u16_at(inode, 26)));
            (
                32,
                u64::from(u32_at(inode, 8)),
                ids.0,
                ids.1,
                self.build,
                u32::from(u16_at(inode, 6)),
            )
        };
        let union = u32_at(inode, 16);
        let mode = u16_at(inode, 4);
        let count = usize::from(u16_at(inode, 2));
        let xattr_bytes = if count == 0 { 0 } else { 12 + (count - 1) * 4 };
        assert!(start + head + 12 <= self.image.len(), "fsck.erofs reads this far");
        let mut data = Vec::new();
        if compressed {
            assert_eq!(mode >> 12, 0o10, "only files are compressed");
            assert_eq!(u32_at(self.image, 1024 + 80), 1, "the superblock names the feature");
            data = self.unpack(start + head + xattr_bytes, size as usize, union);
        } else if matches!(mode >> 12, 0o10 | 0o4 | 0o12) {
            let tail = if inline { size as usize % 4096 } else { 0 };
            let first = union as usize * 4096;
            data.extend(&self.image[first..][..size as usize - tail]);
            let at = start + head + xattr_bytes;
            assert!(
                tail == 0 || at / 4096 == (at + tail - 1) / 4096,
                "inline data crosses a block"
            );
            data.extend(&self.image[at..at + tail]);
        }
        let device = if matches!(mode >> 12, 0o2 | 0o6) { union } else { 0 };
        let xattrs = self.xattrs(start + head, xattr_bytes);
        Node {
            nid,
            mode,
            uid,
            gid,
            mtime,
            links,
            size,
            device,
            data,
            xattrs,
        }
    }

    /// The content of a compressed file; the index header follows its inode and attributes.
    fn unpack(&self, end: usize, size: usize, blocks: u32) -> Vec<u8> {
        let header = end.next_multiple_of(8);
        assert_eq!(self.image[header..header + 16], [0; 16], "LZ4, no options, one block");
        let clusters = size.div_ceil(4096);
        let entry = |number: usize| &self.image[header + 16 + number * 8..][..8];
        let is_head = |number: usize| u16_at(entry(number), 0) != 2;
        let start_of = |number: usize| number * 4096 + usize::from(u16_at(entry(number), 2));
        let (mut data, mut head, mut found) = (Vec::new(), 0, 0);
        while data.len() < size {
            assert_eq!(start_of(head), data.len(), "the parts are contiguous");
            let next = (head + 1..clusters).find(|number| is_head(*number));
            for inner in head + 1..next.unwrap_or(clusters) {
                let deltas = (u16_at(entry(inner), 4), u16_at(entry(inner), 6));
                let expected = (inner - head, next.unwrap_or(clusters) - inner);
                assert_eq!(deltas, (expected.0 as u16, expected.1 as u16));
            }
            let length = next.map_or(size, start_of) - data.len();
            let block = &self.image[u32_at(entry(head), 4) as usize * 4096..][..4096];
            match u16_at(entry(head), 0) {
                0 => data.extend(&block[..length]),
                1 => {
                    let start = block.iter().position(|byte| *byte != 0).unwrap();
                    let mut content = vec![0; length];
                    assert_eq!(lzzzz::lz4::decompress(&block[start..], &mut content).unwrap(), length);
                    data.extend(content);
                }
                other => panic!("entry of type {other}"),
            }
            found += 1;
            head = next.unwrap_or(clusters);
        }
        assert_eq!(data.len(), size);
        assert_eq!(found, blocks, "blocks in the inode");
        data
    }

    fn xattrs(&self, start: usize, length: usize) -> BTreeMap<(u8, Vec<u8>), Vec<u8>> {
        let mut xattrs = BTreeMap::new();
        let end = start + length;
        let mut at = start + 12;
        while at < end {
            let (name, value) = (usize::from(self.image[at]), usize::from(u16_at(self.image, at + 2)));
            let key = (self.image[at + 1], self.image[at + 4..at + 4 + name].to_vec());
            let previous = xattrs.insert(key, self.image[at + 4 + name..at + 4 + name + value].to_vec());
            assert!(previous.is_none(), "duplicate attribute");
            at += (4 + name + value).next_multiple_of(4);
        }
        assert!(length == 0 || at == end, "attributes end where the inode says");
        xattrs
    }

    /// Name, inode and type of a directory's entries. Asserts the order that the kernel's lookup needs.
    fn entries(&self, node: &Node) -> Vec<(Vec<u8>, u64, u8)> {
        let mut entries: Vec<(Vec<u8>, u64, u8)> = Vec::new();
        for block in node.data.chunks(4096) {
            let count = usize::from(u16_at(block, 8)) / 12;
            assert!(count > 0);
            for index in 0..count {
                let start = usize::from(u16_at(block, index * 12 + 8));
                let end = if index + 1 < count {
                    usize::from(u16_at(block, index * 12 + 20))
                } else {
                    block.len()
                };
                let name = block[start..end].split(|byte| *byte == 0).next().unwrap().to_vec();
                assert!((1..=255).contains(&name.len()), "length of a name");
                if let Some((last, ..)) = entries.last() {
                    assert!(*last < name, "entries out of order");
                }
                entries.push((name, u64_at(block, index * 12), block[index * 12 + 10]));
            }
        }
        entries
    }
}
