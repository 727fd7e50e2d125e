//! Kernel settings (sysctl(8)). The VM belongs to one Pod, so they apply to the VM's own namespaces, which all
//! containers share.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use microkube_protocol::messages::Sysctl;

use crate::request_field::{self, InvalidRequest};

/// Checks the settings of a request.
pub fn check(sysctls: &[Sysctl]) -> Result<(), InvalidRequest> {
    sysctls.iter().try_for_each(|sysctl| {
        request_field::sysctl_name(&sysctl.name)?;
        request_field::text("sysctls.value", &sysctl.value)
    })
}

/// Applies checked settings.
pub fn apply(sysctls: &[Sysctl]) -> Result<()> {
    for Sysctl { name, value, .. } in sysctls {
        let path = path(name);
        fs::write(&path, value)
            .with_context(|| format!("cannot write {value:?} to {} (sysctl {name})", path.display()))?;
    }
    Ok(())
}

/// The file of a sysctl: dots separate the parts of the name, and a slash stands for a dot in a part.
fn path(name: &str) -> PathBuf {
    let swapped = name.chars().map(|letter| match letter {
        '.' => '/',
        '/' => '.',
        other => other,
    });
    Path::new("/proc/sys").join(swapped.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sysctl(name: &str, value: &str) -> Sysctl {
        Sysctl {
            name: name.to_owned(),
            value: value.to_owned(),
            ..Default::default()
        }
    }

    #[test]
    fn a_name_leads_to_its_file() {
        assert_eq!(path("kernel.shmmax"), Path::new("/proc/sys/kernel/shmmax"));
        assert_eq!(
            path("net.ipv4.conf.eth0/100.forwarding"),
            Path::new("/proc/sys/net/ipv4/conf/eth0.100/forwarding")
        );
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        assert!(check(&[sysctl("net.core.somaxconn", "1024"), sysctl("fs.mqueue.msg_max", "")]).is_ok());
        for name in [
            "",
            ".",
            "..",
            "net..core",
            "net.",
            ".net",
            "net.//.core",
            "/",
            "net.a\0b",
        ] {
            assert!(check(&[sysctl(name, "1")]).is_err(), "{name:?}");
        }
        assert!(check(&[sysctl("net.core.somaxconn", "1\0")]).is_err());
    }
}
