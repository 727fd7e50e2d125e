//! Runs a virtual machine for a supervisor. The configuration and everything else it needs come through descriptors.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use kvm_ioctls::Kvm;
use serde::Deserialize;

use crate::causes::with_causes;
use crate::config::{DiskConfig, FsConfig, NetConfig, PROTOCOL_VERSION, VmConfig, VmmEvent, VsockConfig};
use crate::cpu::vcpu::GuestEnd;
use crate::devices::blk::disk::{Disk, DiskError};
use crate::devices::fs::worker::FsBackend;
use crate::devices::net::tap::{Tap, TapError};
use crate::devices::vsock::worker::VsockBackend;
use crate::jail::{self, JailError};
use crate::vm::{Vm, VmError, VmParts};

/// Maximum length of a configuration in bytes. A disk of a thousand segments needs less than a tenth of it.
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Why a supervised VM could not be run.
#[derive(Debug, thiserror::Error)]
pub enum SupervisedError {
    #[error("cannot read the configuration from descriptor {fd}")]
    Read {
        fd: RawFd,
        #[source]
        source: io::Error,
    },
    #[error("the configuration has more than {MAX_CONFIG_BYTES} bytes")]
    TooLong,
    #[error(
        "the supervisor speaks VMM protocol version {found}, this microkube-vmm versions up to {PROTOCOL_VERSION}: install \
         microkube-vmm of the same build as microkube"
    )]
    Version { found: u64 },
    #[error("the configuration is invalid")]
    Parse(#[source] serde_json::Error),
    #[error("{what}: descriptor {fd} is not open")]
    NotOpen {
        what: String,
        fd: RawFd,
        #[source]
        source: io::Error,
    },
    #[error("{what}: descriptor {fd} is already used for something else")]
    UsedTwice { what: String, fd: RawFd },
    #[error("invalid guest context ID {0}: 0 to 2 and 4294967295 are reserved")]
    GuestCid(u32),
    #[error("cannot use disk {index}")]
    Disk {
        index: usize,
        #[source]
        source: DiskError,
    },
    #[error("cannot use the TAP")]
    Tap(#[source] TapError),
    #[error("cannot use the sockets of the vsock device")]
    Vsock(#[source] io::Error),
    #[error("cannot use the socket to the file server")]
    Fs(#[source] io::Error),
    #[error("cannot enter the jail")]
    Jail(#[from] JailError),
    #[error(transparent)]
    Vm(#[from] VmError),
}

/// Takes over inherited descriptors, each only once.
#[derive(Debug, Default)]
struct Inherited {
    taken: Vec<RawFd>,
}

impl Inherited {
    fn take(&mut self, fd: RawFd, what: impl Into<String>) -> Result<OwnedFd, SupervisedError> {
        let what = what.into();
        if self.taken.contains(&fd) {
            return Err(SupervisedError::UsedTwice { what, fd });
        }
        // SAFETY: fcntl fails if the descriptor is not open.
        if fd < 0 || unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
            return Err(SupervisedError::NotOpen {
                what,
                fd,
                source: io::Error::last_os_error(),
            });
        }
        self.taken.push(fd);
        // SAFETY: it is open, and handed out only once; no other code in this process uses the descriptors it
        // inherited.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    fn file(&mut self, fd: RawFd, what: impl Into<String>) -> Result<File, SupervisedError> {
        self.take(fd, what).map(File::from)
    }
}

/// The part of a configuration that every version understands: enough to report that the rest is not understood.
#[derive(Deserialize)]
struct ConfigHead {
    #[serde(default)]
    version: u64,
    event_fd: Option<RawFd>,
}

/// Parses a configuration.
fn parse_config(text: &[u8], version: u64) -> Result<VmConfig, SupervisedError> {
    if version > PROTOCOL_VERSION.into() {
        return Err(SupervisedError::Version { found: version });
    }
    serde_json::from_slice(text).map_err(SupervisedError::Parse)
}

/// Reads the configuration to its end.
fn read_config(fd: RawFd, inherited: &mut Inherited) -> Result<Vec<u8>, SupervisedError> {
    let file = inherited.file(fd, "the configuration")?;
    // Standard streams that the configuration may name stay open; the configuration's own number is free afterwards.
    let mut text = Vec::new();
    file.take(MAX_CONFIG_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(|source| SupervisedError::Read { fd, source })?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(SupervisedError::TooLong);
    }
    Ok(text)
}

/// Reports to the supervisor. If the supervisor is gone, the VM continues: the next one will examine the process.
#[derive(Debug)]
struct Reporter(Option<File>);

impl Reporter {
    fn report(&mut self, event: &VmmEvent) {
        let Some(file) = &mut self.0 else { return };
        if let Ok(mut line) = serde_json::to_vec(event) {
            line.push(b'\n');
            if file.write_all(&line).is_err() {
                self.0 = None;
            }
        }
    }
}

fn take_disk(
    index: usize,
    config: &DiskConfig,
    inherited: &mut Inherited,
    reporter: &Reporter,
) -> Result<Disk, SupervisedError> {
    let mut files = Vec::with_capacity(config.segments.len());
    for (part, segment) in config.segments.iter().enumerate() {
        files.push((
            inherited.file(segment.fd, format!("disk {index}, segment {part}"))?,
            segment.length_bytes,
        ));
    }
    let disk = Disk::new(files, config.read_only).map_err(|source| SupervisedError::Disk { index, source })?;
    // Failures of layers are not reported: their host files are whole, or the Pod would not have started, so the guest
    // must have tried to write to them.
    let events = reporter.0.as_ref().filter(|_| !config.read_only);
    // Without a second descriptor, the failure appears only in the VM's log.
    Ok(disk.reporting_to(events.and_then(|events| events.try_clone().ok())))
}

fn take_net(config: &NetConfig, inherited: &mut Inherited) -> Result<(Tap, [u8; 6]), SupervisedError> {
    let tap = Tap::new(inherited.file(config.tap_fd, "the TAP")?).map_err(SupervisedError::Tap)?;
    Ok((tap, config.mac))
}

fn take_vsock(config: &VsockConfig, inherited: &mut Inherited) -> Result<(u32, VsockBackend), SupervisedError> {
    if matches!(config.guest_cid, 0..=2 | u32::MAX) {
        return Err(SupervisedError::GuestCid(config.guest_cid));
    }
    let listener = inherited.take(config.listener_fd, "the vsock listener")?;
    let client = config
        .client_fd
        .map(|fd| inherited.take(fd, "the vsock client"))
        .transpose()?;
    let backend = VsockBackend::new(config.guest_cid, listener, client).map_err(SupervisedError::Vsock)?;
    Ok((config.guest_cid, backend))
}

fn take_fs(config: &FsConfig, inherited: &mut Inherited) -> Result<FsBackend, SupervisedError> {
    let socket = inherited.take(config.server_fd, "the socket to the file server")?;
    FsBackend::new(socket).map_err(SupervisedError::Fs)
}

fn take_parts(config: VmConfig, inherited: &mut Inherited, reporter: &Reporter) -> Result<VmParts, SupervisedError> {
    use std::os::fd::IntoRawFd;
    let kvm = inherited.take(config.kvm_fd, "/dev/kvm")?;
    // SAFETY: the descriptor is ours and given away here.
    let kvm = unsafe { Kvm::from_raw_fd(kvm.into_raw_fd()) };
    let confined = config.jail.is_some();
    let disks = config.disks.iter().enumerate();
    Ok(VmParts {
        kvm,
        mem_size_mib: config.mem_size_mib,
        vcpu_count: config.vcpu_count,
        kernel: inherited.file(config.kernel_fd, "the kernel")?,
        initramfs: config
            .initramfs_fd
            .map(|fd| inherited.file(fd, "the initramfs"))
            .transpose()?,
        cmdline: config.cmdline,
        disks: disks
            .map(|(index, disk)| take_disk(index, disk, inherited, reporter))
            .collect::<Result<_, _>>()?,
        net: config.net.as_ref().map(|net| take_net(net, inherited)).transpose()?,
        vsock: config
            .vsock
            .as_ref()
            .map(|vsock| take_vsock(vsock, inherited))
            .transpose()?,
        fs: config.fs.as_ref().map(|fs| take_fs(fs, inherited)).transpose()?,
        console: inherited.file(config.console_fd, "the console")?,
        confined,
    })
}

/// Maximum size of a file that is not a disk, in bytes: standard error and the console, if they are files.
const MAX_LOG_BYTES: u64 = 16 << 20;

/// Length of the largest file that the VM must be able to write.
fn largest_file(config: &VmConfig) -> u64 {
    let written = config.disks.iter().filter(|disk| !disk.read_only);
    let segments = written.flat_map(|disk| &disk.segments);
    segments
        .map(|segment| segment.length_bytes)
        .fold(MAX_LOG_BYTES, u64::max)
}

/// CLOCK_MONOTONIC in nanoseconds.
fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes a timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Runs the VM that the configuration on descriptor `config_fd` describes to its end, and reports what happens.
pub fn run(config_fd: RawFd) -> Result<(), SupervisedError> {
    let mut inherited = Inherited::default();
    let text = read_config(config_fd, &mut inherited)?;
    let head: ConfigHead = serde_json::from_slice(&text).map_err(SupervisedError::Parse)?;
    // The file was closed when it had been read; `taken` prevents its number from being used again.
    let event = head
        .event_fd
        .map(|fd| inherited.file(fd, "the event pipe"))
        .transpose()?;
    let mut reporter = Reporter(event);
    let config = parse_config(&text, head.version);
    let result = config.and_then(|config| run_config(config, &mut inherited, &mut reporter));
    match &result {
        Ok(end) => reporter.report(&VmmEvent::GuestStopped {
            triple_fault: *end == GuestEnd::TripleFault,
        }),
        Err(error) => reporter.report(&VmmEvent::Failed {
            message: with_causes(error),
        }),
    }
    result.map(|_| ())
}

fn run_config(
    config: VmConfig,
    inherited: &mut Inherited,
    reporter: &mut Reporter,
) -> Result<GuestEnd, SupervisedError> {
    let (jail, outlives_supervisor) = (config.jail.clone(), config.outlives_supervisor);
    let largest_file = largest_file(&config);
    if jail.is_some() {
        // Before this process opens anything.
        jail::descriptors::close_all_but(&config.descriptors())?;
    }
    let parts = take_parts(config, inherited, reporter)?;
    // While there is only one thread, and after everything that needs privileges has been opened or configured.
    if let Some(jail) = &jail {
        jail::enter(jail, outlives_supervisor, largest_file)?;
    }
    let vm = Vm::new(parts)?;
    reporter.report(&VmmEvent::Started {
        monotonic_ns: monotonic_ns(),
    });
    Ok(vm.run()?)
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;
    use crate::causes::with_causes;
    use crate::config::DiskSegment;

    fn config_pipe(text: &[u8]) -> RawFd {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(text).unwrap();
        OwnedFd::from(reader).into_raw_fd()
    }

    #[test]
    fn a_descriptor_can_be_taken_only_once_and_only_if_open() {
        let mut inherited = Inherited::default();
        let fd = config_pipe(b"");
        let _owned = inherited.take(fd, "one").unwrap();
        assert!(matches!(
            inherited.take(fd, "two"),
            Err(SupervisedError::UsedTwice { .. })
        ));
        assert!(matches!(
            inherited.take(-1, "three"),
            Err(SupervisedError::NotOpen { .. })
        ));
        assert!(matches!(
            inherited.take(1 << 20, "four"),
            Err(SupervisedError::NotOpen { .. })
        ));
    }

    #[test]
    fn a_configuration_with_an_unknown_field_is_refused() {
        let error = run(config_pipe(br#"{"mem_size_mib": 1, "surprise": 2}"#)).unwrap_err();
        assert!(matches!(&error, SupervisedError::Parse(_)));
        assert!(with_causes(&error).contains("surprise"));
    }

    #[test]
    fn a_configuration_of_a_newer_supervisor_is_refused_and_reported() {
        let (mut events, writer) = io::pipe().unwrap();
        let event_fd = OwnedFd::from(writer).into_raw_fd();
        let text = format!(r#"{{"version": 4, "event_fd": {event_fd}, "memory": {{"mib": 64}}}}"#);
        let error = run(config_pipe(text.as_bytes())).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the supervisor speaks VMM protocol version 4, this microkube-vmm versions up to 3: install microkube-vmm of the same \
             build as microkube"
        );
        let mut reported = String::new();
        events.read_to_string(&mut reported).unwrap();
        let event: VmmEvent = serde_json::from_str(reported.trim_end()).unwrap();
        assert_eq!(
            event,
            VmmEvent::Failed {
                message: error.to_string()
            }
        );
    }

    /// A configuration from a supervisor of the last build without versions.
    const VERSION_0: &str = r#"{"mem_size_mib":256,"vcpu_count":2,"kvm_fd":11,"kernel_fd":12,"initramfs_fd":13,"cmdline":"quiet",
        "disks":[{"segments":[{"fd":14,"length_bytes":17179869184}],"read_only":false},
        {"segments":[{"fd":15,"length_bytes":4096},{"fd":16,"length_bytes":8192}],"read_only":true}],
        "net":{"tap_fd":17,"mac":[2,0,10,88,0,2]},"vsock":{"guest_cid":3,"listener_fd":18,"client_fd":19},"console_fd":20,"event_fd":21,
        "jail":{"uid":7170816,"gid":7170816},"outlives_supervisor":true}"#;

    #[test]
    fn configurations_of_all_versions_are_parsed_and_a_jail_is_never_ignored() {
        let old = parse_config(VERSION_0.as_bytes(), 0).unwrap();
        assert_eq!((old.version, old.disks.len(), old.outlives_supervisor), (0, 2, true));
        assert_eq!(old.jail.as_ref().map(|jail| jail.uid), Some(7_170_816));
        let new = VmConfig {
            version: PROTOCOL_VERSION,
            fs: Some(FsConfig { server_fd: 22 }),
            ..old
        };
        let text = VERSION_0.replacen('{', r#"{"version":1,"#, 1);
        assert_eq!(parse_config(text.as_bytes(), 1).unwrap().version, 1);
        let text = VERSION_0.replacen('{', r#"{"version":2,"#, 1);
        let version_2 = parse_config(text.as_bytes(), 2).unwrap();
        assert_eq!((version_2.version, &version_2.fs), (2, &None));
        let text = VERSION_0.replacen('{', r#"{"version":3,"fs":{"server_fd":22},"#, 1);
        assert_eq!(parse_config(text.as_bytes(), 3).unwrap(), new);
        let written: serde_json::Value = serde_json::to_value(&new).unwrap();
        assert_eq!(written, serde_json::from_str::<serde_json::Value>(&text).unwrap());
        let strange = VERSION_0.replacen('{', r#"{"seccomp":"strict","#, 1);
        assert!(parse_config(strange.as_bytes(), 0).is_err());
    }

    #[test]
    fn unread_reports_neither_end_nor_block_the_vm() {
        let (events, writer) = io::pipe().unwrap();
        let mut reporter = Reporter(Some(File::from(OwnedFd::from(writer))));
        let started = VmmEvent::Started { monotonic_ns: 1 };
        reporter.report(&started);
        drop(events);
        reporter.report(&started);
        assert!(reporter.0.is_none());
        reporter.report(&VmmEvent::GuestStopped { triple_fault: false });
    }

    #[test]
    fn a_vm_dies_with_its_supervisor_by_default() {
        let text = r#"{"mem_size_mib": 64, "vcpu_count": 1, "kvm_fd": 3, "kernel_fd": 4, "initramfs_fd": null, "cmdline": "",
            "disks": [], "net": null, "vsock": null, "console_fd": 5, "event_fd": null, "jail": null}"#;
        let config: VmConfig = serde_json::from_str(text).unwrap();
        assert!(!config.outlives_supervisor);
    }

    #[test]
    fn the_file_size_limit_is_the_longest_segment_of_a_writable_disk() {
        let disk = |read_only, length_bytes| DiskConfig {
            segments: vec![DiskSegment { fd: 9, length_bytes }],
            read_only,
        };
        let mut config = config();
        assert_eq!(largest_file(&config), MAX_LOG_BYTES);
        config.disks = vec![disk(false, 4096), disk(false, 8 << 30), disk(true, 1 << 40)];
        assert_eq!(largest_file(&config), 8 << 30);
    }

    fn config() -> VmConfig {
        VmConfig {
            version: PROTOCOL_VERSION,
            mem_size_mib: 64,
            vcpu_count: 1,
            kvm_fd: 1 << 20,
            kernel_fd: 1 << 21,
            initramfs_fd: None,
            cmdline: String::new(),
            disks: Vec::new(),
            net: None,
            vsock: None,
            fs: None,
            console_fd: 1 << 22,
            event_fd: None,
            jail: None,
            outlives_supervisor: false,
        }
    }

    #[test]
    fn every_descriptor_of_a_configuration_is_listed() {
        let config = VmConfig {
            initramfs_fd: Some(10),
            disks: vec![DiskConfig {
                segments: [11, 12].map(|fd| DiskSegment { fd, length_bytes: 4096 }).into(),
                read_only: true,
            }],
            net: Some(NetConfig {
                tap_fd: 13,
                mac: [2; 6],
            }),
            vsock: Some(VsockConfig {
                guest_cid: 3,
                listener_fd: 14,
                client_fd: Some(15),
            }),
            fs: Some(FsConfig { server_fd: 16 }),
            event_fd: Some(17),
            ..config()
        };
        // The JSON text has as many descriptors, recognised by the end of their names.
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(text.matches("fd\":").count(), config.descriptors().len());
        assert!((10..18).all(|fd| config.descriptors().contains(&fd)));
    }

    #[test]
    fn a_failure_is_reported_as_an_event_with_its_causes() {
        let (mut events, writer) = io::pipe().unwrap();
        let config = VmConfig {
            event_fd: Some(OwnedFd::from(writer).into_raw_fd()),
            ..config()
        };
        assert!(run(config_pipe(&serde_json::to_vec(&config).unwrap())).is_err());
        let mut text = String::new();
        events.read_to_string(&mut text).unwrap();
        let event: VmmEvent = serde_json::from_str(text.trim_end()).unwrap();
        assert!(
            matches!(event, VmmEvent::Failed { message } if message.contains("/dev/kvm: descriptor 1048576 is not open"))
        );
    }
}
