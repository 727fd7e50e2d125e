//! The files of a container's log: their names, and how to open them while a writer renames them.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::record::{self, Record};

#[derive(Debug)]
pub struct Part {
    pub file: File,
    /// Identifies the file under any name; not reused while the file is open.
    pub inode: u64,
    /// Total bytes of both streams before this file, according to its first record.
    pub start: u64,
}

/// Path of a file of an attempt's log: file 0 is being written, file 1 is the newest of the others.
pub fn part_path(dir: &Path, attempt: u32, number: usize) -> PathBuf {
    if number == 0 {
        dir.join(format!("{attempt}.log"))
    } else {
        dir.join(format!("{attempt}.log.{number}"))
    }
}

/// Path at which the next file is prepared.
pub fn new_path(dir: &Path, attempt: u32) -> PathBuf {
    dir.join(format!("{attempt}.log.new"))
}

/// Parses attempt and number from a file name.
fn parse_name(name: &str) -> Option<(u32, usize)> {
    let (attempt, rest) = name.split_once(".log")?;
    let number = match rest.strip_prefix('.') {
        Some(number) => number.parse().ok()?,
        None if rest.is_empty() => 0,
        None => return None,
    };
    Some((attempt.parse().ok()?, number))
}

/// The attempts that have a log, oldest first.
///
/// # Errors
/// If the directory cannot be read; `NotFound` if it does not exist.
pub fn attempts(dir: &Path) -> io::Result<Vec<u32>> {
    let mut attempts: Vec<u32> = list(dir)?.into_iter().map(|(attempt, _)| attempt).collect();
    attempts.sort_unstable();
    attempts.dedup();
    Ok(attempts)
}

/// Whether this attempt has a log.
#[must_use]
pub fn has_log(dir: &Path, attempt: u32) -> bool {
    attempts(dir).is_ok_and(|attempts| attempts.contains(&attempt))
}

/// The total size of a container's logs in bytes, of all attempts that are kept.
///
/// # Errors
/// If the directory cannot be read; `NotFound` if it does not exist.
pub fn total_bytes(dir: &Path) -> io::Result<u64> {
    let mut total: u64 = 0;
    for (attempt, number) in list(dir)? {
        // A rotation may have renamed or removed the file meanwhile.
        let bytes = std::fs::symlink_metadata(part_path(dir, attempt, number)).map_or(0, |metadata| metadata.len());
        total = total.saturating_add(bytes);
    }
    Ok(total)
}

fn list(dir: &Path) -> io::Result<Vec<(u32, usize)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        if let Some(file) = entry?.file_name().to_str().and_then(parse_name) {
            files.push(file);
        }
    }
    Ok(files)
}

/// The numbers of an attempt's files, newest first.
pub fn numbers(dir: &Path, attempt: u32) -> io::Result<Vec<usize>> {
    let mut numbers: Vec<usize> = list(dir)?
        .into_iter()
        .filter_map(|(of, number)| (of == attempt).then_some(number))
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Opens all files of an attempt's log, oldest first.
///
/// They are opened newest first. A concurrent rotation renames files in the other direction, to higher numbers, so a
/// file may be opened twice but is never missed. The directory listing is unreliable during renames; only the highest
/// number in it is used, as a minimum.
pub fn open_parts(dir: &Path, attempt: u32) -> io::Result<Vec<Part>> {
    let listed = numbers(dir, attempt)?.last().map_or(0, |last| (*last).min(MAX_NUMBER));
    let mut parts: Vec<Part> = Vec::new();
    let mut number = 0;
    let mut missing = 0;
    while number <= listed || missing < MANY_ROTATIONS {
        match File::open(part_path(dir, attempt, number)) {
            Ok(file) => {
                missing = 0;
                let inode = file.metadata()?.ino();
                if parts.iter().all(|part| part.inode != inode) {
                    let start = start_of(&file)?;
                    parts.push(Part { file, inode, start });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => missing += 1,
            Err(error) => return Err(error),
        }
        number += 1;
    }
    parts.reverse();
    parts.sort_by_key(|part| part.start);
    Ok(parts)
}

fn start_of(file: &File) -> io::Result<u64> {
    let mut first = [0; 256];
    let length = read_at(file, &mut first, 0)?;
    let first = &first[..length];
    let line = first.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(match record::parse(line) {
        Some(Record::Position(positions)) => positions.stdout.saturating_add(positions.stderr),
        _ => 0,
    })
}

/// Limits the search when a file has an absurdly high number.
const MAX_NUMBER: usize = 10_000;

/// More rotations than can happen while the files are opened.
const MANY_ROTATIONS: usize = 8;

/// Removes the logs of all attempts before this one.
pub fn remove_before(dir: &Path, attempt: u32) -> io::Result<()> {
    for (of, number) in list(dir)? {
        if of < attempt {
            remove(&part_path(dir, of, number))?;
        }
    }
    Ok(())
}

/// Removes a file that may be missing.
pub fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Reads at a position of a file, and retries if a signal interrupts the read.
pub fn read_at(file: &File, to: &mut [u8], at: u64) -> io::Result<usize> {
    loop {
        match file.read_at(to, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_files_are_recognised_by_name_and_others_left_alone() {
        assert_eq!(parse_name("3.log"), Some((3, 0)));
        assert_eq!(parse_name("3.log.4"), Some((3, 4)));
        for other in [
            "3.log.new",
            "3.log.4.gz",
            "x.log",
            ".log",
            "3.logs",
            "3.log.-1",
            "99999999999.log",
        ] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }

    #[test]
    fn parts_are_opened_oldest_first_and_missing_ones_skipped() {
        let dir = tempfile::tempdir().unwrap();
        for (number, text) in [(0, "d"), (1, "c"), (3, "a")] {
            std::fs::write(part_path(dir.path(), 7, number), text).unwrap();
        }
        std::fs::write(part_path(dir.path(), 8, 0), "x").unwrap();
        let texts: Vec<String> = open_parts(dir.path(), 7)
            .unwrap()
            .into_iter()
            .map(|part| io::read_to_string(part.file).unwrap())
            .collect();
        assert_eq!(texts, ["a", "c", "d"]);
        assert_eq!(attempts(dir.path()).unwrap(), [7, 8]);
        std::fs::write(dir.path().join("8.log.new"), "none").unwrap();
        assert_eq!(total_bytes(dir.path()).unwrap(), 4);
        remove_before(dir.path(), 8).unwrap();
        assert_eq!(attempts(dir.path()).unwrap(), [8]);
    }
}
