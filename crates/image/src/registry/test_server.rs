//! A configurable, misbehaving server for tests, with or without TLS.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

/// A received request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub method: String,
    pub path: String,
    headers: Vec<(String, String)>,
    pub body: String,
}

impl Request {
    /// A header's value, or an empty string.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    /// Start of the requested range.
    pub fn range_start(&self) -> Option<usize> {
        self.header("range")
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub announced_bytes: Option<u64>,
    pub then: Then,
}

/// The server's behaviour after the body.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) enum Then {
    /// The next request on the connection.
    #[default]
    Next,
    /// Cuts the connection.
    Cut,
    /// Nothing, forever.
    Hang,
    /// One byte at a time, forever.
    Drip(Duration),
    /// Data without end, as fast as possible.
    Flood,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn announcing(mut self, bytes: u64) -> Self {
        self.announced_bytes = Some(bytes);
        self
    }

    pub fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }

    /// Announces the whole body, but cuts the connection within it.
    pub fn cut_at(mut self, length: usize) -> Self {
        self.announced_bytes = Some(self.body.len() as u64);
        self.body.truncate(length);
        self.then(Then::Cut)
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// A server that runs until the test's runtime ends.
pub(crate) struct TestServer {
    /// Host and port.
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

/// The server's certificate.
pub(crate) struct Identity {
    pub certificates: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
    /// The authorities for client certificates, if clients must have one.
    pub clients: Option<Arc<rustls::RootCertStore>>,
}

impl TestServer {
    /// Starts a server that speaks http.
    pub async fn http(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(None, handler).await
    }

    /// Starts a server that speaks https.
    pub async fn https(identity: Identity, handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = match identity.clients {
            None => builder.with_no_client_auth(),
            Some(roots) => builder.with_client_cert_verifier(
                rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .build()
                    .unwrap(),
            ),
        };
        let config = builder.with_single_cert(identity.certificates, identity.key).unwrap();
        Self::start(Some(Arc::new(config)), handler).await
    }

    async fn start(
        tls: Option<Arc<ServerConfig>>,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let handler: Arc<Handler> = Arc::new(handler);
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.unwrap();
                let (tls, handler, seen) = (tls.clone(), Arc::clone(&handler), Arc::clone(&seen));
                tokio::spawn(async move {
                    // A client that has received enough closes its end.
                    let _ = match tls {
                        None => serve(connection, &*handler, &seen).await,
                        Some(config) => match tokio_rustls::TlsAcceptor::from(config).accept(connection).await {
                            Ok(connection) => serve(connection, &*handler, &seen).await,
                            Err(error) => Err(error),
                        },
                    };
                });
            }
        });
        Self { address, requests }
    }

    /// The requests so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The paths of the requests so far that contain `part`.
    pub fn paths(&self, part: &str) -> Vec<String> {
        let paths = self.requests().into_iter().map(|request| request.path);
        paths.filter(|path| path.contains(part)).collect()
    }
}

async fn serve(
    mut connection: impl AsyncRead + AsyncWrite + Unpin,
    handler: &Handler,
    seen: &Mutex<Vec<Request>>,
) -> io::Result<()> {
    while let Some(request) = read_request(&mut connection).await? {
        seen.lock().unwrap().push(request.clone());
        let reply = handler(&request);
        let length = reply.announced_bytes.unwrap_or(reply.body.len() as u64);
        let mut head = format!("HTTP/1.1 {} Status\r\n", reply.status);
        match reply.then {
            Then::Flood if reply.announced_bytes.is_none() => head += "Connection: close\r\n",
            _ => head += &format!("Content-Length: {length}\r\n"),
        }
        for (name, value) in &reply.headers {
            head += &format!("{name}: {value}\r\n");
        }
        connection.write_all((head + "\r\n").as_bytes()).await?;
        connection.write_all(&reply.body).await?;
        connection.flush().await?;
        match reply.then {
            Then::Next => {}
            Then::Cut => return connection.shutdown().await,
            Then::Hang => std::future::pending().await,
            Then::Drip(pause) => loop {
                connection.write_all(b"x").await?;
                connection.flush().await?;
                tokio::time::sleep(pause).await;
            },
            Then::Flood => loop {
                connection.write_all(&[b' '; 65536]).await?;
            },
        }
    }
    Ok(())
}

/// Reads a request; `None` at the end of the connection, or for anything else (such as the start of a TLS handshake).
async fn read_request(connection: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Request>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = connection.read_u8().await else {
            return Ok(None);
        };
        if head.is_empty() && !byte.is_ascii_uppercase() {
            return Ok(None);
        }
        head.push(byte);
    }
    let text = String::from_utf8(head).unwrap();
    let mut lines = text.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let headers = lines.filter_map(|line| line.split_once(": "));
    let mut request = Request {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: headers
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        body: String::new(),
    };
    let mut body = vec![0; request.header("content-length").parse().unwrap_or(0)];
    connection.read_exact(&mut body).await?;
    request.body = String::from_utf8(body).unwrap();
    Ok(Some(request))
}
