//! The VMM process of a Pod: its configuration, and how it is started, found again and ended. Its reports and the
//! guest's data are read elsewhere.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use microkube_base::child;
use microkube_vmm::config::{
    DiskConfig, DiskSegment, FsConfig, JailConfig, NetConfig, PROTOCOL_VERSION, VmConfig, VsockConfig,
};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect as connect_socket, listen, socket, socketpair,
};
use tokio::process::{Child, Command};

use super::artifacts::{self, ArtifactError};
use super::file_server::{FileServerError, Share};
use crate::state::{ProcessError, ProcessIdentity};

/// The unprivileged user and group of VMMs. It is outside the ranges of system users, so it owns no files.
const JAIL_ID: u32 = 0x006d_6b00;

/// Context id of every guest: each VMM has a separate vsock address space.
const GUEST_CID: u32 = 3;

/// Parameters of the guest kernel. It prints to the slow serial console only if something is wrong, and a panic resets
/// the VM immediately, which ends the VMM. The kernel has no SRSO mitigation (`guest-image/kernel.config`) and would
/// print a warning about it on every boot, with one exit per character, unless the parameters turn it off. The ITS
/// mitigation needs no parameter, because the kernel prints a warning only if a parameter turns it off. The last two
/// parameters keep it from creating unused dummy and ifb devices.
const CMDLINE: &str = "console=ttyS0 reboot=k panic=-1 8250.nr_uarts=1 tsc=reliable no_timer_check noreplace-smp \
    spec_rstack_overflow=off dummy.numdummies=0 ifb.numifbs=0";

/// Name of the scratch disk in the guest.
pub const SCRATCH_DEVICE: &str = "vda";

/// Name of the layers disk in the guest.
pub const LAYERS_DEVICE: &str = "vdb";

/// The resources of a Pod's VM.
#[derive(Debug)]
pub struct VmmRequest {
    /// Guest RAM, MiB.
    pub mem_size_mib: u32,
    pub vcpu_count: u8,
    /// The writable disk, [`SCRATCH_DEVICE`] in the guest.
    pub scratch: File,
    /// Read-only EROFS files with their lengths, laid out one after another on [`LAYERS_DEVICE`].
    pub layers: Vec<(File, u64)>,
    /// The Pod's TAP and the guest's MAC address.
    pub net: Option<(OwnedFd, [u8; 6])>,
    /// Files of the host; a file server starts if there are any.
    pub shares: Vec<Share>,
    /// Whether the Pod has its own user namespace, so the guest shows the shares' files as those of other users.
    pub maps_users: bool,
    /// Whether the kernel writes its whole log to the console.
    pub debug: bool,
    /// Whether the VM keeps running when its supervisor dies, for the next one to take over.
    pub outlives_supervisor: bool,
}

/// A started VMM. Closing these descriptors does not end it; its owner does (`PodPrivileges::kill_vmm`).
#[derive(Debug)]
pub struct StartedVmm {
    /// The process; `None` if it has already ended.
    pub identity: Option<ProcessIdentity>,
    /// Becomes readable when the process ends; `None` if it has.
    pub exit: Option<OwnedFd>,
    /// A pipe with its events, one line of JSON each.
    pub events: OwnedFd,
    /// A pipe with the serial console and the VMM's own error messages.
    pub console: OwnedFd,
    /// The control socket of the guest's vsock (`microkube_vmm::vsock_control`).
    pub vsock: OwnedFd,
}

/// A VMM could not be started, reached or ended.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// An installed file is missing.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The file server did not start.
    #[error(transparent)]
    FileServer(#[from] FileServerError),
    /// A file could not be opened.
    #[error("cannot open {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// No process listens on the VMM's socket.
    #[error("cannot connect to the Pod's VMM at {path}")]
    Connect {
        /// Path of the socket.
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The process with this PID is not a VMM of the Pod.
    #[error("process {0} is not a VMM of the Pod")]
    NotOfPod(i32),
    /// The process could not be examined or killed.
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("cannot {action}")]
    System {
        /// The operation that failed.
        action: &'static str,
        #[source]
        source: io::Error,
    },
}

fn system(action: &'static str) -> impl FnOnce(io::Error) -> VmmError {
    move |source| VmmError::System { action, source }
}

/// The error for an operation whose thread ended early.
pub fn ended(error: tokio::task::JoinError) -> VmmError {
    system("finish an operation on the Pod's VMM")(error.into())
}

/// Starts the VMM of the Pod `uid`, which listens on `socket` for later supervisors. `file_server` is the socket of the
/// Pod's file server, if it has one.
pub fn start(
    uid: &str,
    socket: &Path,
    request: VmmRequest,
    file_server: Option<OwnedFd>,
) -> Result<StartedVmm, VmmError> {
    let program = artifacts::vmm_binary()?;
    let guest = artifacts::guest_image()?;
    let kernel = open(&guest.kernel)?;
    let initramfs = open(&guest.initramfs)?;
    let kvm = open_rw(Path::new("/dev/kvm"))?;
    let listener = listen_at(socket).map_err(system("listen on the Pod's vsock socket"))?;
    let (vsock_vmm, vsock) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|error| system("create a socket")(error.into()))?;
    let (console, console_write) = close_on_exec_pipe().map_err(system("create a pipe"))?;
    let (events, event_write) = close_on_exec_pipe().map_err(system("create a pipe"))?;
    let stderr = nonblocking_writer(&console_write).map_err(system("reopen a pipe"))?;

    let mut fds: Vec<OwnedFd> = Vec::new();
    let mut give = |fd: OwnedFd| -> RawFd {
        let number = fd.as_raw_fd();
        fds.push(fd);
        number
    };
    let mut disks = vec![DiskConfig {
        segments: vec![DiskSegment {
            length_bytes: request
                .scratch
                .metadata()
                .map_err(system("examine the scratch disk"))?
                .len(),
            fd: give(request.scratch.into()),
        }],
        read_only: false,
    }];
    if !request.layers.is_empty() {
        let segments = request.layers.into_iter();
        disks.push(DiskConfig {
            segments: segments
                .map(|(file, length_bytes)| DiskSegment {
                    fd: give(file.into()),
                    length_bytes,
                })
                .collect(),
            read_only: true,
        });
    }
    let config = VmConfig {
        version: PROTOCOL_VERSION,
        mem_size_mib: request.mem_size_mib,
        vcpu_count: request.vcpu_count,
        kvm_fd: give(kvm.into()),
        kernel_fd: give(kernel.into()),
        initramfs_fd: Some(give(initramfs.into())),
        cmdline: format!("{CMDLINE} {}", if request.debug { "ignore_loglevel" } else { "quiet" }),
        disks,
        net: request.net.map(|(tap, mac)| NetConfig { tap_fd: give(tap), mac }),
        vsock: Some(VsockConfig {
            guest_cid: GUEST_CID,
            listener_fd: give(listener),
            client_fd: Some(give(vsock_vmm)),
        }),
        fs: file_server.map(|server| FsConfig {
            server_fd: give(server),
        }),
        console_fd: give(console_write),
        event_fd: Some(give(event_write)),
        jail: Some(JailConfig {
            uid: JAIL_ID,
            gid: JAIL_ID,
        }),
        outlives_supervisor: request.outlives_supervisor,
    };
    let config_fd = give(config_file(&config).map_err(system("write the VMM's configuration"))?);

    let mut command = Command::new(program);
    command
        .arg("supervised")
        .args(["--config-fd", &config_fd.to_string(), "--pod", uid])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .kill_on_drop(true);
    let inherited: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let outlives_supervisor = request.outlives_supervisor;
    child::pass_on(command.as_std_mut(), &inherited);
    // SAFETY: between fork and exec the closure only calls prctl(2), which is async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            // The VM must not outlive its supervisor, unless another one will take over. The VMM sets this again
            // when it changes its user.
            if !outlives_supervisor && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let mut child = command.spawn().map_err(system("start microkube-vmm"))?;
    drop(fds);
    let (identity, exit) = watch(&mut child)?;
    // The descriptor reports its end; this only reaps the process.
    tokio::spawn(async move { child.wait().await });
    Ok(StartedVmm {
        identity,
        exit,
        events,
        console,
        vsock,
    })
}

/// The VMM's identity, and a descriptor that reports its end. It has not been reaped, so its PID cannot have been
/// reused.
fn watch(child: &mut Child) -> Result<(Option<ProcessIdentity>, Option<OwnedFd>), VmmError> {
    let identity = child.id().and_then(|pid| ProcessIdentity::of(i32::try_from(pid).ok()?));
    match identity {
        Some(identity) => {
            let exit = identity.exit_event()?;
            Ok((Some(identity), exit))
        }
        None => match child.try_wait().map_err(system("wait for microkube-vmm"))? {
            Some(_) => Ok((None, None)),
            // A process without an identity could not be ended later; dropping it ends it now.
            None => Err(system("identify microkube-vmm")(io::ErrorKind::NotFound.into())),
        },
    }
}

/// Connects to the socket at `path`. The Pod's directory will belong to its supervisor, who may put a symbolic link
/// there.
pub fn connect(path: &Path) -> Result<OwnedFd, VmmError> {
    let connected = || -> io::Result<OwnedFd> {
        let found = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
            .open(path)?;
        if !found.metadata()?.file_type().is_socket() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let client = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        let found = PathBuf::from(format!("/proc/self/fd/{}", found.as_raw_fd()));
        connect_socket(client.as_raw_fd(), &UnixAddr::new(&found)?)?;
        Ok(client)
    };
    connected().map_err(|source| VmmError::Connect {
        path: path.to_owned(),
        source,
    })
}

/// Kills a VMM of the Pod and waits up to `patience` for it to end; returns whether it has. A VMM cannot evade this: if
/// its guest has taken control of it, it can change its arguments, but not its user.
pub fn kill(uid: &str, vmm: &ProcessIdentity, patience: Duration) -> Result<bool, VmmError> {
    match kind_of(vmm.pid(), uid) {
        ProcessKind::VmmOfPod | ProcessKind::Jailed | ProcessKind::Nameless => Ok(vmm.kill(patience)?),
        // Check this last: the arguments may be those of a process that has reused the PID.
        ProcessKind::Other if vmm.exit_event()?.is_none() => Ok(true),
        ProcessKind::Other => Err(VmmError::NotOfPod(vmm.pid())),
    }
}

/// Kills the recorded VMM and all others of the Pod. Returns whether all have ended.
pub fn end_all(uid: &str, noted: Option<ProcessIdentity>, patience: Duration) -> Result<bool, VmmError> {
    let mut vmms = found(uid);
    vmms.retain(|vmm| Some(vmm) != noted.as_ref());
    let (mut all_ended, mut failure) = (true, None);
    for vmm in noted.into_iter().chain(vmms) {
        match kill(uid, &vmm, patience) {
            Ok(has_ended) => all_ended &= has_ended,
            // The record is wrong: the process it names does not belong to the Pod.
            Err(error @ VmmError::NotOfPod(_)) => tracing::warn!("not killed: {error}"),
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(all_ended), Err)
}

/// Finds the VMMs of a Pod by their arguments.
fn found(uid: &str) -> Vec<ProcessIdentity> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        // Get the identity before reading the arguments: the PID may be reused in between.
        let identity = ProcessIdentity::of(pid)?;
        (kind_of(pid, uid) == ProcessKind::VmmOfPod && identity.is_alive()).then_some(identity)
    })
    .collect()
}

/// How a process relates to a Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ProcessKind {
    VmmOfPod,
    /// It runs as the VMMs' user, whatever its arguments.
    Jailed,
    /// It has no arguments: it is starting, has ended, or has cleared them.
    Nameless,
    Other,
}

fn kind_of(pid: i32, uid: &str) -> ProcessKind {
    let directory = PathBuf::from(format!("/proc/{pid}"));
    let (Ok(metadata), Ok(arguments)) = (std::fs::metadata(&directory), std::fs::read(directory.join("cmdline")))
    else {
        return ProcessKind::Nameless;
    };
    if arguments.is_empty() {
        return ProcessKind::Nameless;
    }
    let mut arguments = arguments.split(|byte| *byte == 0).skip(1);
    let matches = arguments.next() == Some(b"supervised")
        && arguments.skip_while(|argument| *argument != b"--pod").nth(1) == Some(uid.as_bytes());
    // Any user can start a process with such arguments, but only root can start one as root, the jail's user or this
    // user.
    let owner = std::os::unix::fs::MetadataExt::uid(&metadata);
    let owners = [0, JAIL_ID, nix::unistd::geteuid().as_raw()];
    if matches && owners.contains(&owner) {
        ProcessKind::VmmOfPod
    } else if real_uid(&directory) == Some(JAIL_ID) {
        ProcessKind::Jailed
    } else {
        ProcessKind::Other
    }
}

/// The real user of a process. Its directory in `/proc` may belong to root even so.
fn real_uid(directory: &Path) -> Option<u32> {
    let status = std::fs::read_to_string(directory.join("status")).ok()?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    uids.split_whitespace().next()?.parse().ok()
}

fn open(path: &Path) -> Result<File, VmmError> {
    File::open(path).map_err(|source| VmmError::Open {
        path: path.to_owned(),
        source,
    })
}

fn open_rw(path: &Path) -> Result<File, VmmError> {
    File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(path)
        .map_err(|source| VmmError::Open {
            path: path.to_owned(),
            source,
        })
}

fn close_on_exec_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = io::pipe()?;
    Ok((read.into(), write.into()))
}

/// A writer for the VMM's reports: a separate open file description of the pipe, which can be non-blocking while the
/// console blocks on the same pipe. The VMM must never block on its reports if a supervisor does not read.
fn nonblocking_writer(pipe: &OwnedFd) -> io::Result<File> {
    File::options()
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(format!("/proc/self/fd/{}", pipe.as_raw_fd()))
}

fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    // Left by an earlier VM, which has ended: a Pod has one at a time.
    remove_socket(path)?;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&listener, Backlog::new(1)?)?;
    Ok(listener)
}

/// Removes the socket of a VMM that has ended, if it exists.
pub fn remove_socket(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn config_file(config: &VmConfig) -> io::Result<OwnedFd> {
    use std::io::{Seek, Write};
    // SAFETY: memfd_create(2) only reads the name, a NUL-terminated literal.
    let fd = unsafe { libc::memfd_create(c"vm-config".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just created this descriptor, and nothing else owns it.
    let mut file = unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(fd) };
    serde_json::to_writer(&mut file, config)?;
    file.flush()?;
    file.rewind()?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Write};

    use super::*;

    #[test]
    fn a_process_is_identified_by_its_user_and_not_its_arguments() {
        let own = nix::unistd::getuid().as_raw();
        assert_eq!(real_uid(Path::new("/proc/self")), Some(own));
        assert_eq!(real_uid(Path::new("/proc/none")), None);
    }

    #[test]
    fn the_vmms_stderr_never_blocks_and_its_console_does() {
        let (_read, console) = close_on_exec_pipe().unwrap();
        let mut stderr = nonblocking_writer(&console).unwrap();
        let full = loop {
            if let Err(error) = stderr.write(&[b'x'; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        // SAFETY: fcntl(2) with this command only takes a descriptor.
        let flags = unsafe { libc::fcntl(console.as_raw_fd(), libc::F_GETFL) };
        assert_eq!(flags & libc::O_NONBLOCK, 0);
    }
}
