//! `tcpSocket`: whether a connection is accepted.

use std::time::Duration;

use k8s_openapi::api::core::v1::TCPSocketAction;
use tokio::net::TcpStream;

use super::outcome::Outcome;
use super::target::{PortError, join_host_port};
use super::{Target, go};

/// Connects, within the timeout. Returns an error if that could not even be attempted.
pub(super) async fn probe(
    action: &TCPSocketAction,
    target: &Target<'_>,
    timeout: Duration,
) -> Result<Outcome, PortError> {
    let port = target.port(&action.port)?;
    let host = target.host(action.host.as_deref());
    let address = join_host_port(&host, port);
    Ok(
        match tokio::time::timeout(timeout, TcpStream::connect(&address)).await {
            Ok(Ok(_)) => Outcome::Success,
            Ok(Err(error)) if error.raw_os_error().is_none() => {
                Outcome::Failure(format!("dial tcp: lookup {host}: {}", go::io_error(&error)))
            }
            Ok(Err(error)) => Outcome::Failure(format!("dial tcp {address}: connect: {}", go::io_error(&error))),
            Err(_) => Outcome::Failure(format!("dial tcp {address}: i/o timeout")),
        },
    )
}
