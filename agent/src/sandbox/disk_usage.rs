//! How much of the scratch disk each emptyDir volume and each writable layer uses: ext4 counts it, as the usage of a
//! project (`Documentation/admin-guide/quota.rst`, quotactl_fd(2)).
//!
//! A project is a number on a directory that everything created in it inherits. Only usage is counted: the disk has no
//! limits, because the kubelet evicts Pods that exceed one, and a container must not see a full disk instead. Outside of
//! a user namespace, a container may give its own files to another project (ext4 lets the owner do that). This changes
//! what is counted for its own Pod, and nothing else.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

/// The project of the first volume. 0 is the project of all other files.
const FIRST_VOLUME: u32 = 1;

/// The project of the first container: more than a request can contain volumes.
const FIRST_CONTAINER: u32 = 1 << 24;

/// A project, on a disk that counts usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Project(u32);

/// The usage of the scratch disk by project.
#[derive(Debug)]
pub struct DiskUsage {
    root: File,
    /// The projects of the disk's emptyDir volumes, by name. A volume of the same Pod has the same project in every VM.
    volumes: Vec<(String, Project)>,
    next_container: AtomicU32,
}

impl DiskUsage {
    /// For the file system that is mounted at `root`. Fails if it does not count usage.
    pub fn open(root: &Path) -> io::Result<Self> {
        let root = File::open(root)?;
        used_bytes(root.as_fd(), Project(FIRST_VOLUME))?;
        Ok(Self {
            root,
            volumes: Vec::new(),
            next_container: AtomicU32::new(FIRST_CONTAINER),
        })
    }

    /// Counts what is in the directory of the volume with this position among the Pod's volumes.
    pub fn add_volume(&mut self, position: usize, name: &str, directory: &Path) -> Result<()> {
        let number = u32::try_from(position).ok().and_then(|at| at.checked_add(FIRST_VOLUME));
        let project = Project(
            number
                .filter(|number| *number < FIRST_CONTAINER)
                .context("too many volumes")?,
        );
        assign(directory, project)?;
        self.volumes.push((name.to_owned(), project));
        Ok(())
    }

    /// Counts what will be created in the empty directory of a container.
    pub fn add_container(&self, directory: &Path) -> Result<Project> {
        // No VM starts as many containers as there are numbers; if one did, containers would share a project.
        let project = Project(self.next_container.fetch_add(1, Ordering::Relaxed).max(FIRST_CONTAINER));
        assign(directory, project)?;
        Ok(project)
    }

    /// The volumes that are counted.
    pub fn volumes(&self) -> &[(String, Project)] {
        &self.volumes
    }

    /// How many bytes the files and directories of a project use, including those that have yet to be written.
    pub fn used_bytes(&self, project: Project) -> io::Result<u64> {
        used_bytes(self.root.as_fd(), project)
    }
}

fn assign(directory: &Path, project: Project) -> Result<()> {
    let Project(number) = project;
    set_project(directory, number)
        .with_context(|| format!("cannot count the usage of {} as project {number}", directory.display()))
}

/// `struct fsxattr`, linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// Gives a directory to a project, with everything that is created in it.
fn set_project(directory: &Path, number: u32) -> io::Result<()> {
    const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801c_581f_u32 as libc::Ioctl;
    const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401c_5820_u32 as libc::Ioctl;
    const FS_XFLAG_PROJINHERIT: u32 = 0x200;

    let directory = File::open(directory)?;
    let mut attributes = FsXattr::default();
    // SAFETY: the call writes a struct fsxattr, which outlives it.
    check(unsafe { libc::ioctl(directory.as_raw_fd(), FS_IOC_FSGETXATTR, &raw mut attributes) }.into())?;
    attributes.xflags |= FS_XFLAG_PROJINHERIT;
    attributes.projid = number;
    // SAFETY: the call reads a struct fsxattr, which outlives it.
    check(unsafe { libc::ioctl(directory.as_raw_fd(), FS_IOC_FSSETXATTR, &raw const attributes) }.into())
}

/// `struct if_dqblk`, linux/quota.h.
#[repr(C)]
#[derive(Default)]
struct DiskQuota {
    block_hard_limit: u64,
    block_soft_limit: u64,
    current_bytes: u64,
    inode_hard_limit: u64,
    inode_soft_limit: u64,
    current_inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

fn used_bytes(file_system: BorrowedFd<'_>, project: Project) -> io::Result<u64> {
    /// `QCMD(Q_GETQUOTA, PRJQUOTA)`
    const GET_PROJECT_QUOTA: libc::c_uint = (0x80_0007 << 8) | 2;

    let Project(number) = project;
    let mut quota = DiskQuota::default();
    // SAFETY: the call writes a struct if_dqblk, which outlives it.
    check(unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            file_system.as_raw_fd(),
            GET_PROJECT_QUOTA,
            number,
            &raw mut quota,
        )
    })?;
    Ok(quota.current_bytes)
}

fn check(result: libc::c_long) -> io::Result<()> {
    match result {
        ..0 => Err(io::Error::last_os_error()),
        0.. => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_structures_have_their_sizes() {
        assert_eq!((size_of::<FsXattr>(), size_of::<DiskQuota>()), (28, 72));
    }

    #[test]
    fn a_file_system_without_quotas_counts_nothing() {
        let error = DiskUsage::open(Path::new("/proc")).unwrap_err();
        // A sandbox around the tests may refuse the call.
        let expected = [libc::ENOSYS, libc::EPERM];
        assert!(expected.contains(&error.raw_os_error().unwrap()), "{error}");
    }
}
