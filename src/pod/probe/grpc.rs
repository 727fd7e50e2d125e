//! `grpc`: the health protocol's `Check` over HTTP/2 without TLS, with the kubelet's request (`pkg/probe/grpc`).

use std::time::Duration;

use h2::client::{Connection, SendRequest};
use http::{HeaderMap, Request, Response, StatusCode};
use k8s_openapi::api::core::v1::GRPCAction;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::outcome::{KUBERNETES_VERSION, Outcome};
use super::target::{PortError, join_host_port};
use super::{Target, go, health};

/// Time between two connection attempts: a server may start to listen within the timeout (gRPC's initial back-off).
const CONNECT_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Maximum size of headers or trailers, in bytes.
const HEADERS_MAX_BYTES: u32 = 16 << 10;

/// gRPC allows eight digits.
const GRPC_TIMEOUT_MAX_SECONDS: u64 = 99_999_999;

const WINDOW_BYTES: u32 = 64 << 10;

/// Sends the request, within the timeout. Returns an error if it could not even be attempted.
pub(super) async fn probe(action: &GRPCAction, target: &Target<'_>, timeout: Duration) -> Result<Outcome, PortError> {
    let number = action.port;
    let port = u16::try_from(number).map_err(|_| PortError::Invalid { number })?;
    let address = join_host_port(&target.host(None), port);
    let deadline = Instant::now() + timeout;
    let service = action.service.as_deref().unwrap_or_default();
    let Ok(stream) = tokio::time::timeout_at(deadline, connect(&address)).await else {
        return Ok(Outcome::Failure(format!(
            "timeout: failed to connect service {} within {}: context deadline exceeded",
            go::quoted(&address),
            go::duration(timeout)
        )));
    };
    let checked = tokio::time::timeout_at(deadline, check(stream, &address, service, timeout)).await;
    let too_late = Err(Status {
        code: DEADLINE_EXCEEDED,
        message: String::new(),
    });
    Ok(match checked.unwrap_or(too_late) {
        Ok(health::ServingStatus::Serving) => Outcome::Success,
        Ok(status) => Outcome::Failure(format!(
            "service unhealthy (responded with {})",
            go::quoted(&status.name())
        )),
        Err(status) => Outcome::Failure(match status.code {
            UNIMPLEMENTED => format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
                status.message
            ),
            DEADLINE_EXCEEDED => format!("timeout: health rpc did not complete within {}", go::duration(timeout)),
            code => format!(
                "error: health rpc probe failed: rpc error: code = {} desc = {}",
                code_name(code),
                status.message
            ),
        }),
    })
}

/// Retries until a server listens; the caller's timeout ends it.
async fn connect(address: &str) -> TcpStream {
    loop {
        if let Ok(stream) = TcpStream::connect(address).await {
            return stream;
        }
        tokio::time::sleep(CONNECT_AGAIN_AFTER).await;
    }
}

/// Why a call failed.
struct Status {
    code: u32,
    message: String,
}

impl Status {
    /// The connection or the data sent over it is broken.
    fn unavailable(error: impl std::fmt::Display) -> Self {
        Self {
            code: UNAVAILABLE,
            message: format!("connection error: desc = {}", go::quoted(&error.to_string())),
        }
    }

    fn internal(error: impl std::fmt::Display) -> Self {
        Self {
            code: INTERNAL,
            message: error.to_string(),
        }
    }
}

async fn check(
    stream: TcpStream,
    address: &str,
    service: &str,
    timeout: Duration,
) -> Result<health::ServingStatus, Status> {
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_header_list_size(HEADERS_MAX_BYTES);
    let handshake: Result<(SendRequest<bytes::Bytes>, Connection<TcpStream>), _> = builder.handshake(stream).await;
    let (sender, connection) = handshake.map_err(Status::unavailable)?;
    // Dropped with this future, which closes the connection.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let mut sender = sender.ready().await.map_err(Status::unavailable)?;
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", format!("kube-probe/{KUBERNETES_VERSION}"))
        .header(
            "grpc-timeout",
            format!("{}S", timeout.as_secs().min(GRPC_TIMEOUT_MAX_SECONDS)),
        )
        .body(())
        .map_err(Status::internal)?;
    let body = health::request(service).map_err(Status::internal)?;
    let (response, mut stream) = sender.send_request(request, false).map_err(Status::unavailable)?;
    stream.send_data(body.into(), true).map_err(Status::unavailable)?;
    let response = response.await.map_err(Status::unavailable)?;
    read(response).await
}

async fn read(response: Response<h2::RecvStream>) -> Result<health::ServingStatus, Status> {
    let (head, mut body) = response.into_parts();
    if let Some(status) = grpc_status(&head.headers) {
        // A response without a message has only headers, which act as trailers.
        status?;
    } else if head.status != StatusCode::OK {
        let code = match head.status {
            StatusCode::BAD_REQUEST => INTERNAL,
            StatusCode::UNAUTHORIZED => UNAUTHENTICATED,
            StatusCode::FORBIDDEN => PERMISSION_DENIED,
            StatusCode::NOT_FOUND => UNIMPLEMENTED,
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => UNAVAILABLE,
            _ => UNKNOWN,
        };
        let message = format!("unexpected HTTP status code received from server: {}", head.status);
        return Err(Status { code, message });
    }
    let mut message = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(Status::unavailable)?;
        if message.len() + chunk.len() > health::PREFIX_BYTES + health::MESSAGE_MAX_BYTES {
            let what = format!("received message larger than max ({} bytes)", health::MESSAGE_MAX_BYTES);
            return Err(Status {
                code: RESOURCE_EXHAUSTED,
                message: what,
            });
        }
        body.flow_control()
            .release_capacity(chunk.len())
            .map_err(Status::unavailable)?;
        message.extend_from_slice(&chunk);
    }
    let trailers = body.trailers().await.map_err(Status::unavailable)?;
    match trailers.as_ref().and_then(grpc_status) {
        Some(status) => status?,
        None => {
            return Err(Status::internal("server closed the stream without sending trailers"));
        }
    }
    health::response(&message).map_err(Status::internal)
}

/// `grpc-status` and `grpc-message`, if present.
fn grpc_status(headers: &HeaderMap) -> Option<Result<(), Status>> {
    let code = headers.get("grpc-status")?;
    let Some(code) = code.to_str().ok().and_then(|code| code.parse().ok()) else {
        return Some(Err(Status::internal("malformed grpc-status")));
    };
    if code == OK {
        return Some(Ok(()));
    }
    let message = headers.get("grpc-message").map(|message| message.as_bytes());
    let message = health::decode_message(message.unwrap_or_default());
    Some(Err(Status { code, message }))
}

const OK: u32 = 0;
const UNKNOWN: u32 = 2;
const DEADLINE_EXCEEDED: u32 = 4;
const PERMISSION_DENIED: u32 = 7;
const RESOURCE_EXHAUSTED: u32 = 8;
const UNIMPLEMENTED: u32 = 12;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;
const UNAUTHENTICATED: u32 = 16;

fn code_name(code: u32) -> String {
    const NAMES: [&str; 17] = [
        "OK",
        "Canceled",
        "Unknown",
        "InvalidArgument",
        "DeadlineExceeded",
        "NotFound",
        "AlreadyExists",
        "PermissionDenied",
        "ResourceExhausted",
        "FailedPrecondition",
        "Aborted",
        "OutOfRange",
        "Unimplemented",
        "Internal",
        "Unavailable",
        "DataLoss",
        "Unauthenticated",
    ];
    let name = usize::try_from(code).ok().and_then(|code| NAMES.get(code));
    name.map_or_else(|| format!("Code({code})"), |name| (*name).to_owned())
}
