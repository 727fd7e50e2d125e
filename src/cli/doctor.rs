//! `microkube doctor`: tries everything that a Pod needs and says what to do about what is missing.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use microkube_image::ImageStore;
use microkube_vmm::probe;

use super::failure::Failure;
use super::print::emit;
use crate::emulated_host;
use crate::network::NetworkConfig;
use crate::privileged::{Privileges, artifacts};
use crate::state::Paths;

/// Check that this machine can run Pods
///
/// Every requirement is tried, not looked up: a tiny guest runs on KVM, a TAP is attached to the bridge, a scratch disk is
/// made. Exits with 0 if Pods can run here.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  microkube doctor")]
pub struct DoctorArgs {}

/// A check: what it is called, what it does, and what to do when it fails.
struct Check {
    name: &'static str,
    result: anyhow::Result<String>,
    remedy: &'static str,
    /// Whether Pods run without it, elsewhere.
    has_fallback: bool,
}

/// Runs the verb.
pub(super) fn run(_: DoctorArgs) -> Result<ExitCode, Failure> {
    let kvm = Check {
        name: "kvm",
        result: probe::check_kvm(Path::new("/dev/kvm"))
            .map(|()| "a guest ran on it".to_owned())
            .map_err(Into::into),
        remedy: "run on a machine with VT-x or SVM switched on (in a cloud: with nested virtualisation), as a user who may open /dev/kvm",
        has_fallback: true,
    };
    let usable = kvm.result.is_ok();
    let mut checks = vec![root(), kvm];
    if usable {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        checks.push(runtime.block_on(network()));
        checks.push(scratch());
    } else {
        checks.push(emulated_host());
    }
    checks.extend([guest(), vmm(), store()]);

    let mut report = format!("{:<14} {:<5} DETAIL\n", "REQUIREMENT", "OK");
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
                report += &format!("{:<20} remedy: {remedy}\n", "");
            }
        }
    }
    if usable {
        report += "\nPods run on this machine's KVM.\n";
    } else if !failed {
        report += "\nPods run in the emulated host, which is slow: it is made for development and tests.\n";
    }
    emit(&report)?;
    Ok(ExitCode::from(u8::from(failed)))
}

fn root() -> Check {
    let result = if nix::unistd::geteuid().is_root() {
        Ok("running as root".to_owned())
    } else {
        Err(anyhow::anyhow!("running as an ordinary user"))
    };
    Check {
        name: "root",
        result,
        remedy: "run microkube as root (sudo)",
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
            "attached {} to {} with the address {}, guarded against spoofing",
            attached.tap_name, config.bridge_name, attached.address
        ))
    };
    Check {
        name: "network",
        result: try_it.await,
        remedy: "load the kernel modules tun, bridge and nf_tables, use a kernel with the netdev ingress hook, and run as root",
        has_fallback: false,
    }
}

fn scratch() -> Check {
    let try_it = || {
        let paths = Paths::from_env();
        paths.create()?;
        Privileges::new(&paths).try_scratch_disk()?;
        anyhow::Ok(format!("made one in {}", paths.state_dir().display()))
    };
    Check {
        name: "scratch disk",
        result: try_it(),
        remedy: "install e2fsprogs, and free some space where the state directory lies (MICROKUBE_STATE_DIR)",
        has_fallback: false,
    }
}

fn emulated_host() -> Check {
    Check {
        name: "emulated host",
        result: emulated_host::check().map_err(Into::into),
        remedy: "apt-get install qemu-system-x86, then `make build`",
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
        remedy: "make build",
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
            bail!("{} does not run ({})", program.display(), output.status);
        }
        anyhow::Ok(program.display().to_string())
    };
    Check {
        name: "vmm",
        result: try_it(),
        remedy: "make build",
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
        remedy: "make the state directory writable (MICROKUBE_STATE_DIR)",
        has_fallback: false,
    }
}
