//! Adds ephemeral containers to running Pods.

use anyhow::bail;
use k8s_openapi::api::core::v1::EphemeralContainer;

use crate::pod::client::{ClientError, SupervisorClient};
use crate::pod::supervisor_protocol::{
    Notice, SupervisorFrame, SupervisorRequest, VERSION_EPHEMERAL_CONTAINERS, read_frame,
};
use crate::state::{Paths, PodRecord};

/// Asks the Pod's supervisor to add a container. Returns when it is recorded; it starts later.
///
/// # Errors
/// If there is no supervisor, it is too old, or it refuses the container.
pub async fn add(paths: &Paths, record: &PodRecord, container: &EphemeralContainer) -> anyhow::Result<()> {
    let mut client = SupervisorClient::connect(paths, &record.uid).await?;
    if client.version < VERSION_EPHEMERAL_CONTAINERS {
        bail!(
            "pod {:?} runs under an older microkube, which cannot add containers; restart its supervisor or the Pod",
            record.name
        );
    }
    let request = SupervisorRequest::AddEphemeralContainer(Box::new(container.clone()));
    client.ask(request).await?;
    match read_frame(&mut client.from).await.map_err(ClientError::from)? {
        Some(SupervisorFrame::Notice(Notice::Done)) => Ok(()),
        Some(SupervisorFrame::Notice(Notice::Refused { message })) => Err(ClientError::Refused(message).into()),
        Some(_) => Err(ClientError::Unexpected.into()),
        None => Err(ClientError::WentAway.into()),
    }
}
