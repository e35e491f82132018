//! One socket, from its handshake to its close: a reader of the client's frames, a reader of storage and a writer, side
//! by side in the connection's own task, so that none of them holds up another.

use super::{
    frames::{self, Answer, Asked, CloseCode, Request},
    pump::{RUNS_FOLLOWED_MAX, Refused, Subscriptions, pump},
};
use crate::{
    api::{
        Api,
        body::{BodyRoom, JsonRequest as _, parse_object},
        cursor, idempotency,
        problem::Problem,
        rest::runs::{self, RunSubmission, own_run},
        share::UnderWay,
    },
    listener::linger,
};
use axum::http::StatusCode;
use bytes::Bytes;
use cofferdam_core::{
    emitter::{Batch, Next, Outlet},
    fault::Fault,
    identity::Scope,
    ids::{KeyId, RequestId, RunId, SessionId},
};
use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink, stream::SplitStream};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    net::TcpStream,
    sync::mpsc,
    time::{MissedTickBehavior, interval_at, sleep, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};

/// The largest frame of a client: a submission with the largest input, and what stands around it.
const FRAME_BYTES_MAX: usize = RunSubmission::BYTES_MAX + (4 << 10);

/// How many bytes are read at once. Each idle socket holds a buffer of this size.
const READ_BYTES: usize = 4 << 10;

/// How many bytes are gathered for one write.
const WRITE_BYTES: usize = 32 << 10;

/// How many answers wait for the socket. While there is no room for another, no frame is read: a client that asks and
/// does not listen comes to a stop.
const ANSWERS_WAITING_MAX: usize = 4;

/// How long a socket may go on when the server goes away, to be given what has happened until then.
const REST_MAX: Duration = Duration::from_secs(1);

/// How often it is looked whether it was.
const REST_LOOK_EVERY: Duration = Duration::from_millis(5);

/// How long the last words of the server may take.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// A socket to be served.
pub(super) struct Socket {
    pub api: Arc<Api>,
    pub scope: Scope,
    /// Who cancels over it.
    pub key: KeyId,
    /// What the runs that it brings have as their session.
    pub session: Option<SessionId>,
    pub room: BodyRoom,
    pub outlet: Outlet,
    /// A socket is a request under way for as long as it is open.
    pub under_way: Arc<UnderWay>,
}

type Sink = SplitSink<WebSocketStream<TcpStream>, Message>;
type Source = SplitStream<WebSocketStream<TcpStream>>;

/// Why a socket comes to its end.
enum End {
    /// The client is gone, or closes by itself.
    Gone,
    /// The client does not take what it is sent: there is no way to say so.
    Stuck,
    /// The host closes it, with a word about why.
    Closed(CloseCode, &'static str),
    /// The client sent what cannot be answered.
    Refused(CloseCode, Box<Answer>),
}

/// When the client was last heard of.
struct Heard(Mutex<Instant>);

impl Heard {
    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn ago(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

impl Socket {
    /// Serves a connection that has just become a WebSocket.
    pub async fn serve(self, connection: TcpStream, read: Bytes) {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(WRITE_BYTES)
            .max_frame_size(Some(FRAME_BYTES_MAX))
            .max_message_size(Some(FRAME_BYTES_MAX));
        let socket = WebSocketStream::from_partially_read(connection, read.into(), Role::Server, Some(config)).await;
        let (mut sink, mut source) = socket.split();
        let heard = Heard(Mutex::new(Instant::now()));
        let subscriptions = Subscriptions::default();
        // Before anything is followed, so that whatever comes after is news.
        let mut news = self.api.runtime.journal().follow_user(&self.scope);
        let (answers, mut answered) = mpsc::channel(ANSWERS_WAITING_MAX);
        let end = tokio::select! {
            end = self.listen(&mut source, &heard, &subscriptions, &answers) => end,
            end = self.speak(&mut sink, &heard, &mut answered) => end,
            error = pump(&self.api, &self.scope, &subscriptions, &self.outlet, &mut news) => {
                tracing::error!(error = %error, source = ?error.source, "a socket broke off");
                End::Closed(CloseCode::HostFailed, "the host failed; connect again and resume")
            }
            () = self.closing(&subscriptions) => End::Closed(CloseCode::GoingAway, "the server goes away; connect again and resume"),
        };
        drop((news, subscriptions, self.outlet));
        // The last words may wait behind others that the client does not take.
        let _ = timeout(CLOSE_MAX, say_last(&mut sink, &end)).await;
        if let (Ok(socket), false) = (sink.reunite(source), matches!(end, End::Stuck)) {
            let mut connection = socket.into_inner();
            if !self.api.closing.is_cancelled() {
                linger(&mut connection).await;
            }
        }
        drop(self.under_way);
    }

    /// Waits until the server goes away, and for what the client has not been told of the runs that have just ended.
    async fn closing(&self, subscriptions: &Subscriptions) {
        self.api.closing.cancelled().await;
        subscriptions.look();
        let rest = async {
            while !(subscriptions.is_read() && self.outlet.is_idle()) {
                sleep(REST_LOOK_EVERY).await;
            }
        };
        // A client that takes longer finds the rest in storage.
        let _ = timeout(REST_MAX, rest).await;
    }

    /// Reads frames, one after another: the next when the last was answered.
    async fn listen(
        &self,
        source: &mut Source,
        heard: &Heard,
        subscriptions: &Subscriptions,
        answers: &mpsc::Sender<String>,
    ) -> End {
        loop {
            let message = source.next().await;
            heard.now();
            let text = match message {
                Some(Ok(Message::Text(text))) => text,
                // The answers to pings are in order, and only the protocol's own affair.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Ok(Message::Binary(_))) => {
                    let detail = "the frame is binary; frames are texts";
                    return refuse(CloseCode::BinaryFrame, "binary_frame", detail);
                }
                None | Some(Ok(Message::Close(_))) => return End::Gone,
                Some(Err(error)) => return unreadable(error),
            };
            let answer = match frames::parse(&text) {
                Ok(asked) => {
                    // As much a request as one of HTTP, which counts when its key is looked at.
                    self.api.runtime.askers().asks(self.scope.user());
                    let id = asked.id.clone();
                    let answer = self.answer(asked, subscriptions, text.len()).await;
                    answer.unwrap_or_else(|problem| Answer::error(id, problem).text())
                }
                Err(problem) => return End::Refused(CloseCode::InvalidFrame, Box::new(Answer::error(None, problem))),
            };
            // The frame may be megabytes; its answer may have to wait.
            drop(text);
            if answers.send(answer).await.is_err() {
                return End::Gone;
            }
        }
    }

    async fn answer(&self, asked: Asked, subscriptions: &Subscriptions, bytes: usize) -> Result<String, Problem> {
        let Asked { id, what } = asked;
        match what {
            Request::Ping => Ok(Answer::Pong { id }.text()),
            Request::Subscribe { run, after } => self.subscribe(id, &run, after, subscriptions).await,
            Request::SubscribeAll { after } => {
                let live_from = self.api.runtime.storage().feed_end(&self.scope).await?;
                let start = cursor::start(&self.api, &self.scope, after.as_deref(), "after").await?;
                let cursor = Some(cursor::of(&self.scope, start.0));
                subscriptions.add_all(start, live_from)?;
                // Of runs that had ended, and were followed one by one, something may be waiting still.
                self.outlet.forget(None);
                Ok(Answer::Subscribed { id, run_id: None, ended: None, cursor }.text())
            }
            Request::Unsubscribe { run } => {
                let run_id = run.map(|run| run.parse::<RunId>()).transpose().map_err(|_| Problem::no_such_run())?;
                if subscriptions.remove(run_id) {
                    self.outlet.forget(run_id);
                }
                Ok(Answer::Unsubscribed { id, run_id }.text())
            }
            Request::Submit { submission, idempotency_key } => {
                let _room = self.room.hold(bytes)?;
                let once = idempotency::once(idempotency_key, submission.get().as_bytes())?;
                let submission = parse_object::<RunSubmission>(submission.get().as_bytes())?;
                let request = id.clone().unwrap_or_else(RequestId::generate);
                let session = self.session.clone();
                let accepted = runs::accept(&self.api, &self.scope, submission, session, request, once).await?;
                Ok(frames::run("accepted", id, &runs::Run::of(&self.api, accepted.view)))
            }
            Request::Cancel { run } => {
                Ok(frames::run("cancelled", id, &runs::stop(&self.api, &self.scope, &run, &self.key).await?))
            }
        }
    }

    async fn subscribe(
        &self,
        id: Option<RequestId>,
        run: &str,
        after: u64,
        subscriptions: &Subscriptions,
    ) -> Result<String, Problem> {
        let run = own_run(&self.api, &self.scope, run).await?.id;
        subscriptions.room_for(run)?;
        // First follow, then look how far it has come: what happens in between is told, not missed.
        let following = self.api.runtime.journal().follow(run);
        let ended = self.api.runtime.storage().run(&self.scope, run).await?.ok_or_else(Problem::no_such_run)?;
        let ended = ended.status.is_terminal();
        let last = self.api.runtime.storage().log_end(&self.scope, run).await?;
        if after > last {
            return Err(Problem::cursor_ahead("after"));
        }
        let over = ended && after == last;
        // Of an earlier subscription to a run that has ended since, something may be waiting still.
        self.outlet.forget(Some(run));
        if !over {
            subscriptions.add(run, after, last, ended, following);
        }
        Ok(Answer::Subscribed { id, run_id: Some(run), ended: Some(over), cursor: None }.text())
    }

    /// Writes answers, events and pings.
    async fn speak(&self, sink: &mut Sink, heard: &Heard, answered: &mut mpsc::Receiver<String>) -> End {
        let times = self.api.socket_times;
        let mut ping = interval_at(tokio::time::Instant::now() + times.ping_every, times.ping_every);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let written = tokio::select! {
                biased;
                Some(answer) = answered.recv() => timeout(times.write_max, sink.send(Message::text(answer))).await,
                _ = ping.tick() => {
                    if heard.ago() >= times.silence_max {
                        self.outlet.reaped();
                        return End::Closed(CloseCode::Silent, "no answer to pings");
                    }
                    timeout(times.write_max, sink.send(Message::Ping(Bytes::new()))).await
                }
                batch = self.outlet.next() => timeout(times.write_max, write(sink, batch)).await,
            };
            match written {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return End::Gone,
                Err(_) => {
                    self.outlet.reaped();
                    return End::Stuck;
                }
            }
        }
    }
}

/// Writes events and gaps; they are delivered when the socket has taken them all.
async fn write(sink: &mut Sink, mut batch: Batch<'_>) -> Result<(), tungstenite::Error> {
    for item in batch.items() {
        let text = match item {
            Next::Event(event) => event.text,
            Next::Gap { run, from, to } => Answer::Gap { run_id: run, from, to }.text(),
        };
        sink.feed(Message::text(text)).await?;
    }
    sink.flush().await?;
    batch.delivered();
    Ok(())
}

async fn say_last(sink: &mut Sink, end: &End) -> Result<(), tungstenite::Error> {
    let (code, reason) = match end {
        End::Stuck => return Ok(()),
        End::Gone => return sink.close().await,
        End::Closed(code, reason) => (*code, *reason),
        End::Refused(code, answer) => {
            sink.feed(Message::text(answer.text())).await?;
            (*code, "see the error before")
        }
    };
    sink.send(Message::Close(Some(CloseFrame { code: (code as u16).into(), reason: reason.into() }))).await
}

fn refuse(code: CloseCode, name: &'static str, detail: impl Into<String>) -> End {
    let status = if code == CloseCode::FrameTooLarge { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::BAD_REQUEST };
    let problem = Problem::http(status, name, detail).hint("connect again, and resume with the last seq or cursor");
    End::Refused(code, Box::new(Answer::error(None, problem)))
}

/// What the client sent cannot be read as frames.
fn unreadable(error: tungstenite::Error) -> End {
    match error {
        tungstenite::Error::Capacity(_) => {
            let detail = format!("the frame is larger than {FRAME_BYTES_MAX} bytes");
            refuse(CloseCode::FrameTooLarge, "frame_too_large", detail)
        }
        tungstenite::Error::Utf8(_) => refuse(CloseCode::InvalidUtf8, "invalid_utf8", "the frame is not UTF-8"),
        // A connection that breaks off is nobody's fault.
        tungstenite::Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => End::Gone,
        tungstenite::Error::Protocol(error) => refuse(CloseCode::ProtocolError, "protocol_error", error.to_string()),
        _ => End::Gone,
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Already => Self::http(
                StatusCode::CONFLICT,
                "already_subscribed",
                "this socket follows this run or all runs already, and not both ways at once",
            )
            .hint("unsubscribe first, or open another socket"),
            Refused::TooMany => Self::new(
                Fault::Exhausted,
                "too_many_subscriptions",
                format!("this socket follows {RUNS_FOLLOWED_MAX} runs, which is as many as may be"),
            )
            .hint("unsubscribe from one, or follow all with subscribe_all"),
        }
    }
}
