//! The connections: accepts them, bounds how many there are and how slow they may be, and ends them when told.

use axum::Router;
use bytes::Bytes;
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Connections of one listener at once. More wait in the system's queue, so that open sockets cannot use up the
/// host's file descriptors and memory.
const CONNECTIONS_MAX: usize = 4_096;

/// The longest time for the head of a request, and the longest that a connection may be idle between two. A client
/// that sends a header a byte at a time, or nothing at all, gives its connection back.
const HEAD_READ_MAX: Duration = Duration::from_secs(30);

/// How much of a request's head is read at most.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// How long a client that is still sending something which was refused may go on, so that it gets to read the refusal.
const LINGER_MAX: Duration = Duration::from_secs(2);

/// The pause after the system refused a connection, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How the connections of a server come to their end.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    /// No new connections, no new requests on the old ones.
    pub closing: CancellationToken,
    /// Now.
    pub aborting: CancellationToken,
    /// Every task of the server.
    pub tasks: TaskTracker,
}

/// Who takes a connection over when it leaves HTTP, with what was read of it beyond its last request.
type Successor = Box<dyn FnOnce(TcpStream, Bytes) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

/// Where an answer 101 leaves its successor. The successor has the connection's own task, so that the connection keeps
/// its place among those that may be open, and ends when the server does.
#[derive(Clone, Default)]
pub(crate) struct Handover(Arc<Mutex<Option<Successor>>>);

impl Handover {
    /// Names the successor. The answer to the request must be 101.
    pub fn to<F: Future<Output = ()> + Send + 'static>(
        &self,
        successor: impl FnOnce(TcpStream, Bytes) -> F + Send + 'static,
    ) {
        let successor: Successor = Box::new(move |socket, read| Box::pin(successor(socket, read)));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(successor);
    }

    fn take(&self) -> Option<Successor> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handover")
    }
}

/// As many as half of the file descriptors that the process may have leave room for, for two listeners: the other half
/// is for files, workers and the database.
fn connections_max() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    CONNECTIONS_MAX.min(usize::try_from(files / 4).unwrap_or(CONNECTIONS_MAX)).max(1)
}

/// Serves a listener until it is told to close.
pub(crate) async fn serve(listener: TcpListener, routes: Router, ending: Ending) {
    let places = Arc::new(Semaphore::new(connections_max()));
    loop {
        let accepted = tokio::select! {
            accepted = async {
                // The semaphore is never closed.
                let place = places.clone().acquire_owned().await.ok()?;
                Some((listener.accept().await, place))
            } => accepted,
            () = ending.closing.cancelled() => return,
        };
        match accepted {
            None => return,
            Some((Ok((socket, _)), place)) => {
                let (routes, end) = (routes.clone(), ending.clone());
                ending.tasks.spawn(async move {
                    tokio::select! {
                        () = connection(socket, routes, &end) => {}
                        () = end.aborting.cancelled() => {}
                    }
                    drop(place);
                });
            }
            Some((Err(error), _)) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(socket: TcpStream, routes: Router, ending: &Ending) {
    // Answers are small and events should not wait for the next one. A socket without the option works, too.
    let _ = socket.set_nodelay(true);
    let handover = Handover::default();
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(handover.clone());
        routes.call(request)
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_READ_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(socket), service);
    let mut closing = false;
    let served = loop {
        tokio::select! {
            served = poll_fn(|cx| connection.poll_without_shutdown(cx)) => break served,
            () = ending.closing.cancelled(), if !closing => {
                closing = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    let parts = connection.into_parts();
    let mut socket = parts.io.into_inner();
    match served {
        Ok(()) => {
            if let Some(successor) = handover.take() {
                return successor(socket, parts.read_buf).await;
            }
        }
        Err(error) => tracing::debug!(%error, "a connection ended early"),
    }
    if !closing {
        linger(&mut socket).await;
    }
}

/// Says that nothing more is sent, and reads what the client still sends, so that it gets to read what was sent last:
/// closing at once would reset the connection under it.
pub(crate) async fn linger(socket: &mut TcpStream) {
    let lingering = async {
        let _ = socket.shutdown().await;
        let mut unread = [0_u8; 4096];
        while socket.read(&mut unread).await.is_ok_and(|bytes| bytes > 0) {}
    };
    let _ = timeout(LINGER_MAX, lingering).await;
}
