//! The connections: accepts them, bounds how many there are and how slow they may be, and ends them when told.

use crate::answer::Answer;
use axum::{
    Router,
    body::{Bytes, HttpBody},
    http::{HeaderValue, header},
};
use futures_util::TryFutureExt as _;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use std::{
    collections::BTreeMap,
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Connections of one listener at once, so that open sockets cannot use up the host's file descriptors and memory. One
/// more closes the one that has been without a request for longest: whoever opens many and says nothing keeps out nobody
/// who has something to say. Only while all of them have a request under way does it wait, and more in the system's queue.
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

/// The connections of a listener.
struct Connections {
    places: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    /// Told whenever a connection comes to be without a request.
    waits: Notify,
}

/// Those that have no request under way, in the order in which they came to be so.
#[derive(Default)]
struct Waiting {
    next: u64,
    in_order: BTreeMap<u64, CancellationToken>,
}

impl Connections {
    fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { places: Arc::new(Semaphore::new(max)), waiting: Mutex::default(), waits: Notify::new() })
    }

    /// A place for one more. If there is none, who has waited longest for nothing gives up theirs.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            let waits = self.waits.notified();
            let place = self.places.clone().acquire_owned();
            if self.places.available_permits() > 0 || self.close_one() {
                // The semaphore is never closed.
                return place.await.ok();
            }
            tokio::select! {
                place = place => return place.ok(),
                () = waits => {}
            }
        }
    }

    fn close_one(&self) -> bool {
        let first = self.waiting().in_order.pop_first();
        first.map(|(_, close)| close.cancel()).is_some()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection, as the others know it.
struct Client {
    connections: Arc<Connections>,
    close: CancellationToken,
    turn: Mutex<Turn>,
}

#[derive(Default)]
struct Turn {
    requests: usize,
    /// Its place among those that wait, if it does.
    waits: Option<u64>,
}

impl Client {
    fn new(connections: Arc<Connections>) -> Arc<Self> {
        let client = Self { connections, close: CancellationToken::new(), turn: Mutex::default() };
        client.waits(&mut client.turn());
        Arc::new(client)
    }

    fn waits(&self, turn: &mut Turn) {
        let mut waiting = self.connections.waiting();
        let number = waiting.next;
        waiting.next += 1;
        waiting.in_order.insert(number, self.close.clone());
        turn.waits = Some(number);
        drop(waiting);
        self.connections.waits.notify_one();
    }

    fn waits_no_more(&self, turn: &mut Turn) {
        if let Some(number) = turn.waits.take() {
            self.connections.waiting().in_order.remove(&number);
        }
    }

    fn begin(self: &Arc<Self>) -> Request {
        let mut turn = self.turn();
        turn.requests += 1;
        self.waits_no_more(&mut turn);
        Request(self.clone())
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.waits_no_more(&mut self.turn());
    }
}

/// A request that is under way until this is dropped.
struct Request(Arc<Client>);

impl Drop for Request {
    fn drop(&mut self) {
        let mut turn = self.0.turn();
        turn.requests -= 1;
        if turn.requests == 0 {
            self.0.waits(&mut turn);
        }
    }
}

/// The body of a request, which says whether all of it was read.
struct Sent {
    body: Incoming,
    over: Arc<AtomicBool>,
}

impl HttpBody for Sent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None)) || self.body.is_end_stream() {
            self.over.store(true, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// Serves a listener until it is told to close.
pub(crate) async fn serve(listener: TcpListener, routes: Router, ending: Ending) {
    serve_at_most(connections_max(), listener, routes, ending).await;
}

async fn serve_at_most(max: usize, listener: TcpListener, routes: Router, ending: Ending) {
    let connections = Connections::new(max);
    loop {
        let accepted = async {
            // One socket more than there are places, so that it is known that somebody wants one.
            let socket = listener.accept().await;
            let place = match &socket {
                Ok(_) => connections.place().await,
                Err(_) => None,
            };
            (socket, place)
        };
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            () = ending.closing.cancelled() => return,
        };
        match accepted {
            (Ok((socket, _)), Some(place)) => {
                let (routes, end, client) = (routes.clone(), ending.clone(), Client::new(connections.clone()));
                ending.tasks.spawn(async move {
                    tokio::select! {
                        () = connection(socket, routes, &end, &client) => {}
                        () = client.close.cancelled() => {}
                        () = end.aborting.cancelled() => {}
                    }
                    drop(place);
                });
            }
            (Ok(_), None) => return,
            (Err(error), _) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(socket: TcpStream, routes: Router, ending: &Ending, client: &Arc<Client>) {
    // Answers are small and events should not wait for the next one. A socket without the option works, too.
    let _ = socket.set_nodelay(true);
    let handover = Handover::default();
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        let begun = client.begin();
        request.extensions_mut().insert(handover.clone());
        let over = Arc::new(AtomicBool::new(request.body().is_end_stream()));
        let request = request.map(|body| Sent { body, over: over.clone() });
        routes.call(request).map_ok(move |mut response| {
            // What was refused before it was read is not read to its end, so the connection cannot go on. A client that is
            // not told sends its next request into a connection that is being closed.
            if !over.load(Ordering::Relaxed) {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response.map(|body| Answer::holding(body, begun))
        })
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
                // What has left HTTP is under way for as long as it is there.
                let _request = client.begin();
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

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::net::tcp::OwnedReadHalf;

    /// Soon, on a busy machine, and much sooner than any time-out of the listener.
    const SOON: Duration = Duration::from_secs(5);

    struct Listening {
        address: std::net::SocketAddr,
        /// What requests to `/wait` wait for.
        go_on: Arc<Semaphore>,
        begun: Arc<Semaphore>,
        ending: Ending,
    }

    async fn listening(max: usize) -> Listening {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (go_on, begun) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (waits, says) = (go_on.clone(), begun.clone());
        let wait = async move || {
            says.add_permits(1);
            waits.acquire().await.expect("open").forget();
            "waited"
        };
        let routes = Router::new().route("/", get(async || "here")).route("/wait", get(wait));
        let ending =
            Ending { closing: CancellationToken::new(), aborting: CancellationToken::new(), tasks: TaskTracker::new() };
        ending.tasks.spawn(serve_at_most(max, listener, routes, ending.clone()));
        Listening { address, go_on, begun, ending }
    }

    impl Listening {
        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.expect("connected")
        }

        /// Sends a request, and gives what its answer can be read from.
        async fn ask(&self, path: &str) -> (OwnedReadHalf, tokio::net::tcp::OwnedWriteHalf) {
            let (read, mut write) = self.connect().await.into_split();
            write.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.expect("sent");
            (read, write)
        }
    }

    async fn answer(mut read: OwnedReadHalf) -> String {
        let mut bytes = vec![0; 1 << 10];
        let count = timeout(SOON, read.read(&mut bytes)).await.expect("in time").expect("read");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    }

    #[tokio::test]
    async fn connections_that_say_nothing_keep_out_nobody() {
        let host = listening(4).await;
        let mut silent = Vec::new();
        for _ in 0..20 {
            silent.push(host.connect().await);
        }
        for _ in 0..20 {
            let (read, _write) = host.ask("/").await;
            assert!(answer(read).await.ends_with("here"));
        }
        // The first of them were closed for the others.
        let mut byte = [0];
        let first = timeout(SOON, silent[0].read(&mut byte)).await.expect("in time");
        assert!(first.is_err() || first.is_ok_and(|bytes| bytes == 0));
        host.ending.aborting.cancel();
    }

    #[tokio::test]
    async fn an_answer_to_what_was_not_read_says_that_the_connection_ends() {
        let host = listening(4).await;
        for (length, closes) in [(0, false), (1 << 20, true)] {
            let (read, mut write) = host.connect().await.into_split();
            let head = format!("GET / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
            write.write_all(head.as_bytes()).await.expect("sent");
            let said = answer(read).await.to_lowercase();
            assert_eq!(said.contains("connection: close"), closes, "{said}");
        }
        host.ending.aborting.cancel();
    }

    #[tokio::test]
    async fn a_connection_with_a_request_under_way_is_not_closed_for_another() {
        let host = listening(4).await;
        let mut under_way = Vec::new();
        for _ in 0..4 {
            under_way.push(host.ask("/wait").await);
        }
        host.begun.acquire_many(4).await.expect("open").forget();
        let (late, _write) = host.ask("/").await;
        let mut late = std::pin::pin!(answer(late));
        assert!(timeout(Duration::from_millis(50), &mut late).await.is_err(), "there is no place");
        // One is answered, has no request any more, and gives its place.
        host.go_on.add_permits(1);
        assert!(late.await.ends_with("here"));
        host.go_on.add_permits(3);
        for (read, _write) in under_way {
            assert!(answer(read).await.ends_with("waited"));
        }
        host.ending.aborting.cancel();
    }
}
