//! The part of the client that has durable runs: it submits each once however often it has to ask, answers their questions,
//! and follows them to their end.

use crate::{
    acks::Ack,
    client::{AGAIN_AFTER, FOLLOW_AFTER_END_MAX, Load, User},
    http::{Answer, text},
    plan::{self, Step},
    random::Random,
};
use anyhow::Context as _;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Users who have durable runs, and how many runs of each are followed at once.
const USERS: u64 = 2;
pub const RUNS_AT_ONCE: u64 = 4;
/// Of these, one in so many is cancelled, within so many milliseconds.
const CANCELLED_ONE_IN: u64 = 6;
const CANCELLED_AFTER_MS: std::ops::Range<u64> = 0..1_200;
/// How long a person thinks: long enough that kills meet runs that ask, at every kill about one of them.
const THINKS_MS: std::ops::Range<u64> = 0..1_500;
/// After one answer in so many a second one is tried, which must be refused.
const SECOND_ANSWER_ONE_IN: u64 = 3;
/// How many finished runs are kept of the user whose old runs go while the server is killed, and the pause between them.
pub const YOUNG_RUNS_STORED: usize = 8;
const YOUNG_EVERY: Duration = Duration::from_millis(120);

impl Load {
    /// The users who have durable runs, and what they are granted.
    pub async fn prepare_durable(&self) -> anyhow::Result<Vec<User>> {
        let mut users = Vec::new();
        for number in 0..USERS {
            let user = self.user(format!("waits-{number}"), number).await?;
            let grant = json!({
                "tools": ["file.*", "effects.*"], "state": "read_write", "human": true, "agents": ["probe", "echo"],
            });
            self.grant(&user.name, "probe", &grant).await?;
            self.grant(&user.name, "effects", &json!({"workspace": "read_write"})).await?;
            users.push(user);
        }
        Ok(users)
    }

    /// The user of whom few runs are kept.
    pub async fn prepare_young(&self) -> anyhow::Result<User> {
        let user = self.user("young".to_owned(), 0).await?;
        self.grant(&user.name, "probe", &json!({"tools": ["file.*"], "state": "read_write"})).await?;
        let quota = json!({"runs_stored": YOUNG_RUNS_STORED});
        let path = format!("/v1/users/{}/quota", user.name);
        let set = self.operator.send(Method::PUT, &path, Some(&quota)).await?;
        anyhow::ensure!(set.status == StatusCode::OK, "no quota for {}: {}", user.name, set.status);
        Ok(user)
    }

    /// Has durable runs of all kinds, one after another.
    pub async fn have_durable_runs(self: Arc<Self>, user: User, number: u64) -> anyhow::Result<()> {
        // Beside those of the other load.
        let mut random = Random::new(self.seed, 1_000 + user.number * RUNS_AT_ONCE + number);
        while !self.ending() {
            let token = format!("{}-{}", user.name, self.number());
            if random.between(0, CANCELLED_ONE_IN) == 0 {
                self.endless_and_cancelled(&user, &token, &mut random).await?;
            } else {
                self.planned(&user, &token, &mut random).await?;
            }
        }
        Ok(())
    }

    /// A run that is followed to its end, whose questions are answered.
    async fn planned(&self, user: &User, token: &str, random: &mut Random) -> anyhow::Result<()> {
        let plan = plan::that_ends(token, random);
        let Some(run) = self.submit_durable(user, token, plan, false).await? else { return Ok(()) };
        let answered = self.follow(user, &run, async |event| match asks(event) {
            Some(question) => self.answer(user, &run, question, random).await,
            None => Ok(()),
        });
        answered.await?;
        self.read_end(user, &run).await
    }

    /// A run that waits and waits, and is cancelled.
    async fn endless_and_cancelled(&self, user: &User, token: &str, random: &mut Random) -> anyhow::Result<()> {
        let plan = plan::endless(token, random);
        let Some(run) = self.submit_durable(user, token, plan, true).await? else { return Ok(()) };
        random.pause(CANCELLED_AFTER_MS).await;
        // It ends in no other way, so the cancel has to come through.
        let mut given_up = None;
        while !self.cancel(user, &run).await? && !self.gives_up(&mut given_up) {}
        Ok(())
    }

    /// Submits a run until it is acknowledged; under its key it is one run, however often it was sent.
    async fn submit_durable(
        &self,
        user: &User,
        token: &str,
        plan: Vec<Step>,
        endless: bool,
    ) -> anyhow::Result<Option<String>> {
        let run = json!({"agent": "probe", "input": plan::input(&plan), "durability": "durable"});
        let mut given_up = None;
        loop {
            match user.client.submit_as(token, &run).await {
                Ok(answer) if answer.status.is_success() => {
                    let id = text(&answer.json(), "id").to_owned();
                    self.acks.record(&Ack::Durable { user: user.name.clone(), run: id.clone(), plan, endless }).await?;
                    return Ok(Some(id));
                }
                // The one before is being taken just now.
                Ok(answer) if answer.code().as_deref() == Some("idempotency_in_flight") => {
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                other => {
                    let refused = is_refused(&other);
                    self.other("submit a durable run", other).await?;
                    if refused || self.gives_up(&mut given_up) {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Answers a question until the answer is acknowledged, and perhaps tries to answer it once more.
    async fn answer(&self, user: &User, run: &str, question: Question, random: &mut Random) -> anyhow::Result<()> {
        let Question { call, prompt } = question;
        let value = json!({"number": random.next() >> 16, "prompt": prompt});
        random.pause(THINKS_MS).await;
        let (mut lost, mut given_up) = (false, None);
        loop {
            match user.client.answer(run, call, &value).await {
                Ok(answer) if answer.status == StatusCode::OK => break,
                // Only one value was ever sent, so the answer that there is already is this one.
                Ok(answer) if lost && is_answered(&answer) => break,
                other => {
                    let refused = is_refused(&other);
                    lost |= !refused;
                    self.other("answer a question", other).await?;
                    if refused || self.gives_up(&mut given_up) {
                        return Ok(());
                    }
                }
            }
        }
        self.acks.record(&Ack::Answer { run: run.to_owned(), prompt, answer: value }).await?;
        if random.between(0, SECOND_ANSWER_ONE_IN) == 0 {
            match user.client.answer(run, call, &json!({"number": "second"})).await {
                Ok(answer) if is_answered(&answer) => {}
                // With a success a second answer was taken for the same question.
                other => self.other("answer a question again", other).await?,
            }
        }
        Ok(())
    }

    /// Whether it is too late to try again.
    fn gives_up(&self, since: &mut Option<Instant>) -> bool {
        self.ending() && since.get_or_insert_with(Instant::now).elapsed() > FOLLOW_AFTER_END_MAX
    }

    /// Has short runs of a user of whom only the youngest are kept, one after another.
    pub async fn have_young_runs(self: Arc<Self>, user: User) -> anyhow::Result<()> {
        while !self.ending() {
            let number = self.number();
            let steps = json!([
                {"do": "thinking", "text": "young"},
                {"do": "state_set", "scope": "user", "key": "young", "text": number.to_string()},
            ]);
            let durability = if number.is_multiple_of(2) { "durable" } else { "ephemeral" };
            let run = json!({
                "agent": "probe", "input": {"do": "seq", "steps": steps}, "durability": durability,
            });
            match user.client.submit_and_wait(&run).await {
                Ok(answer) if answer.status == StatusCode::OK => {
                    let run = text(&answer.json(), "id").to_owned();
                    self.acks.record(&Ack::Young { user: user.name.clone(), run }).await?;
                }
                Ok(answer) if answer.status.is_success() => {}
                other => self.other("submit a run that is not kept long", other).await?,
            }
            tokio::time::sleep(YOUNG_EVERY).await;
        }
        Ok(())
    }

    async fn user(&self, name: String, number: u64) -> anyhow::Result<User> {
        let key = self.make_key(&name).await?.with_context(|| format!("no key for {name}"))?;
        Ok(User { number, name, client: self.operator.with_key(&key) })
    }

    async fn grant(&self, user: &str, plugin: &str, grant: &Value) -> anyhow::Result<()> {
        let path = format!("/v1/users/{user}/grants/{plugin}");
        let granted = self.operator.send(Method::PUT, &path, Some(grant)).await?;
        anyhow::ensure!(granted.status == StatusCode::OK, "no grant for {user}: {}", granted.status);
        Ok(())
    }
}

/// A question, as an event tells it.
struct Question {
    call: u64,
    prompt: String,
}

/// The question that an event tells, if it tells one.
fn asks(event: &Value) -> Option<Question> {
    let payload = event.get("payload").filter(|payload| text(payload, "for") == "human")?;
    let prompt = text(payload.get("about")?, "prompt").to_owned();
    let call = payload.get("call").and_then(Value::as_u64)?;
    (text(event, "type") == "run_waiting").then_some(Question { call, prompt })
}

/// Whether the same request would be refused again.
fn is_refused(answer: &reqwest::Result<Answer>) -> bool {
    let status = answer.as_ref().map(|answer| answer.status);
    status.is_ok_and(|status| status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS)
}

/// Whether the question is not open any more.
fn is_answered(answer: &Answer) -> bool {
    answer.status == StatusCode::CONFLICT
        && answer.code().is_some_and(|code| ["already_answered", "not_waiting"].contains(&code.as_str()))
}
