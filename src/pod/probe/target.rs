//! The container of a probe or hook, and its address.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::go;

/// The port is not valid.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The container has no port with this name.
    #[error("port {name} not found")]
    NotFound {
        /// The name in the manifest.
        name: String,
    },
    /// The number is out of range.
    #[error("invalid port number: {number}")]
    Invalid {
        /// The number.
        number: i32,
    },
}

/// The container to probe, or to run a hook for.
#[derive(Debug, Clone, Copy)]
pub struct Target<'t> {
    pub pod: &'t Pod,
    pub container: &'t Container,
    /// IP address of the Pod.
    pub pod_ip: IpAddr,
}

impl Target<'_> {
    /// `web_default(1d4b…)`, as in the kubelet's messages.
    pub(super) fn pod_name(&self) -> String {
        let metadata = &self.pod.metadata;
        format!(
            "{}_{}({})",
            metadata.name.as_deref().unwrap_or_default(),
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.uid.as_deref().unwrap_or_default()
        )
    }

    /// `Container "main" in Pod "web_default(1d4b…)"`, as in the kubelet's messages about hooks.
    pub(super) fn container_name(&self) -> String {
        let (container, pod) = (go::quoted(&self.container.name), go::quoted(&self.pod_name()));
        format!("Container {container} in Pod {pod}")
    }

    /// Resolves a port, given by its number or by its name in the container (`ResolveContainerPort`).
    pub(super) fn port(&self, port: &IntOrString) -> Result<u16, PortError> {
        let number = match port {
            IntOrString::Int(number) => *number,
            IntOrString::String(name) => {
                let ports = self.container.ports.iter().flatten();
                let named = ports
                    .filter(|port| port.name.as_deref() == Some(name.as_str()))
                    .map(|port| port.container_port)
                    .next();
                match named.or_else(|| name.parse().ok()) {
                    Some(number) => number,
                    None => return Err(PortError::NotFound { name: name.clone() }),
                }
            }
        };
        let valid = u16::try_from(number).ok().filter(|number| *number > 0);
        valid.ok_or(PortError::Invalid { number })
    }

    /// The host in the manifest, or the Pod's address.
    pub(super) fn host(&self, written: Option<&str>) -> String {
        match written {
            None | Some("") => self.pod_ip.to_string(),
            Some(host) => host.to_owned(),
        }
    }
}

/// `host:port`, with brackets around an IPv6 address (`net.JoinHostPort`).
pub(super) fn join_host_port(host: &str, port: u16) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use serde_json::json;

    use super::*;

    #[test]
    fn ports_are_found_by_number_and_by_name() {
        let container: Container = serde_json::from_value(json!({
            "name": "c", "ports": [{"containerPort": 8080, "name": "http"}, {"containerPort": 70000, "name": "wrong"}]
        }))
        .unwrap();
        let target = Target {
            pod: &Pod::default(),
            container: &container,
            pod_ip: Ipv4Addr::LOCALHOST.into(),
        };
        let named = |name: &str| target.port(&IntOrString::String(name.into()));
        assert_eq!(named("http"), Ok(8080));
        assert_eq!(named("81"), Ok(81));
        assert_eq!(named("https").unwrap_err().to_string(), "port https not found");
        assert_eq!(named("wrong").unwrap_err().to_string(), "invalid port number: 70000");
        assert_eq!(target.port(&IntOrString::Int(443)), Ok(443));
        let zero = target.port(&IntOrString::Int(0));
        assert_eq!(zero, Err(PortError::Invalid { number: 0 }));
        assert_eq!(target.host(None), "127.0.0.1");
        assert_eq!(join_host_port("fd00::1", 80), "[fd00::1]:80");
    }
}
