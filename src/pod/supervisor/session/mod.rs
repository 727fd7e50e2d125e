//! Serves one command line: the Pod's end, a process in a container, a container's streams, statistics.

mod attach;
mod exec;
mod refusal;
mod stats;
#[cfg(test)]
mod tests;
mod write;

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::order::Order;
use super::pod_view::PodView;
use crate::pod::supervisor_protocol::{
    FrameError, Greeting, Notice, SupervisorFrame, SupervisorRequest, VERSIONS, read_frame, write_frame,
};
use refusal::Refusal;

/// Serves one command line.
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
        } => force_delete(&view, &orders).await,
        SupervisorRequest::Delete { grace } => match order(&orders, grace, true).await {
            Some(done) => Ok(done),
            // This supervisor has ended the Pod's life. The client sees the end of the connection, and does what is left.
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
        SupervisorRequest::Stats => stats::usage(&view).await.map(Notice::Stats),
        SupervisorRequest::Exec(options) => return exec::serve(options, &view, from, to).await,
        SupervisorRequest::Attach(options) => return attach::serve(options, &view, from, to).await,
        SupervisorRequest::Follow | SupervisorRequest::Resize(_) | SupervisorRequest::Hello(_) => {
            Err(Refusal::NotFirst)
        }
    };
    let notice = result.unwrap_or_else(Notice::from);
    write_frame(&mut to, &SupervisorFrame::Notice(notice)).await?;
    Ok(())
}

/// Reads the request, after answering a greeting. None if there is no version in common, or no request.
async fn first_request(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> Result<Option<SupervisorRequest>, FrameError> {
    let mut frame = read_frame(from).await?;
    if let Some(SupervisorFrame::Request(SupervisorRequest::Hello(client))) = frame {
        write_frame(to, &SupervisorFrame::Notice(Notice::Hello(Greeting::own()))).await?;
        if VERSIONS.agree(client.versions()).is_err() {
            // The greeting tells the client so.
            return Ok(None);
        }
        frame = read_frame(from).await?;
    }
    Ok(match frame {
        Some(SupervisorFrame::Request(request)) => Some(request),
        _ => None,
    })
}

/// Hides the Pod at once, and leaves its end to this supervisor, whatever else it is doing.
async fn force_delete(view: &PodView, orders: &mpsc::Sender<Order>) -> Result<Notice, Refusal> {
    let hidden = view.hide().await;
    let order = Order::Terminate {
        grace: Some(Duration::ZERO),
        deletion: true,
        noted: None,
    };
    // In any case: what runs must end, even if nothing can be written. It fails if the Pod has ended meanwhile.
    let _ = orders.send(order).await;
    hidden.map_err(Refusal::Hide)?;
    Ok(Notice::Done)
}

/// Passes an order on; none if the Pod has ended before.
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
