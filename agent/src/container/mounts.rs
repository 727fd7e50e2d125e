//! The mounts of a container, in mount order. The rules are containerd's (`WithMounts` in its
//! `internal/cri/opts/spec_linux_opts.go`): kernel file systems come first, then all others by depth, so that a volume
//! hides nothing that is mounted below it. A volume replaces what would otherwise be mounted at the same path.

use std::collections::HashSet;
use std::ffi::CStr;
use std::path::{Component, Path, PathBuf};

use super::spec::{RootSpec, VolumeMount};
use crate::mount_api::attr;

/// Attributes of mounts that contain neither programs nor devices.
pub const NO_SUID_DEV_EXEC: u64 = attr::NOSUID | attr::NODEV | attr::NOEXEC;

/// One mount of a container.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount<'s> {
    /// Absolute path in the container, without "." and "..".
    pub target: PathBuf,
    /// The source of the mount.
    pub source: Source<'s>,
}

/// The source of a mount.
#[derive(Debug, PartialEq, Eq)]
pub enum Source<'s> {
    /// A kernel file system.
    Kernel(&'static KernelFileSystem),
    /// A volume of the Pod, or a part of one.
    Volume(&'s VolumeMount),
    /// A file of the guest.
    File {
        /// Its path in the guest.
        path: PathBuf,
        /// Whether the container cannot write to it.
        read_only: bool,
    },
    /// The Pod's shared memory, given by its path in the guest.
    SharedMemory(&'s Path),
}

/// A file system that the kernel provides.
#[derive(Debug, PartialEq, Eq)]
pub struct KernelFileSystem {
    /// Its type.
    pub fs_type: &'static CStr,
    /// Path in the container.
    pub target: &'static str,
    /// Mount attributes.
    pub attributes: u64,
    /// File system options.
    pub options: &'static [(&'static CStr, &'static str)],
    /// Whether only a privileged container can write to it.
    pub read_only: bool,
    /// Whether a kernel may lack it.
    pub optional: bool,
}

impl KernelFileSystem {
    const fn new(fs_type: &'static CStr, target: &'static str) -> Self {
        Self {
            fs_type,
            target,
            attributes: NO_SUID_DEV_EXEC,
            options: &[],
            read_only: false,
            optional: false,
        }
    }
}

/// Ordered so that each mount point exists when it is needed.
static KERNEL_FILE_SYSTEMS: [KernelFileSystem; 6] = [
    KernelFileSystem::new(c"proc", "/proc"),
    KernelFileSystem {
        attributes: attr::NOSUID | attr::STRICTATIME,
        options: &[(c"mode", "755"), (c"size", "65536k")],
        ..KernelFileSystem::new(c"tmpfs", DEV)
    },
    KernelFileSystem {
        attributes: attr::NOSUID | attr::NOEXEC,
        options: &[(c"ptmxmode", "0666"), (c"mode", "0620"), (c"gid", "5")],
        ..KernelFileSystem::new(c"devpts", "/dev/pts")
    },
    KernelFileSystem {
        optional: true,
        ..KernelFileSystem::new(c"mqueue", "/dev/mqueue")
    },
    KernelFileSystem {
        read_only: true,
        ..KernelFileSystem::new(c"sysfs", "/sys")
    },
    KernelFileSystem {
        read_only: true,
        ..KernelFileSystem::new(c"cgroup2", "/sys/fs/cgroup")
    },
];

/// The directory of the device files. A volume mounted there contains none, as in Kubernetes.
pub const DEV: &str = "/dev";

/// All mounts of a container except its root.
pub fn in_order(spec: &RootSpec) -> Vec<Mount<'_>> {
    let volumes = spec.mounts.iter().map(|volume| Mount {
        target: clean(&volume.target),
        source: Source::Volume(volume),
    });
    let message = spec.termination_message.iter().map(|(path, target)| Mount {
        target: clean(target),
        source: Source::File {
            path: path.clone(),
            read_only: false,
        },
    });
    let mut given: Vec<Mount<'_>> = volumes.chain(message).collect();
    let taken: HashSet<PathBuf> = given.iter().map(|mount| mount.target.clone()).collect();
    let own = of_the_pod(spec).into_iter().filter(|own| !taken.contains(&own.target));
    given.extend(own);
    // The sort is stable: of two mounts at the same depth, the first stays first.
    given.sort_by_key(|mount| mount.target.components().count());

    let has_own_dev = taken.contains(Path::new(DEV));
    let kernel = KERNEL_FILE_SYSTEMS.iter().filter(|kernel| {
        let target = Path::new(kernel.target);
        // Only procfs may be at /proc: mounting something else there is an error, not a replacement.
        (!taken.contains(target) || kernel.fs_type == c"proc") && !(has_own_dev && target.starts_with(DEV))
    });
    let mut mounts: Vec<Mount<'_>> = kernel
        .map(|kernel| Mount {
            target: kernel.target.into(),
            source: Source::Kernel(kernel),
        })
        .collect();
    mounts.extend(given);
    mounts
}

/// The mounts that every container of the Pod gets.
fn of_the_pod(spec: &RootSpec) -> Vec<Mount<'_>> {
    let file = |name: &str, read_only| Mount {
        target: Path::new("/etc").join(name),
        source: Source::File {
            path: spec.etc_dir.join(name),
            read_only,
        },
    };
    vec![
        // The kubelet mounts this file itself, writable even if the container's root file system is not
        // (`makeHostsMount`).
        file("hosts", false),
        file("hostname", spec.read_only_rootfs),
        file("resolv.conf", spec.read_only_rootfs),
        Mount {
            target: "/dev/shm".into(),
            source: Source::SharedMemory(&spec.shm_dir),
        },
    ]
}

/// Makes a path absolute and removes "." and "..", without looking at the file system (Go's `filepath.Clean`).
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::spec::Propagation;
    use super::*;

    fn spec(volumes: &[&str]) -> RootSpec {
        RootSpec {
            layers: Vec::new(),
            upper_dir: PathBuf::new(),
            work_dir: PathBuf::new(),
            etc_dir: "/run/etc".into(),
            shm_dir: "/run/shm".into(),
            mounts: volumes
                .iter()
                .enumerate()
                .map(|(number, target)| VolumeMount {
                    volume: format!("v{number}"),
                    source: "/run/volume".into(),
                    sub_path: PathBuf::new(),
                    target: (*target).into(),
                    read_only: false,
                    recursive_read_only: false,
                    is_image: false,
                    propagation: Propagation::Private,
                })
                .collect(),
            termination_message: Some(("/run/message".into(), "/dev/termination-log".into())),
            read_only_rootfs: false,
            privileged: false,
            unmasked_proc: false,
            joins_pid_namespace: false,
        }
    }

    /// Targets in order, with the names of volumes.
    fn order(spec: &RootSpec) -> Vec<String> {
        let shown = |mount: &Mount<'_>| match &mount.source {
            Source::Volume(volume) => format!("{}={}", mount.target.display(), volume.volume),
            _ => mount.target.display().to_string(),
        };
        in_order(spec).iter().map(shown).collect()
    }

    const KERNEL: [&str; 6] = ["/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/sys/fs/cgroup"];

    fn after_kernel(spec: &RootSpec) -> Vec<String> {
        let order = order(spec);
        assert_eq!(order[..6], KERNEL);
        order[6..].to_vec()
    }

    #[test]
    fn a_volume_does_not_hide_mounts_below_it() {
        let spec = spec(&["/etc/inner/deeper", "/etc/inner/", "/etc"]);
        assert_eq!(
            after_kernel(&spec),
            [
                "/etc=v2",
                "/etc/inner=v1",
                "/dev/termination-log",
                "/etc/hosts",
                "/etc/hostname",
                "/etc/resolv.conf",
                "/dev/shm",
                "/etc/inner/deeper=v0",
            ]
        );
    }

    #[test]
    fn a_volume_overrides_a_pod_file_at_the_same_path() {
        let spec = spec(&["/etc/hosts", "/dev/shm/", "/etc/x/../hostname"]);
        assert_eq!(
            after_kernel(&spec),
            [
                "/etc/hosts=v0",
                "/dev/shm=v1",
                "/etc/hostname=v2",
                "/dev/termination-log",
                "/etc/resolv.conf",
            ]
        );
    }

    #[test]
    fn a_volume_at_dev_has_no_devices_but_the_pods_mounts() {
        assert_eq!(
            order(&spec(&["/dev"])),
            [
                "/proc",
                "/sys",
                "/sys/fs/cgroup",
                "/dev=v0",
                "/dev/termination-log",
                "/etc/hosts",
                "/etc/hostname",
                "/etc/resolv.conf",
                "/dev/shm",
            ]
        );
    }

    #[test]
    fn a_volume_can_replace_any_kernel_file_system_except_proc() {
        let order = order(&spec(&["/sys", "/proc", "/dev/mqueue"]));
        assert_eq!(
            order[..7],
            [
                "/proc",
                "/dev",
                "/dev/pts",
                "/sys/fs/cgroup",
                "/sys=v0",
                "/proc=v1",
                "/dev/mqueue=v2"
            ]
        );
    }

    #[test]
    fn only_the_hosts_file_stays_writable_in_a_read_only_root() {
        let mut spec = spec(&[]);
        spec.read_only_rootfs = true;
        let read_only: Vec<_> = in_order(&spec)
            .into_iter()
            .filter(|mount| matches!(mount.source, Source::File { read_only: true, .. }))
            .map(|mount| mount.target)
            .collect();
        assert_eq!(read_only, [Path::new("/etc/hostname"), Path::new("/etc/resolv.conf")]);
    }

    proptest! {
        #[test]
        fn no_mount_hides_an_earlier_one(targets in prop::collection::vec("(/(etc|dev|a|hosts|\\.\\.|\\.)){1,4}", 0..6)) {
            let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
            let spec = spec(&targets);
            let mounts = in_order(&spec);
            for (place, mount) in mounts.iter().enumerate() {
                prop_assert!(!mount.target.components().any(|component| component == Component::ParentDir));
                for later in &mounts[place + 1..] {
                    let hides = mount.target.starts_with(&later.target) && mount.target != later.target;
                    let kernel = matches!(mount.source, Source::Kernel(_));
                    prop_assert!(kernel || !hides, "{later:?} hides {mount:?}");
                }
            }
            // Every volume is found.
            let volumes = mounts.iter().filter(|mount| matches!(mount.source, Source::Volume(_))).count();
            prop_assert_eq!(volumes, targets.len());
        }
    }
}
