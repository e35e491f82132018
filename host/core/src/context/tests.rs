use super::*;

fn context(permissions: Permissions, quota: &Quota) -> UserExecutionContext {
    let described = UserExecutionContext::description(Digest::of(b"")).expect("fixed names are valid");
    UserExecutionContext::rest(
        described.spec.clone(),
        permissions,
        LiveQuota::fixed(quota.clone()),
        StopSignal::default(),
    )
}

#[test]
fn what_is_not_granted_is_denied_and_remembered() {
    let ctx = context(Permissions::new(["file.read".parse().expect("a tool")], Access::Read), &Quota::default());
    assert!(ctx.authorize(Effect::Tool("file.read")).is_ok());
    assert!(ctx.authorize(Effect::StateRead).is_ok());
    assert!(!ctx.was_denied());
    assert!(ctx.authorize(Effect::Tool("file.write")).is_err());
    assert!(ctx.authorize(Effect::StateWrite).is_err());
    assert!(ctx.was_denied());
}

#[test]
fn a_denial_says_which_side_lacks_it_and_what_would_mend_it() {
    let permissions =
        |tools: &[&str], state| Permissions::new(tools.iter().map(|tool| tool.parse().expect("a tool")), state);
    let declared = permissions(&["file.*"], Access::Read);
    let mut ctx = context(Permissions::none(), &Quota::default());
    ctx.permissions = Effective::of(&declared, &permissions(&["net.*"], Access::None));
    let word = |effect| ctx.authorize(effect).expect_err("denied").to_string();
    assert!(
        word(Effect::Tool("file.read")).contains(
            r#"'{"tools":["file.read","net.*"],"state":"none","workspace":"none","agents":[],"human":false}'"#
        )
    );
    assert!(
        word(Effect::StateRead)
            .contains(r#"'{"tools":["net.*"],"state":"read","workspace":"none","agents":[],"human":false}'"#)
    );
    for effect in [
        Effect::Tool("net.get"),
        Effect::Tool("Not a name"),
        Effect::StateWrite,
        Effect::Agent("echo"),
        Effect::Agent("Not a name"),
        Effect::Human,
    ] {
        assert!(word(effect).contains("needs do not declare it"), "{effect:?}: {}", word(effect));
    }
}

#[test]
fn starting_agents_and_asking_people_are_denied_until_they_stand_on_both_sides() {
    let agents =
        |names: &[&str]| Permissions::none().with_agents(names.iter().map(|name| name.parse().expect("an agent")));
    let declared = agents(&["*"]).with_human(true);
    let mut ctx = context(declared.clone(), &Quota::default());
    ctx.permissions = Effective::of(&declared, &agents(&["echo"]));
    assert!(ctx.authorize(Effect::Agent("echo")).is_ok());
    let word = |effect| ctx.authorize(effect).expect_err("denied").to_string();
    let probe = word(Effect::Agent("probe"));
    assert!(probe.contains(r#"may not start the agent "probe" for user "nobody""#), "{probe}");
    assert!(probe.contains(r#""workspace":"none","agents":["echo","probe"],"human":false}'"#), "{probe}");
    let people = word(Effect::Human);
    assert!(
        people.contains("may not ask people") && people.contains(r#""agents":["echo"],"human":true}'"#),
        "{people}"
    );
    // No grant is proposed for what is no name, and no more of it is repeated than a name can have.
    for name in ["*", "echo@0.1.0", &"*".repeat(1 << 20)] {
        let text = word(Effect::Agent(name));
        assert!(text.len() < 1_000 && text.contains(r#""agents":["echo"]"#), "{text}");
    }
    ctx.permissions = Effective::of(&declared, &declared);
    assert!(ctx.authorize(Effect::Agent("probe")).is_ok() && ctx.authorize(Effect::Human).is_ok());
}

#[test]
fn a_tool_context_spends_the_callers_budget_and_has_only_its_own_permissions() {
    let quota = Quota { events_per_run: 2, ..Quota::default() };
    let ctx = context(Permissions::new(["file.read".parse().expect("a tool")], Access::ReadWrite), &quota);
    let tool = ctx.tool("units".parse().expect("a name"), Permissions::none(), 7);
    assert!(tool.authorize(Effect::Tool("file.read")).is_err());
    assert!(tool.authorize(Effect::StateRead).is_err());
    assert!(tool.take_event(1).is_ok());
    assert!(ctx.take_event(1).is_ok());
    assert_eq!(tool.take_event(1), Err(BudgetSpent::Events(2)));
    assert_eq!(tool.deadline(), ctx.deadline());
    // Also one of the agent's own name.
    let namesake = ctx.tool(ctx.plugin().clone(), Permissions::none(), 8);
    assert_eq!((ctx.is_tool(), tool.is_tool(), namesake.is_tool()), (false, true, true));
    assert_eq!(ctx.idempotency_key(), None);
    assert_eq!(tool.idempotency_key(), Some(format!("{}:7", ctx.spec().id)));
}

#[test]
fn the_same_call_of_another_attempt_has_another_key_and_another_child() {
    let ctx = context(Permissions::none(), &Quota::default());
    let id = ctx.spec().id;
    assert_eq!(ctx.child(7), RunId::of_child(id, 1, 7));
    let again = context(Permissions::none(), &Quota::default()).at_attempt(3);
    let tool = again.tool("units".parse().expect("a name"), Permissions::none(), 7);
    assert_eq!(tool.idempotency_key(), Some(format!("{}:3:7", again.spec().id)));
    assert_eq!(again.child(7), RunId::of_child(again.spec().id, 3, 7));
    assert_eq!(again.made_by(7), MadeBy { run: again.spec().id, attempt: 3, call: 7 });
    let first = ctx.at_attempt(1);
    let tool = first.tool("units".parse().expect("a name"), Permissions::none(), 7);
    assert_eq!((tool.idempotency_key(), first.child(7)), (Some(format!("{id}:7")), RunId::of_child(id, 1, 7)));
}

#[tokio::test]
async fn what_is_done_again_is_not_the_runs_time_and_has_a_bound_of_its_own() {
    use crate::{
        record::{Asked, Record},
        replay::{Beyond, Said},
    };
    const USED: Duration = Duration::from_secs(50);
    let quota = Quota { deadline_ms: 60_000, ..Quota::default() };
    let fresh = context(Permissions::none(), &quota);
    let limit = Duration::from_millis(fresh.spec().limits.deadline_ms);
    assert!(limit < USED, "a plugin that is described has less");
    let record = Record::Started { call: 1, asked: "a".into() };
    let known = Arc::new(Known::new(vec![record], Said::Before(0), Beyond::Live));
    let ctx = context(Permissions::none(), &quota).going_on(USED, Some(known.clone()));
    let tool = ctx.tool("units".parse().expect("a name"), Permissions::none(), 7);
    assert!(ctx.is_on_its_way_back() && tool.is_on_its_way_back());
    assert_eq!(ctx.used(), USED);
    assert_eq!(ctx.deadline(), ctx.entered + limit);
    let late = async { tokio::time::timeout(Duration::from_secs(4), ctx.late()).await };
    let given = async {
        tokio::task::yield_now().await;
        known.again::<u64>(Asked::of("a")).expect("known");
    };
    // From then on its own time counts, of which there is none left here.
    let (late, ()) = tokio::join!(late, given);
    late.expect("it is late as soon as its own time begins");
    assert!(ctx.is_over() && tool.is_over() && !ctx.is_on_its_way_back());
    assert!(ctx.used() >= USED && tool.deadline() == ctx.deadline());
    let without = context(Permissions::none(), &quota).going_on(Duration::from_millis(1), None);
    assert_eq!(without.deadline(), without.entered + limit - Duration::from_millis(1));
}

#[test]
fn tool_calls_are_counted_in_all_and_at_once() {
    let quota = Quota { tool_calls_per_run: 3, tool_calls_in_flight: 2, ..Quota::default() };
    let ctx = context(Permissions::none(), &quota);
    let (a, b) = (ctx.take_tool_call().expect("first"), ctx.take_tool_call().expect("second"));
    assert_eq!((a.number(), b.number()), (1, 2));
    assert_eq!(ctx.take_tool_call().map(drop), Err(BudgetSpent::ToolCallsInFlight(2)));
    drop(a);
    drop(ctx.take_tool_call().expect("third"));
    assert_eq!(ctx.take_tool_call().map(drop), Err(BudgetSpent::ToolCalls(3)));
    drop(b);
    assert_eq!(ctx.spent.tool_calls_in_flight.load(Ordering::Relaxed), 0);
}

#[test]
fn whoever_asks_on_at_a_spent_budget_is_ended_at_twice_its_size() {
    let quota = Quota { events_per_run: 200, log_bytes_per_run: 1_000, host_calls_per_run: 300, ..Quota::default() };
    let ctx = context(Permissions::none(), &quota);
    for n in 0..399 {
        assert_eq!(ctx.take_event(1).is_ok(), n < 200, "event {n}");
        assert_eq!(ctx.stop().cause(), None, "event {n}");
    }
    assert_eq!(ctx.take_event(1), Err(BudgetSpent::Events(200)));
    assert_eq!(ctx.stop().cause(), Some(&StopCause::Overdrawn(BudgetSpent::Events(200))));

    let ctx = context(Permissions::none(), &quota);
    assert!(ctx.take_log_line(1_000).is_ok());
    assert_eq!(ctx.take_log_line(999), Err(BudgetSpent::LogBytes(1_000)));
    assert_eq!(ctx.stop().cause(), None);
    assert!(ctx.take_log_line(1).is_err() && ctx.stop().cause().is_some());

    let ctx = context(Permissions::none(), &quota);
    for n in 1..600 {
        ctx.count_host_call();
        assert_eq!(ctx.may_call_host().is_ok(), n <= 300, "call {n}");
    }
    assert_eq!(ctx.stop().cause(), None);
    ctx.count_host_call();
    assert_eq!(ctx.stop().cause(), Some(&StopCause::Overdrawn(BudgetSpent::HostCalls(300))));
}

#[tokio::test]
async fn the_first_cause_of_a_stop_stands_but_a_cancel_goes_before_every_other() {
    let stop = StopSignal::default();
    assert!(stop.stop(StopCause::HostShutdown));
    assert!(!stop.stop(StopCause::Overdrawn(BudgetSpent::Events(1))));
    assert_eq!(stop.cause(), Some(&StopCause::HostShutdown));
    let asked = |by: &str| StopCause::Cancelled(CancelRequest { by: by.parse().expect("a key id"), at: clock::now() });
    let first = asked("key_1");
    assert!(!stop.stop(first.clone()));
    assert!(!stop.clone().stop(StopCause::HostShutdown));
    assert!(!stop.stop(asked("key_2")));
    stop.stopped().await;
    assert_eq!(stop.cause(), Some(&first));
}

#[test]
fn the_deadline_stands_still_beside_others_but_not_for_ever() {
    let ctx = context(Permissions::none(), &Quota::default());
    let (limit, before) = (Duration::from_millis(DESCRIPTION_LIMITS.deadline_ms), ctx.deadline());
    ctx.written().waits_beside_others(Duration::from_secs(1));
    assert_eq!(ctx.deadline() - before, Duration::from_secs(1));
    assert_eq!(ctx.used(), Duration::ZERO, "and it is no time that it used");
    ctx.written().waits_beside_others(limit * 100);
    assert_eq!(ctx.deadline() - before, limit * (PART_BESIDE_OTHERS - 1));
}
