//! Identifies the build of this program for people, because several builds can have the same version.
//!
//! The linker writes a build ID, a hash of what it links, into the program's file (`--build-id`, which `build.rs` asks
//! for). The same sources and tools give the same build, with or without git, and nothing is recompiled for it. A
//! program without a build ID has only its version.

use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::LazyLock;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How many bytes of the build ID are shown.
const SHOWN_BYTES: usize = 4;

/// A program's segment table and its notes take a few hundred bytes.
const MAX_READ_BYTES: usize = 64 << 10;

/// `p_type` of a note segment.
const PT_NOTE: u32 = 4;

/// Type of the note with the build ID; its owner is [`OWNER`].
const NT_GNU_BUILD_ID: u32 = 3;

const OWNER: &[u8] = b"GNU\0";

/// Size of a note's header, which precedes its owner's name.
const NOTE_HEADER_BYTES: usize = 12;

/// This build: `0.1.0+1a2b3c4d`, or `0.1.0`.
pub fn build() -> &'static str {
    static BUILD: LazyLock<String> = LazyLock::new(|| {
        // Open the running program, even if its file was replaced.
        let program = File::open("/proc/self/exe").ok();
        with_id(program.and_then(|program| build_id(&program)).as_deref())
    });
    &BUILD
}

/// The commit of this build. Only `make package` passes it on, because it would recompile this package on every commit.
pub fn commit() -> Option<&'static str> {
    // Empty outside of a git repository.
    option_env!("MICROKUBE_COMMIT").filter(|commit| !commit.is_empty())
}

fn with_id(id: Option<&[u8]>) -> String {
    let mut build = VERSION.to_owned();
    for (index, byte) in id.unwrap_or_default().iter().take(SHOWN_BYTES).enumerate() {
        let plus = if index == 0 { "+" } else { "" };
        let _ = write!(build, "{plus}{byte:02x}");
    }
    build
}

/// Reads the build ID of an ELF file, 64-bit and little-endian like this program.
fn build_id(program: &File) -> Option<Vec<u8>> {
    let header = read(program, 0, 64)?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let segments_at = u64::from_le_bytes(field(&header, 0x20)?);
    let segment_bytes = usize::from(u16::from_le_bytes(field(&header, 0x36)?));
    let segment_count = usize::from(u16::from_le_bytes(field(&header, 0x38)?));
    let segments = read(program, segments_at, segment_bytes.checked_mul(segment_count)?)?;
    segments.chunks_exact(segment_bytes.max(1)).find_map(|segment| {
        if u32::from_le_bytes(field(segment, 0)?) != PT_NOTE {
            return None;
        }
        let offset_bytes = u64::from_le_bytes(field(segment, 0x08)?);
        let length_bytes = usize::try_from(u64::from_le_bytes(field(segment, 0x20)?)).ok()?;
        let align = match u64::from_le_bytes(field(segment, 0x30)?) {
            8 => 8,
            _ => 4,
        };
        build_id_among(&read(program, offset_bytes, length_bytes)?, align)
    })
}

fn build_id_among(mut notes: &[u8], align: usize) -> Option<Vec<u8>> {
    loop {
        let name_bytes = usize::try_from(u32::from_le_bytes(field(notes, 0)?)).ok()?;
        let content_bytes = usize::try_from(u32::from_le_bytes(field(notes, 4)?)).ok()?;
        let kind = u32::from_le_bytes(field(notes, 8)?);
        let name_end = NOTE_HEADER_BYTES.checked_add(name_bytes)?;
        let name = notes.get(NOTE_HEADER_BYTES..name_end)?;
        let content_at = name_end.checked_next_multiple_of(align)?;
        let content_end = content_at.checked_add(content_bytes)?;
        if kind == NT_GNU_BUILD_ID && name == OWNER {
            return Some(notes.get(content_at..content_end)?.to_owned());
        }
        notes = notes.get(content_end.checked_next_multiple_of(align)?..)?;
    }
}

fn read(program: &File, offset_bytes: u64, length_bytes: usize) -> Option<Vec<u8>> {
    if length_bytes > MAX_READ_BYTES {
        return None;
    }
    let mut bytes = vec![0; length_bytes];
    program.read_exact_at(&mut bytes, offset_bytes).ok()?;
    Some(bytes)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn note(name: &[u8], kind: u32, content: &[u8], align: usize) -> Vec<u8> {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
        let mut note = [length(name), length(content), kind.to_le_bytes()].concat();
        for part in [name, content] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(align), 0);
        }
        note
    }

    /// An ELF file with a segment of another type, and a segment with these notes.
    fn program(notes: &[u8], align: u64) -> Vec<u8> {
        let mut elf = vec![0; 64 + 2 * 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x20..0x28].copy_from_slice(&64_u64.to_le_bytes());
        elf[0x36..0x38].copy_from_slice(&56_u16.to_le_bytes());
        elf[0x38..0x3a].copy_from_slice(&2_u16.to_le_bytes());
        elf[64] = 1;
        let offset_bytes = u64::try_from(elf.len()).unwrap();
        let length_bytes = u64::try_from(notes.len()).unwrap();
        let segment = &mut elf[64 + 56..];
        segment[..4].copy_from_slice(&PT_NOTE.to_le_bytes());
        segment[0x08..0x10].copy_from_slice(&offset_bytes.to_le_bytes());
        segment[0x20..0x28].copy_from_slice(&length_bytes.to_le_bytes());
        segment[0x30..0x38].copy_from_slice(&align.to_le_bytes());
        elf.extend(notes);
        elf
    }

    fn build_of(elf: &[u8]) -> String {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(elf).unwrap();
        with_id(build_id(&file).as_deref())
    }

    #[test]
    fn the_linkers_note_distinguishes_builds_of_the_same_version() {
        for align in [4, 8] {
            let others = [
                note(b"GNU\0", 5, b"abc", align),
                note(b"Other\0", NT_GNU_BUILD_ID, b"no", align),
            ]
            .concat();
            let of = |id: &[u8]| {
                let notes = [others.clone(), note(b"GNU\0", NT_GNU_BUILD_ID, id, align)].concat();
                program(&notes, align as u64)
            };
            let (one, other) = (of(b"\x1a\x2b\x3c\x4d\x5e"), of(b"\x1a\x2b\x3c\x4e\x5e"));
            assert_eq!(build_of(&one), format!("{VERSION}+1a2b3c4d"));
            assert_eq!(build_of(&other), format!("{VERSION}+1a2b3c4e"));
            assert_eq!(build_of(&program(&others, align as u64)), VERSION);
            for end in 0..one.len() {
                assert_eq!(build_of(&one[..end]), VERSION, "cut at {end}");
            }
        }
    }

    #[test]
    fn this_program_has_a_build_id_note() {
        let id = build().strip_prefix(VERSION).unwrap().strip_prefix('+');
        let id = id.expect("no build ID: the linker is not asked for one (--build-id)");
        assert_eq!(id.len(), 2 * SHOWN_BYTES, "{id}");
        assert!(id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    }
}
