//! The ports to forward, as kubectl reads them from the command line.

use std::fmt;
use std::num::IntErrorKind;

use anyhow::{anyhow, bail};
use k8s_openapi::api::core::v1::{Container, Pod};

/// A port here, and the port of the Pod that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ForwardedPort {
    /// 0 for any free port.
    pub(super) local: u16,
    pub(super) remote: u16,
}

/// As kubectl prints it.
impl fmt::Display for ForwardedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{} {}}}", self.local, self.remote)
    }
}

impl ForwardedPort {
    /// Parses `REMOTE`, `LOCAL:REMOTE` or `:REMOTE`. The remote port can be the name of a port of one of the Pod's
    /// containers.
    ///
    /// # Errors
    /// With kubectl's messages.
    pub(super) fn parse(text: &str, pod: &Pod) -> anyhow::Result<Self> {
        let (local, remote) = match text.split_once(':') {
            None => (text, text),
            Some((_, rest)) if rest.contains(':') => bail!("invalid port format '{text}'"),
            Some((local, remote)) => (local, remote),
        };
        let digits = remote.trim_start_matches(['+', '-']);
        let remote_number = match !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => remote.to_owned(),
            false => named_port(pod, remote)?.to_string(),
        };
        let local_number = match local {
            _ if local == remote => remote_number.as_str(),
            "" => "0",
            _ => local,
        };
        let local = number("local", local_number)?;
        let remote = number("remote", &remote_number)?;
        if remote == 0 {
            bail!("remote port must be > 0");
        }
        Ok(Self { local, remote })
    }
}

/// Parses a port, with the errors of Go's `strconv.ParseUint`.
fn number(which: &str, text: &str) -> anyhow::Result<u16> {
    // Go accepts no sign here.
    let parsed = match text.starts_with('+') {
        true => Err(IntErrorKind::InvalidDigit),
        false => text
            .parse::<u16>()
            .map_err(|error: std::num::ParseIntError| *error.kind()),
    };
    parsed.map_err(|kind| {
        let problem = match kind {
            IntErrorKind::PosOverflow => "value out of range",
            _ => "invalid syntax",
        };
        anyhow!("error parsing {which} port '{text}': strconv.ParseUint: parsing {text:?}: {problem}")
    })
}

/// The port with this name in the Pod's containers and sidecars.
fn named_port(pod: &Pod, name: &str) -> anyhow::Result<u16> {
    let of = |container: &Container| {
        let mut ports = container.ports.iter().flatten();
        let port = ports.find(|port| !name.is_empty() && port.name.as_deref() == Some(name))?;
        u16::try_from(port.container_port).ok()
    };
    let spec = pod.spec.as_ref();
    let is_sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.and_then(|spec| spec.init_containers.as_ref());
    let mut all = spec
        .into_iter()
        .flat_map(|spec| &spec.containers)
        .chain(sidecars.into_iter().flatten().filter(is_sidecar));
    all.find_map(of).ok_or_else(|| {
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        anyhow!("Pod '{pod}' does not have a named port '{name}'")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pod() -> Pod {
        let port = |name: &str, number: i32| serde_json::json!([{ "name": name, "containerPort": number }]);
        let pod = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" },
            "spec": {
                "containers": [{ "name": "a", "ports": [{ "containerPort": 1 }] }, { "name": "b", "ports": port("http", 8000) }],
                "initContainers": [
                    { "name": "init", "ports": port("once", 9000) },
                    { "name": "sidecar", "restartPolicy": "Always", "ports": port("metrics", 9100) },
                ],
            },
        });
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn ports_are_numbers_or_names_with_or_without_a_local_port() {
        for (text, local, remote) in [
            ("80", 80, 80),
            ("8080:80", 8080, 80),
            (":80", 0, 80),
            ("0:80", 0, 80),
            ("http", 8000, 8000),
            ("80:http", 80, 8000),
            (":metrics", 0, 9100),
            ("65535", 65535, 65535),
        ] {
            let parsed = ForwardedPort::parse(text, &pod()).unwrap();
            assert_eq!(parsed, ForwardedPort { local, remote }, "{text}");
        }
        let ports = ForwardedPort {
            local: 8080,
            remote: 80,
        };
        assert_eq!(ports.to_string(), "{8080 80}");
    }

    #[test]
    fn other_ports_are_refused_in_the_words_of_kubectl() {
        for (text, message) in [
            ("0", "remote port must be > 0"),
            ("80:0", "remote port must be > 0"),
            ("1:2:3", "invalid port format '1:2:3'"),
            ("", "Pod 'web' does not have a named port ''"),
            ("80:", "Pod 'web' does not have a named port ''"),
            (":", "Pod 'web' does not have a named port ''"),
            ("once", "Pod 'web' does not have a named port 'once'"),
            (
                "70000",
                "error parsing local port '70000': strconv.ParseUint: parsing \"70000\": value out of range",
            ),
            (
                "80:99999999999999999999",
                "error parsing remote port '99999999999999999999': strconv.ParseUint: parsing \"99999999999999999999\": value out \
                 of range",
            ),
            (
                "+80",
                "error parsing local port '+80': strconv.ParseUint: parsing \"+80\": invalid syntax",
            ),
            (
                "x:80",
                "error parsing local port 'x': strconv.ParseUint: parsing \"x\": invalid syntax",
            ),
            (
                "80:-1",
                "error parsing remote port '-1': strconv.ParseUint: parsing \"-1\": invalid syntax",
            ),
        ] {
            let error = ForwardedPort::parse(text, &pod()).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[0-9a-z:+-]{0,8}|\\PC{0,8}") {
            let _ = ForwardedPort::parse(&text, &pod());
        }
    }
}
