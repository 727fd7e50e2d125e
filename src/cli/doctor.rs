//! `microkube doctor`: checks everything that a Pod needs, and says how to fix what is missing.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use microkube_image::ImageStore;
use microkube_vmm::probe::{self, ProbeError};

use super::failure::Failure;
use super::pods_host::needs_emulated_host;
use super::print::emit;
use crate::emulated_host::{self, ExecRequest, Status};
use crate::network::NetworkConfig;
use crate::privileged::{Privileges, artifacts};
use crate::state::Paths;

/// Check whether this machine can run Pods
///
/// Tests each requirement in practice: runs a tiny guest on KVM, attaches a TAP to the bridge, creates a scratch disk.
/// Exits with 0 if Pods can run here. If Pods run in the emulated host and it is running, checks that as well.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  microkube doctor")]
pub struct DoctorArgs {}

/// A check: its name, its result, and the remedy if it fails.
struct Check {
    name: &'static str,
    result: anyhow::Result<String>,
    /// `None` if the error contains it.
    remedy: Option<&'static str>,
    /// Whether Pods can run in the emulated host if this fails.
    has_fallback: bool,
}

pub(super) fn run(_: DoctorArgs) -> Result<ExitCode, Failure> {
    let is_inside = emulated_host::is_inside();
    let kvm = kvm(probe::check_kvm(Path::new("/dev/kvm")), is_inside);
    let usable = kvm.result.is_ok();
    let replaced = !usable && kvm.has_fallback;
    let mut checks = vec![root(), kvm, guest(), vmm()];
    if usable {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        checks.push(runtime.block_on(network()));
        checks.push(scratch());
        checks.push(store());
    } else if replaced {
        checks.push(emulated_host());
    }

    let mut report = String::new();
    if replaced {
        report += "This machine:\n";
    }
    report += &format!("{:<14} {:<5} DETAIL\n", "REQUIREMENT", "OK");
    let mut failed = false;
    for Check {
        name,
        result,
        remedy,
        has_fallback,
    } in checks
    {
        match result {
            Ok(detail) => report += &format!("{name:<14} {:<5} {detail}\n", "yes"),
            Err(error) => {
                failed |= !has_fallback;
                report += &format!("{name:<14} {:<5} {error:#}\n", "no");
                if let Some(remedy) = remedy {
                    report += &format!("{:<20} remedy: {remedy}\n", "");
                }
            }
        }
    }
    if usable && is_inside {
        report += "\nPods run in this emulated host.\n";
    } else if usable {
        report += "\nPods run on this machine's KVM.\n";
    } else if !failed {
        report += "\nPods run in the emulated host. It is slow, and meant for development and tests.\n";
    }
    emit(&report)?;
    if usable || failed {
        return Ok(ExitCode::from(u8::from(failed)));
    }
    check_inside()
}

/// Runs the checks in the emulated host, where the Pods and the image store are, if it is running.
fn check_inside() -> Result<ExitCode, Failure> {
    if !matches!(emulated_host::status()?, Status::Running { .. }) {
        emit("It was not checked, because it is not running; start it with `microkube machine start`.\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    emit("\nThe emulated host:\n")?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let request = ExecRequest {
        argv: vec![program.into_os_string(), "doctor".into()],
        reason: None,
    };
    let exit = emulated_host::exec(&request).map_err(|error| Failure {
        exit_code: emulated_host::EXIT_MACHINE_FAILED,
        error: error.into(),
    })?;
    Ok(ExitCode::from(exit.code()))
}

/// The check of KVM, whose test guest had this result.
fn kvm(result: Result<(), ProbeError>, is_inside: bool) -> Check {
    let has_fallback = !is_inside && result.as_ref().err().is_none_or(needs_emulated_host);
    let says_remedy = matches!(
        result,
        Err(ProbeError::Missing { .. } | ProbeError::NoDriver { .. } | ProbeError::Permission { .. })
    );
    Check {
        name: "kvm",
        remedy: (!says_remedy)
            .then_some("use a machine with VT-x or SVM enabled (in a cloud: with nested virtualization)"),
        result: result.map(|()| "ran a test guest".to_owned()).map_err(Into::into),
        has_fallback,
    }
}

fn root() -> Check {
    let result = if nix::unistd::geteuid().is_root() {
        Ok("running as root".to_owned())
    } else {
        Err(anyhow::anyhow!("not running as root"))
    };
    Check {
        name: "root",
        result,
        remedy: Some("run microkube as root (sudo)"),
        has_fallback: false,
    }
}

async fn network() -> Check {
    let try_it = async {
        let config = NetworkConfig::from_env()?;
        let probe = Privileges::new(&Paths::from_env()).of_pod(&format!("doctor-{}", std::process::id()))?;
        let attached = probe.connect().await;
        probe.release().await?;
        let attached = attached?;
        anyhow::Ok(format!(
            "attached {} to {} with address {} and anti-spoofing rules",
            attached.tap_name, config.bridge_name, attached.address
        ))
    };
    Check {
        name: "network",
        result: try_it.await,
        remedy: Some(
            "run as root, load the kernel modules tun, bridge and nf_tables, and use a kernel with the netdev ingress hook",
        ),
        has_fallback: false,
    }
}

fn scratch() -> Check {
    let try_it = || {
        let paths = Paths::from_env();
        paths.create()?;
        Privileges::new(&paths).try_scratch_disk()?;
        anyhow::Ok(format!("created one in {}", paths.state_dir().display()))
    };
    Check {
        name: "scratch disk",
        result: try_it(),
        remedy: Some("install e2fsprogs, and free space in the state directory (MICROKUBE_STATE_DIR)"),
        has_fallback: false,
    }
}

fn emulated_host() -> Check {
    Check {
        name: "emulated host",
        result: emulated_host::check().map_err(Into::into),
        remedy: Some(
            "install the package microkube-emulated-host, or run `apt-get install qemu-system-x86`, then `make build`",
        ),
        has_fallback: false,
    }
}

fn guest() -> Check {
    let try_it = || {
        let guest = artifacts::guest_image()?;
        for (path, magic) in [(&guest.kernel, &b"\x7fELF"[..]), (&guest.initramfs, &b"07070"[..])] {
            let mut start = vec![0; magic.len()];
            let mut file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            std::io::Read::read_exact(&mut file, &mut start)
                .with_context(|| format!("cannot read {}", path.display()))?;
            if start != magic {
                bail!("{} is damaged", path.display());
            }
        }
        anyhow::Ok(guest.kernel.display().to_string())
    };
    Check {
        name: "guest kernel",
        result: try_it(),
        remedy: Some("reinstall the package microkube, or run `make build`"),
        has_fallback: false,
    }
}

fn vmm() -> Check {
    let try_it = || {
        let program = artifacts::vmm_binary()?;
        let output = microkube_base::child::command(&program)
            .arg("--version")
            .output()
            .with_context(|| format!("cannot run {}", program.display()))?;
        if !output.status.success() {
            bail!("{} failed ({})", program.display(), output.status);
        }
        anyhow::Ok(program.display().to_string())
    };
    Check {
        name: "vmm",
        result: try_it(),
        remedy: Some("reinstall the package microkube, or run `make build`"),
        has_fallback: false,
    }
}

fn store() -> Check {
    let try_it = || {
        let paths = Paths::from_env();
        paths.create()?;
        let images = ImageStore::open(paths.images())?.list()?.len();
        anyhow::Ok(format!("{images} in {}", paths.images().display()))
    };
    Check {
        name: "image store",
        result: try_it(),
        remedy: Some("make the state directory writable (MICROKUBE_STATE_DIR)"),
        has_fallback: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emulated_host_replaces_kvm_unless_only_a_permission_is_missing() {
        let path = || "/dev/kvm".into();
        let errno = std::io::Error::from_raw_os_error;
        for (error, is_replaced) in [
            (ProbeError::Missing { path: path() }, true),
            (
                ProbeError::NoDriver {
                    path: path(),
                    why: errno(libc::ENODEV),
                },
                true,
            ),
            (ProbeError::TooSlow, true),
            (
                ProbeError::Permission {
                    path: path(),
                    why: errno(libc::EACCES),
                },
                false,
            ),
            (
                ProbeError::Permission {
                    path: path(),
                    why: errno(libc::EPERM),
                },
                false,
            ),
        ] {
            assert_eq!(needs_emulated_host(&error), is_replaced, "{error}");
            let check = kvm(Err(error), false);
            assert_eq!((check.result.is_err(), check.has_fallback), (true, is_replaced));
        }
        let remedy = |error| kvm(Err(error), false).remedy;
        assert!(remedy(ProbeError::TooSlow).is_some());
        let (path, why) = (path(), errno(libc::EACCES));
        assert_eq!(
            remedy(ProbeError::Permission { path, why }),
            None,
            "the error says what to do"
        );
        assert!(
            !kvm(Err(ProbeError::TooSlow), true).has_fallback,
            "there is no other emulated host inside"
        );
        assert!(kvm(Ok(()), false).result.is_ok());
    }
}
