//! Serves one command line: ends or changes the Pod, runs a process, attaches to a container, connects to a port, or
//! reports statistics.

mod attach;
mod exec;
mod gone;
mod port_forward;
mod refusal;
mod stats;
#[cfg(test)]
mod tests;
mod write;

use std::time::Duration;

use k8s_openapi::api::core::v1::EphemeralContainer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::order::Order;
use super::pod_view::PodView;
use crate::pod::supervisor_protocol::{
    FrameError, Greeting, Notice, SupervisorFrame, SupervisorRequest, UpdateRequest, VERSIONS, read_frame, write_frame,
};
use refusal::Refusal;

pub async fn serve(stream: UnixStream, view: PodView, orders: mpsc::Sender<Order>) -> anyhow::Result<()> {
    let (mut from, mut to) = stream.into_split();
    let request = match first_request(&mut from, &mut to).await {
        Ok(Some(request)) => request,
        Ok(None) => return Ok(()),
        Err(FrameError::Malformed { .. }) => {
            let refused = SupervisorFrame::Notice(Refusal::NotUnderstood.into());
            return Ok(write_frame(&mut to, &refused).await?);
        }
        Err(error) => return Err(error.into()),
    };
    let result = match request {
        SupervisorRequest::Delete {
            grace: Some(Duration::ZERO),
        } if !view.has_finalizers() => force_delete(&view, &orders).await,
        SupervisorRequest::Delete { grace } => match order(&orders, grace, true).await {
            Some(done) => Ok(done),
            // The Pod has just ended. The client detects the closed connection, and releases the Pod itself.
            None => return Ok(()),
        },
        SupervisorRequest::Terminate { grace } => match order(&orders, grace, false).await {
            Some(done) => Ok(done),
            None => return Ok(()),
        },
        SupervisorRequest::Kill => {
            let _ = orders.send(Order::Kill).await;
            Ok(Notice::Done)
        }
        SupervisorRequest::AddEphemeralContainer(container) => match add_container(&orders, container).await {
            Some(answer) => Ok(answer),
            // The Pod has just ended, as above.
            None => return Ok(()),
        },
        SupervisorRequest::Update(request) => match update(&orders, request).await {
            Some(answer) => Ok(answer),
            None => return Ok(()),
        },
        SupervisorRequest::Stats => stats::usage(&view).await.map(Notice::Stats),
        SupervisorRequest::Exec(options) => return exec::serve(options, &view, from, to).await,
        SupervisorRequest::Attach(options) => return attach::serve(options, &view, from, to).await,
        SupervisorRequest::PortForward { port } => return port_forward::serve(port, &view, from, to).await,
        SupervisorRequest::Follow | SupervisorRequest::Resize(_) | SupervisorRequest::Hello(_) => {
            Err(Refusal::NotFirst)
        }
    };
    let notice = result.unwrap_or_else(Notice::from);
    write_frame(&mut to, &SupervisorFrame::Notice(notice)).await?;
    Ok(())
}

/// Reads the request, after answering a greeting. `None` if there is no common version, or no request.
async fn first_request(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<Option<SupervisorRequest>, FrameError> {
    let mut frame = read_frame(from).await?;
    if let Some(SupervisorFrame::Request(SupervisorRequest::Hello(client))) = frame {
        write_frame(to, &SupervisorFrame::Notice(Notice::Hello(Greeting::own()))).await?;
        if VERSIONS.agree(client.versions()).is_err() {
            // The client gets the versions of this build in the greeting.
            return Ok(None);
        }
        frame = read_frame(from).await?;
    }
    Ok(match frame {
        Some(SupervisorFrame::Request(request)) => Some(request),
        _ => None,
    })
}

/// Hides the Pod immediately. Its supervisor ends it later, because it may be busy now.
async fn force_delete(view: &PodView, orders: &mpsc::Sender<Order>) -> Result<Notice, Refusal> {
    let hidden = view.hide().await;
    let order = Order::Terminate {
        grace: Some(Duration::ZERO),
        deletion: true,
        noted: None,
    };
    // Even if the Pod cannot be hidden, its processes must end. Sending the order fails only if the Pod has ended
    // meanwhile.
    let _ = orders.send(order).await;
    hidden.map_err(Refusal::Hide)?;
    Ok(Notice::Done)
}

/// Passes on a container to add; `None` if the Pod has already ended.
async fn add_container(orders: &mpsc::Sender<Order>, container: Box<EphemeralContainer>) -> Option<Notice> {
    let (answer, answered) = oneshot::channel();
    let order = Order::AddEphemeralContainer { container, answer };
    orders.send(order).await.ok()?;
    answered.await.ok()
}

/// Passes on a change; `None` if the Pod has already ended.
async fn update(orders: &mpsc::Sender<Order>, request: UpdateRequest) -> Option<Notice> {
    let (answer, answered) = oneshot::channel();
    orders.send(Order::Update { request, answer }).await.ok()?;
    answered.await.ok()
}

/// Passes on an order; `None` if the Pod has already ended.
async fn order(orders: &mpsc::Sender<Order>, grace: Option<Duration>, deletion: bool) -> Option<Notice> {
    let (noted, answer) = oneshot::channel();
    let order = Order::Terminate {
        grace,
        deletion,
        noted: Some(noted),
    };
    orders.send(order).await.ok()?;
    answer.await.ok()?;
    Some(Notice::Done)
}
