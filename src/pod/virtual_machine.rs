//! The VMM process of a Pod: what it is given, how it is started, what it reports, how it ends.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use microkube_vmm::config::{
    DiskConfig, DiskSegment, JailConfig, NetConfig, PROTOCOL_VERSION, VmConfig, VmmEvent, VsockConfig,
};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::artifacts::{self, ArtifactError};
use super::patience::KILL_PATIENCE;
use super::vmm_events::VmmEvents;
use super::vsock_link::VsockLink;
use crate::child;
use crate::state::ProcessIdentity;

/// The unprivileged user the VMM runs as: not one of any system's own, so that it owns nothing.
const JAIL_ID: u32 = 0x006d_6b00;

/// Context id of every guest: each VMM has a vsock space of its own.
const GUEST_CID: u32 = 3;

/// Parameters of the guest's kernel. No output on the slow serial console unless something is wrong; a panic resets the
/// machine at once, which ends the VMM. The kernel has no mitigation of SRSO (`guest-image/kernel.config`) and would say so on every
/// boot, at one exit a character, if it were not told that this is known. It makes no dummy and ifb devices that nobody asked for.
const CMDLINE: &str = "console=ttyS0 reboot=k panic=-1 8250.nr_uarts=1 tsc=reliable no_timer_check noreplace-smp \
    spec_rstack_overflow=off dummy.numdummies=0 ifb.numifbs=0";

/// What a Pod's machine is made of.
#[derive(Debug)]
pub struct MachineSpec {
    /// Guest RAM, MiB.
    pub mem_size_mib: u32,
    /// Virtual CPUs.
    pub vcpu_count: u8,
    /// The writable disk, `vda` in the guest.
    pub scratch: File,
    /// Read-only EROFS files with their lengths, one after the other on `vdb`.
    pub layers: Vec<(File, u64)>,
    /// The Pod's TAP and the guest's MAC address.
    pub net: Option<(OwnedFd, [u8; 6])>,
    /// Path of the socket by which a later supervisor finds the guest.
    pub vsock_path: PathBuf,
    /// Whether the kernel writes its whole log to the console.
    pub debug: bool,
    /// Whether the machine goes on when its supervisor dies, for the next one to take over.
    pub outlives_supervisor: bool,
    /// UID of the Pod.
    pub pod_uid: String,
}

/// Name of the scratch disk in the guest.
pub const SCRATCH_DEVICE: &str = "vda";

/// Name of the disk of layers in the guest.
pub const LAYERS_DEVICE: &str = "vdb";

/// A machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// Something microkube was built with is missing.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// A file cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A system call failed.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

fn system(action: &'static str) -> impl FnOnce(std::io::Error) -> MachineError {
    move |source| MachineError::System { action, source }
}

/// A running VMM.
#[derive(Debug)]
pub struct VirtualMachine {
    process: VmmProcess,
    /// The process, for the Pod's record.
    pub identity: Option<ProcessIdentity>,
}

#[derive(Debug)]
enum VmmProcess {
    /// Started by this process.
    Child {
        child: Box<Child>,
        events: Box<VmmEvents<pipe::Receiver>>,
    },
    /// Taken over from a supervisor that died. What it reports is lost; that it ends is not. `None`: it has.
    Adopted(Option<AsyncFd<OwnedFd>>),
}

/// The two streams of a new machine.
#[derive(Debug)]
pub struct MachineStreams {
    /// The Pod's vsock.
    pub vsock: VsockLink,
    /// The serial console, and what the VMM itself has to complain about.
    pub console: pipe::Receiver,
}

impl VirtualMachine {
    /// Starts the VMM.
    ///
    /// # Errors
    /// See [`MachineError`]. What is wrong with the machine itself is reported by [`Self::next_event`].
    pub fn start(spec: MachineSpec) -> Result<(Self, MachineStreams), MachineError> {
        let program = artifacts::vmm_binary()?;
        let guest = artifacts::guest_image()?;
        let kernel = open(&guest.kernel)?;
        let initramfs = open(&guest.initramfs)?;
        let kvm = open_rw(Path::new("/dev/kvm"))?;
        let listener = vsock_listener(&spec.vsock_path).map_err(system("listen on the Pod's vsock socket"))?;
        let (vsock_vmm, vsock) = VsockLink::pair().map_err(system("make a socket"))?;
        let (console_read, console_write) = close_on_exec_pipe().map_err(system("make a pipe"))?;
        let (event_read, event_write) = close_on_exec_pipe().map_err(system("make a pipe"))?;
        let stderr = console_write.try_clone().map_err(system("duplicate a pipe"))?;

        let mut fds: Vec<OwnedFd> = Vec::new();
        let mut give = |fd: OwnedFd| -> RawFd {
            let number = fd.as_raw_fd();
            fds.push(fd);
            number
        };
        let mut disks = vec![DiskConfig {
            segments: vec![DiskSegment {
                length_bytes: spec
                    .scratch
                    .metadata()
                    .map_err(system("look at the scratch disk"))?
                    .len(),
                fd: give(spec.scratch.into()),
            }],
            read_only: false,
        }];
        if !spec.layers.is_empty() {
            let segments = spec.layers.into_iter();
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
            mem_size_mib: spec.mem_size_mib,
            vcpu_count: spec.vcpu_count,
            kvm_fd: give(kvm.into()),
            kernel_fd: give(kernel.into()),
            initramfs_fd: Some(give(initramfs.into())),
            cmdline: format!("{CMDLINE} {}", if spec.debug { "ignore_loglevel" } else { "quiet" }),
            disks,
            net: spec.net.map(|(tap, mac)| NetConfig { tap_fd: give(tap), mac }),
            vsock: Some(VsockConfig {
                guest_cid: GUEST_CID,
                listener_fd: give(listener),
                client_fd: Some(give(vsock_vmm)),
            }),
            console_fd: give(console_write),
            event_fd: Some(give(event_write)),
            jail: Some(JailConfig {
                uid: JAIL_ID,
                gid: JAIL_ID,
            }),
            outlives_supervisor: spec.outlives_supervisor,
        };
        let config_fd = give(config_file(&config).map_err(system("write the VMM's configuration"))?);

        let mut command = Command::new(program);
        command
            .arg("supervised")
            .args(["--config-fd", &config_fd.to_string(), "--pod", &spec.pod_uid])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .kill_on_drop(true);
        let inherited: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let outlives_supervisor = spec.outlives_supervisor;
        child::pass_on(command.as_std_mut(), &inherited);
        // SAFETY: between fork and exec the closure only calls prctl(2), which is async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                // No machine without a supervisor, unless there will be another. The VMM renews this when it changes its user.
                if !outlives_supervisor && libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().map_err(system("start microkube-vmm"))?;
        drop(fds);
        let identity = child.id().and_then(|pid| ProcessIdentity::of(i32::try_from(pid).ok()?));
        let events = pipe::Receiver::from_owned_fd(event_read).map_err(system("read from a pipe"))?;
        let console = pipe::Receiver::from_owned_fd(console_read).map_err(system("read from a pipe"))?;
        Ok((
            Self {
                process: VmmProcess::Child {
                    child: Box::new(child),
                    events: Box::new(VmmEvents::new(events)),
                },
                identity,
            },
            MachineStreams { vsock, console },
        ))
    }

    /// Takes over the VMM that a supervisor before this one started; `None` when it has ended.
    ///
    /// # Errors
    /// [`MachineError::System`].
    pub fn adopt(identity: ProcessIdentity) -> Result<Option<Self>, MachineError> {
        let exit = identity
            .exit_event()
            .map_err(|error| system("look for the Pod's VMM")(std::io::Error::other(error)))?;
        let Some(exit) = exit else { return Ok(None) };
        // SAFETY: an `OwnedFd` gives the same open descriptor as long as it lives, and it lives in the `AsyncFd`.
        let exit = unsafe { AsyncFd::register_with_interest(exit, Interest::READABLE) };
        Ok(Some(Self {
            process: VmmProcess::Adopted(Some(exit.map_err(|error| system("watch the Pod's VMM")(error.into()))?)),
            identity: Some(identity),
        }))
    }

    /// What the VMM reports next; `None` when it has closed its side, which is when it ends.
    pub async fn next_event(&mut self) -> Option<VmmEvent> {
        match &mut self.process {
            VmmProcess::Child { events, .. } => events.next().await,
            VmmProcess::Adopted(exit) => {
                if let Some(exit) = exit {
                    let _ = exit.readable().await;
                }
                None
            }
        }
    }

    /// Gives the VMM some time to end by itself, kills it if it does not, and waits for it.
    pub async fn end(&mut self, patience: Duration) {
        match &mut self.process {
            VmmProcess::Child { child, .. } => {
                if tokio::time::timeout(patience, child.wait()).await.is_err()
                    && let Err(error) = child.kill().await
                {
                    tracing::error!("cannot kill the VMM: {error}");
                }
            }
            VmmProcess::Adopted(exit) => {
                let Some(exit) = exit.take() else { return };
                if tokio::time::timeout(patience, exit.readable()).await.is_ok() {
                    return;
                }
                if let Some(identity) = self.identity.clone() {
                    let killed = tokio::task::spawn_blocking(move || identity.kill(KILL_PATIENCE)).await;
                    if !matches!(killed, Ok(Ok(true))) {
                        tracing::error!("cannot kill the VMM: {killed:?}");
                    }
                }
            }
        }
    }
}

/// The VMMs of a Pod, found by what they were started with: for the case that a supervisor died before it could note the one it had
/// just started.
pub fn unnoted_vmms(pod_uid: &str) -> Vec<ProcessIdentity> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| {
        // Before its arguments are looked at: between the two the PID may get another owner.
        let identity = ProcessIdentity::of(pid)?;
        let directory = PathBuf::from(format!("/proc/{pid}"));
        // Anybody can start a process with such arguments, but not as root or as the jail's user.
        let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&directory).ok()?);
        let arguments = std::fs::read(directory.join("cmdline")).ok()?;
        let mut arguments = arguments.split(|byte| *byte == 0).skip(1);
        let matches = arguments.next() == Some(b"supervised")
            && arguments.skip_while(|argument| *argument != b"--pod").nth(1) == Some(pod_uid.as_bytes());
        (matches && (uid == 0 || uid == JAIL_ID) && identity.is_alive()).then_some(identity)
    })
    .collect()
}

fn open(path: &Path) -> Result<File, MachineError> {
    File::open(path).map_err(|source| MachineError::Open {
        path: path.to_owned(),
        source,
    })
}

fn open_rw(path: &Path) -> Result<File, MachineError> {
    File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(path)
        .map_err(|source| MachineError::Open {
            path: path.to_owned(),
            source,
        })
}

fn close_on_exec_pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = std::io::pipe()?;
    Ok((read.into(), write.into()))
}

fn vsock_listener(path: &Path) -> std::io::Result<OwnedFd> {
    // Of a machine before this one, which is gone: the Pod has one at a time.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&listener, Backlog::new(1)?)?;
    Ok(listener)
}

fn config_file(config: &VmConfig) -> std::io::Result<OwnedFd> {
    use std::io::{Seek, Write};
    // SAFETY: memfd_create(2) only reads the name, a NUL-terminated literal.
    let fd = unsafe { libc::memfd_create(c"vm-config".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor; nobody else owns it.
    let mut file = unsafe { <File as std::os::fd::FromRawFd>::from_raw_fd(fd) };
    serde_json::to_writer(&mut file, config)?;
    file.flush()?;
    file.rewind()?;
    Ok(file.into())
}
