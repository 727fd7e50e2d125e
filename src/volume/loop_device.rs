//! Loop devices: block devices whose content is a file. A device disappears with its last user (`LO_FLAGS_AUTOCLEAR`).

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// Other processes may take a free device first; this is the number of attempts.
const ATTEMPTS: usize = 64;

// linux/loop.h
const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_DIRECT_IO: u32 = 16;
const LO_NAME_SIZE: usize = 64;

/// `struct loop_info64`
#[repr(C)]
#[derive(Clone, Copy)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; LO_NAME_SIZE],
    crypt_name: [u8; LO_NAME_SIZE],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

nix::ioctl_none_bad!(loop_get_free, 0x4c82);
nix::ioctl_none_bad!(loop_set_capacity, 0x4c07);
nix::ioctl_read_bad!(loop_get_status, 0x4c05, LoopInfo);
nix::ioctl_write_ptr_bad!(loop_configure, 0x4c0a, LoopConfig);

/// An open loop device.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    device: File,
}

impl LoopDevice {
    fn open(path: PathBuf) -> io::Result<Self> {
        let device = File::options().read(true).write(true).open(&path)?;
        Ok(Self { path, device })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the device as large as its file has become.
    pub fn update_size(&self) -> io::Result<()> {
        // SAFETY: the request takes no argument.
        unsafe { loop_set_capacity(self.device.as_raw_fd()) }?;
        Ok(())
    }

    /// Whether the device has the content of this file.
    fn is_of(&self, file: &File) -> io::Result<bool> {
        let mut info = LoopInfo::EMPTY;
        // SAFETY: the request fills the structure, which outlives the call.
        match unsafe { loop_get_status(self.device.as_raw_fd(), &raw mut info) } {
            Err(Errno::ENXIO) => return Ok(false),
            status => status?,
        };
        let metadata = file.metadata()?;
        Ok((info.device, info.inode) == (metadata.dev(), metadata.ino()))
    }
}

impl LoopInfo {
    const EMPTY: Self = Self {
        device: 0,
        inode: 0,
        rdevice: 0,
        offset: 0,
        size_limit: 0,
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: 0,
        file_name: [0; LO_NAME_SIZE],
        crypt_name: [0; LO_NAME_SIZE],
        encrypt_key: [0; 32],
        init: [0; 2],
    };
}

/// The device that has the content of a file: one that exists, or a new one. Callers prevent that two processes do this
/// at the same time for the same file.
pub fn of(file: &File, path: &Path) -> io::Result<LoopDevice> {
    if let Some(device) = existing(file, path)? {
        return Ok(device);
    }
    let control = File::options().read(true).write(true).open("/dev/loop-control")?;
    for _ in 0..ATTEMPTS {
        // SAFETY: the request takes no argument.
        let number = unsafe { loop_get_free(control.as_raw_fd()) }?;
        let device = LoopDevice::open(PathBuf::from(format!("/dev/loop{number}")))?;
        let config = LoopConfig {
            fd: u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?,
            block_size: 0,
            info: LoopInfo {
                flags: LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO,
                ..LoopInfo::EMPTY
            },
            reserved: [0; 8],
        };
        // SAFETY: the request reads the structure, which outlives the call.
        match unsafe { loop_configure(device.device.as_raw_fd(), &raw const config) } {
            Err(Errno::EBUSY) => {}
            configured => {
                configured?;
                return Ok(device);
            }
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// Finds a device by the path of its file, which the kernel shows without symbolic links.
fn existing(file: &File, path: &Path) -> io::Result<Option<LoopDevice>> {
    let path = fs::canonicalize(path)?;
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        let Ok(backing) = fs::read_to_string(entry.path().join("loop/backing_file")) else {
            continue;
        };
        if Path::new(backing.trim_end_matches('\n')) != path {
            continue;
        }
        // It may be disappearing.
        let Ok(device) = LoopDevice::open(Path::new("/dev").join(entry.file_name())) else {
            continue;
        };
        if device.is_of(file)? {
            return Ok(Some(device));
        }
    }
    Ok(None)
}
