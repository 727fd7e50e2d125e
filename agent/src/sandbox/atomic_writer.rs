//! Replaces the files of a volume as the kubelet's `AtomicWriter` does (`pkg/volume/util/atomic_writer.go`).
//!
//! The files are in a directory named after the time. The link `..data` leads to it, and each file or directory at the
//! top of the volume is a link through `..data`:
//!
//! ```text
//! ..2026_11_27_06_05_04.123456789/user/labels
//! ..data -> ..2026_11_27_06_05_04.123456789
//! user -> ..data/user
//! ```
//!
//! An update writes a new directory and renames a new link to `..data`. Readers therefore find the old version of all
//! files or the new one, and inotify reports the rename, because containers mount the volume's root.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown, fchown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use microkube_protocol::messages::FileProjection;

const DATA_LINK: &str = "..data";
const NEW_DATA_LINK: &str = "..data_tmp";

/// Mode of all directories below the volume's root.
const DIRECTORY_MODE: u32 = 0o755;

/// The bits that an fsGroup adds to the mode of a file in a read-only volume, and to that of a directory
/// (`changeFilePermission` in `pkg/volume/volume_linux.go`).
const GROUP_FILE_MODE: u32 = 0o440;
const GROUP_DIRECTORY_MODE: u32 = 0o2550;

/// Attempts to find an unused name for a directory. A second attempt is necessary only if the clock was set back.
const NAME_ATTEMPTS: u32 = 100;

/// The files of a volume by their path. Paths are relative and have only normal components, the first of which does not
/// start with "..".
pub type Files = BTreeMap<String, FileProjection>;

/// Writes to one volume. Calls must not overlap.
#[derive(Debug)]
pub struct AtomicWriter {
    /// The volume's root.
    directory: PathBuf,
    /// The group of all files.
    fs_group: Option<u32>,
}

impl AtomicWriter {
    pub fn new(directory: PathBuf, fs_group: Option<u32>) -> Self {
        Self { directory, fs_group }
    }

    /// The volume's root.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes these the files of the volume. Returns whether they differ from the previous ones; only then is anything
    /// written. After an error, the volume has all the previous files or all these.
    pub fn write(&self, files: &Files) -> Result<bool> {
        if let Some(current) = self.current()?
            && self
                .has_same_content(&current, files)
                .or_else(|error| match error.kind() {
                    io::ErrorKind::NotFound => Ok(false),
                    _ => Err(error),
                })
                .context("cannot compare with the current files")?
        {
            // An earlier write may have failed after it swapped the data directory.
            self.add_visible_links(files)?;
            self.remove_stale_links(files)?;
            self.remove_old_directories()?;
            return Ok(false);
        }
        let update = Update::begin(self, files)?;
        for step in STEPS {
            step(&update).inspect_err(|_| update.discard_unless_current())?;
        }
        Ok(true)
    }

    /// The name of the directory to which `..data` leads.
    fn current(&self) -> Result<Option<PathBuf>> {
        match fs::read_link(self.directory.join(DATA_LINK)) {
            Ok(name) if is_data_directory(name.as_os_str()) => Ok(Some(name)),
            // Only a privileged container can change the link, after remounting the volume.
            Ok(name) => bail!("{DATA_LINK} leads to {}, which is not a data directory", name.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read the link {DATA_LINK}")),
        }
    }

    /// Whether a data directory contains exactly these files. As in the kubelet, modes are not compared: they come from
    /// the Pod, which cannot change them.
    fn has_same_content(&self, data_directory: &Path, files: &Files) -> io::Result<bool> {
        let root = self.directory.join(data_directory);
        let mut found_count = 0;
        let mut pending = vec![PathBuf::new()];
        while let Some(directory) = pending.pop() {
            for entry in fs::read_dir(root.join(&directory))? {
                let entry = entry?;
                let path = directory.join(entry.file_name());
                if entry.file_type()?.is_dir() {
                    pending.push(path);
                    continue;
                }
                let Some(file) = path.to_str().and_then(|path| files.get(path)) else {
                    return Ok(false);
                };
                let has_same_length = entry.metadata()?.len() == file.content.len() as u64;
                if !has_same_length || fs::read(entry.path())? != file.content {
                    return Ok(false);
                }
                found_count += 1;
            }
        }
        Ok(found_count == files.len())
    }

    /// Makes the files visible in the volume's root.
    fn add_visible_links(&self, files: &Files) -> Result<()> {
        for name in visible_names(files) {
            let link = self.directory.join(name);
            // Anything else at this path was created for a subPath, and stays.
            if matches!(fs::symlink_metadata(&link), Err(error) if error.kind() == io::ErrorKind::NotFound) {
                symlink(Path::new(DATA_LINK).join(name), &link)
                    .with_context(|| format!("cannot create the link {name}"))?;
            }
        }
        Ok(())
    }

    /// Removes the links of files that no longer exist.
    fn remove_stale_links(&self, files: &Files) -> Result<()> {
        let visible = visible_names(files);
        self.remove_entries("the links of removed files", |name| {
            let is_visible = name.to_str().is_some_and(|name| visible.contains(name));
            let path = self.directory.join(name);
            let is_ours = || fs::read_link(&path).is_ok_and(|target| target == Path::new(DATA_LINK).join(name));
            match !is_visible && is_ours() {
                true => fs::remove_file(path),
                false => Ok(()),
            }
        })
    }

    /// Removes all data directories except the current one.
    fn remove_old_directories(&self) -> Result<()> {
        let current = self.current()?.unwrap_or_default();
        self.remove_entries("old files", |name| match is_data_directory(name) && name != current {
            true => fs::remove_dir_all(self.directory.join(name)),
            false => Ok(()),
        })
    }

    fn remove_entries(&self, what: &str, remove: impl Fn(&OsStr) -> io::Result<()>) -> Result<()> {
        let remove_all = || {
            for entry in fs::read_dir(&self.directory)? {
                remove(&entry?.file_name())?;
            }
            Ok::<_, io::Error>(())
        };
        remove_all().with_context(|| format!("cannot remove {what}"))
    }

    /// Creates a directory that every user can read.
    fn set_up_directory(&self, path: &Path) -> io::Result<()> {
        let mut mode = DIRECTORY_MODE;
        if self.fs_group.is_some() {
            chown(path, None, self.fs_group)?;
            mode |= GROUP_DIRECTORY_MODE;
        }
        // Unlike the mode given to mkdir(2), this one is not subject to the umask.
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    fn write_file(&self, path: &Path, file: &FileProjection) -> io::Result<()> {
        let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        new.write_all(&file.content)?;
        let mut mode = file.mode;
        if self.fs_group.is_some() {
            mode |= GROUP_FILE_MODE;
        }
        if file.fs_user.is_some() || self.fs_group.is_some() {
            fchown(&new, file.fs_user, self.fs_group)?;
        }
        new.set_permissions(Permissions::from_mode(mode))
    }
}

/// An update in progress.
#[derive(Debug)]
struct Update<'w> {
    writer: &'w AtomicWriter,
    files: &'w Files,
    /// Name of the new data directory.
    name: String,
}

/// The steps of an update, in the kubelet's order. After each of them, `..data` leads to all the old files or to all the
/// new ones.
const STEPS: [fn(&Update<'_>) -> Result<()>; 6] = [
    |update| update.write_files(),
    |update| update.create_new_data_link(),
    |update| update.swap_data_link(),
    |update| update.writer.add_visible_links(update.files),
    |update| update.writer.remove_stale_links(update.files),
    |update| update.writer.remove_old_directories(),
];

impl<'w> Update<'w> {
    /// Creates the new data directory.
    fn begin(writer: &'w AtomicWriter, files: &'w Files) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        for attempt in 0..NAME_ATTEMPTS {
            let name = directory_name(now.saturating_add(Duration::from_nanos(attempt.into())));
            match DirBuilder::new().mode(0o700).create(writer.directory.join(&name)) {
                Ok(()) => return Ok(Self { writer, files, name }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("cannot create the directory {name}")),
            }
        }
        bail!("cannot find an unused name for a data directory")
    }

    fn write_files(&self) -> Result<()> {
        let root = self.writer.directory.join(&self.name);
        let set_up = |path: &Path| self.writer.set_up_directory(path);
        set_up(&root).with_context(|| format!("cannot set the mode of {}", self.name))?;
        for directory in directories(self.files) {
            let path = root.join(directory);
            fs::create_dir(&path)
                .and_then(|()| set_up(&path))
                .with_context(|| format!("cannot create the directory {}", directory.display()))?;
        }
        for (path, file) in self.files {
            self.writer
                .write_file(&root.join(path), file)
                .with_context(|| format!("cannot write {path}"))?;
        }
        Ok(())
    }

    fn create_new_data_link(&self) -> Result<()> {
        let link = self.writer.directory.join(NEW_DATA_LINK);
        // A failed update may have left the link.
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => symlink(&self.name, &link),
        }
        .with_context(|| format!("cannot create the link {NEW_DATA_LINK}"))
    }

    fn swap_data_link(&self) -> Result<()> {
        let directory = &self.writer.directory;
        fs::rename(directory.join(NEW_DATA_LINK), directory.join(DATA_LINK))
            .with_context(|| format!("cannot replace the link {DATA_LINK}"))
    }

    /// Removes the new directory after an error, so that it does not take up memory. It may be incomplete, so this
    /// ignores further errors; the next update removes what is left.
    fn discard_unless_current(&self) {
        let directory = &self.writer.directory;
        if !self
            .writer
            .current()
            .is_ok_and(|current| current.as_deref() == Some(Path::new(&self.name)))
        {
            let _ = fs::remove_file(directory.join(NEW_DATA_LINK));
            let _ = fs::remove_dir_all(directory.join(&self.name));
        }
    }
}

/// The names in the volume's root: the first component of each path.
fn visible_names(files: &Files) -> BTreeSet<&str> {
    files.keys().filter_map(|path| path.split('/').next()).collect()
}

/// The directories of the files, parents first.
fn directories(files: &Files) -> BTreeSet<&Path> {
    let ancestors = files.keys().flat_map(|path| Path::new(path).ancestors().skip(1));
    ancestors.filter(|path| !path.as_os_str().is_empty()).collect()
}

/// Whether an entry of the volume's root is a directory with a version of the files.
fn is_data_directory(name: &OsStr) -> bool {
    let digits = name.as_bytes().strip_prefix(b"..");
    digits.is_some_and(|digits| digits.first().is_some_and(u8::is_ascii_digit) && !digits.contains(&b'/'))
}

/// The name of a data directory: the time in UTC, with nanoseconds where the kubelet has a random number.
fn directory_name(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs().try_into().unwrap_or_default();
    let mut time = MaybeUninit::<libc::tm>::zeroed();
    // SAFETY: both pointers are valid for the call. All bits zero is a valid tm, so the value is initialized even if the
    // call fails.
    let time = unsafe {
        libc::gmtime_r(&raw const seconds, time.as_mut_ptr());
        time.assume_init()
    };
    format!(
        "..{:04}_{:02}_{:02}_{:02}_{:02}_{:02}.{:09}",
        i64::from(time.tm_year) + 1900,
        time.tm_mon + 1,
        time.tm_mday,
        time.tm_hour,
        time.tm_min,
        time.tm_sec,
        since_epoch.subsec_nanos()
    )
}

#[cfg(test)]
mod tests;
