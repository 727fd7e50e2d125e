//! Divides the files of a volume into requests that fit into messages to the agent.

use microkube_protocol::messages::{FileProjection, WriteFileVolumeRequest};
use microkube_protocol::{MAX_FILE_BYTES, MAX_MESSAGE_BYTES, MAX_VOLUME_BYTES, MAX_VOLUME_FILES};

/// Bytes of a part that are reserved for the volume's name and ttrpc's own fields.
const RESERVED_BYTES: usize = 64 << 10;

/// Bytes of a file's message besides its path and content: tags, lengths, mode and owner.
const FILE_OVERHEAD_BYTES: usize = 64;

/// A volume that cannot be sent to the guest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TooLarge {
    #[error("the file {path:?} of volume {volume:?} has {found} bytes; a file can have {MAX_FILE_BYTES}")]
    File { volume: String, path: String, found: usize },
    #[error("the files of volume {volume:?} have {found} bytes; a volume can have {MAX_VOLUME_BYTES}")]
    Bytes { volume: String, found: usize },
    #[error("volume {volume:?} has {found} files; a volume can have {MAX_VOLUME_FILES}")]
    Files { volume: String, found: usize },
}

/// The requests that write these files, in order. There is at least one.
///
/// # Errors
/// If the files exceed the agent's limits.
pub fn split(volume: &str, files: Vec<FileProjection>) -> Result<Vec<WriteFileVolumeRequest>, TooLarge> {
    check(volume, &files)?;
    let mut groups = vec![Vec::new()];
    let mut group_bytes = 0;
    for file in files {
        let file_bytes = file.path.len() + file.content.len() + FILE_OVERHEAD_BYTES;
        if group_bytes + file_bytes > MAX_MESSAGE_BYTES - RESERVED_BYTES {
            groups.push(Vec::new());
            group_bytes = 0;
        }
        group_bytes += file_bytes;
        if let Some(group) = groups.last_mut() {
            group.push(file);
        }
    }
    let count = groups.len();
    let request = |(part, files): (u32, Vec<FileProjection>)| WriteFileVolumeRequest {
        volume: volume.to_owned(),
        part,
        last: part as usize + 1 == count,
        files,
        ..Default::default()
    };
    Ok((0..).zip(groups).map(request).collect())
}

fn check(volume: &str, files: &[FileProjection]) -> Result<(), TooLarge> {
    let volume = volume.to_owned();
    if files.len() > MAX_VOLUME_FILES {
        let found = files.len();
        return Err(TooLarge::Files { volume, found });
    }
    if let Some(file) = files.iter().find(|file| file.content.len() > MAX_FILE_BYTES) {
        return Err(TooLarge::File {
            volume,
            path: file.path.clone(),
            found: file.content.len(),
        });
    }
    let found = files.iter().map(|file| file.content.len()).sum();
    match found > MAX_VOLUME_BYTES {
        true => Err(TooLarge::Bytes { volume, found }),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protobuf::Message as _;

    use super::*;

    fn file(number: usize, length_bytes: usize) -> FileProjection {
        FileProjection {
            path: format!("{number}/{}", "x".repeat(250)),
            content: vec![0; length_bytes],
            mode: 0o777,
            fs_user: Some(u32::MAX),
            ..Default::default()
        }
    }

    #[test]
    fn few_files_need_one_part() {
        for files in [vec![], vec![file(0, 0), file(1, 5)]] {
            let parts = split("config", files.clone()).unwrap();
            assert_eq!(parts.len(), 1);
            assert_eq!(
                (parts[0].volume.as_str(), parts[0].part, parts[0].last),
                ("config", 0, true)
            );
            assert_eq!(parts[0].files, files);
        }
    }

    #[test]
    fn files_beyond_a_limit_are_refused() {
        let refused = |files| split("config", files).unwrap_err().to_string();
        let path = file(7, 0).path;
        assert_eq!(
            refused(vec![file(1, 1), file(7, MAX_FILE_BYTES + 1)]),
            format!("the file {path:?} of volume \"config\" has 3145729 bytes; a file can have 3145728")
        );
        assert_eq!(
            refused((0..11).map(|number| file(number, MAX_FILE_BYTES)).collect()),
            "the files of volume \"config\" have 34603008 bytes; a volume can have 33554432"
        );
        assert_eq!(
            refused(vec![FileProjection::default(); MAX_VOLUME_FILES + 1]),
            "volume \"config\" has 65537 files; a volume can have 65536"
        );
    }

    #[test]
    fn the_largest_volumes_can_be_sent() {
        let many = vec![file(0, 0); MAX_VOLUME_FILES];
        let long = vec![file(0, MAX_FILE_BYTES); MAX_VOLUME_BYTES / MAX_FILE_BYTES];
        for files in [many, long] {
            for part in split("config", files).unwrap() {
                assert!(part.compute_size() < MAX_MESSAGE_BYTES as u64);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn parts_fit_into_messages_and_contain_all_files_in_order(
            lengths in prop::collection::vec(prop_oneof![0_usize..100, 0..MAX_FILE_BYTES], 0..8),
        ) {
            let files: Vec<_> = lengths.iter().enumerate().map(|(number, length)| file(number, *length)).collect();
            let parts = split("config", files.clone()).unwrap();
            prop_assert_eq!(parts.iter().flat_map(|part| part.files.clone()).collect::<Vec<_>>(), files);
            for (number, part) in parts.iter().enumerate() {
                prop_assert_eq!(part.part as usize, number);
                prop_assert_eq!(part.last, number + 1 == parts.len());
                prop_assert!(part.compute_size() < (MAX_MESSAGE_BYTES - (RESERVED_BYTES / 2)) as u64);
            }
        }
    }
}
