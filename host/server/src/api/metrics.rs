//! `/metrics` on the admin listener: how the host is doing, without a word about any one user, plugin or run.

use super::{
    Api,
    exposition::{CONTENT_TYPE, Exposition, Seconds},
};
use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use cofferdam_core::identity::Operator;
use std::sync::{Arc, atomic::Ordering};

/// The metrics of now.
pub(super) async fn serve(State(api): State<Arc<Api>>) -> Response {
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text(&api)).into_response()
}

fn text(api: &Api) -> String {
    let mut out = Exposition::default();
    runs(api, &mut out);
    host(api, &mut out);
    wire(api, &mut out);
    process(&mut out);
    out.text()
}

fn runs(api: &Api, out: &mut Exposition) {
    let (runtime, counts) = (&api.runtime, api.runtime.counts());
    out.counter("cofferdam_runs_accepted_total", "Runs that were accepted.", counts.runs_accepted());
    let ended = counts.runs_ended().map(|(reason, count)| ([("stop_reason", reason.as_str())], count));
    out.counters("cofferdam_runs_ended_total", "Runs that have ended.", ended);
    out.gauge("cofferdam_runs_live", "Runs that have a slot.", runtime.runs_live());
    out.gauge("cofferdam_runs_queued", "Runs that wait for a slot.", runtime.runs_queued());
    let help = "From admission to the durable end of a run.";
    out.histograms("cofferdam_run_duration_seconds", help, [([], counts.run_duration.counts())]);
    let help = "From acceptance to admission of a run.";
    out.histograms("cofferdam_queue_wait_seconds", help, [([], counts.queue_wait.counts())]);
    let help = "From when an event was recorded until it was durable and its followers were told.";
    let events = runtime.journal().event_latency();
    out.histograms("cofferdam_event_latency_seconds", help, [([], events)]);
    out.counter("cofferdam_events_total", "Events that are durable.", events.count());
    out.counter("cofferdam_host_calls_total", "Calls to the host by runs that have ended.", counts.host_calls());
    out.counter("cofferdam_tool_calls_total", "Tool calls by runs that have ended.", counts.tool_calls());
}

fn host(api: &Api, out: &mut Exposition) {
    let runtime = &api.runtime;
    out.gauge("cofferdam_guest_memory_bytes", "Memory that guests hold.", runtime.memory_bytes());
    out.gauge("cofferdam_guest_memory_limit_bytes", "Memory that guests may hold.", runtime.memory_bytes_max());
    out.gauge("cofferdam_sandboxes_open", "Sandboxes that exist.", runtime.sandboxes_open());
    let (plugins, bytes) = runtime.plugins_loaded();
    out.gauge("cofferdam_plugins_loaded", "Plugins that are loaded.", plugins);
    out.gauge("cofferdam_plugins_loaded_bytes", "What loaded plugins hold.", bytes);
    let compiles = runtime.counts().compiles().map(|(outcome, count)| ([("outcome", outcome)], count));
    out.counters("cofferdam_compiles_total", "Components that were to be compiled.", compiles);
    let panics = runtime.host_panics() + api.panics.load(Ordering::Relaxed);
    out.counter("cofferdam_host_panics_total", "Panics of the host; more than none is a bug.", panics);
    if let Some(commits) = &api.commits {
        let help = "How long commits of the database took, failed ones included.";
        out.histograms("cofferdam_storage_commit_seconds", help, [([], commits.latency.counts())]);
        let failed = commits.failed.load(Ordering::Relaxed);
        out.counter("cofferdam_storage_commits_failed_total", "Commits of the database that failed.", failed);
    }
}

fn wire(api: &Api, out: &mut Exposition) {
    let streams = api.emitters.stats(Operator::host());
    let (sockets, events) = (&streams.connections, &streams.events);
    out.gauge("cofferdam_sockets_open", "WebSockets that are open.", sockets.sockets);
    out.counter("cofferdam_sockets_opened_total", "WebSockets that were opened.", sockets.opened);
    out.counter("cofferdam_sockets_refused_total", "WebSockets that were refused.", sockets.refused);
    out.counter("cofferdam_sockets_reaped_total", "WebSockets that the host closed.", sockets.reaped);
    let by_priority = ["1", "2", "3", "4"].into_iter().zip(events.delivered_by_priority);
    let delivered = by_priority.map(|(priority, count)| ([("priority", priority)], count));
    out.counters("cofferdam_socket_events_total", "Events that were written to a WebSocket.", delivered);
    let gaps = [("3", events.dropped_priority_3), ("4", events.dropped_priority_4)];
    let gaps = gaps.map(|(priority, count)| ([("priority", priority)], count));
    out.counters("cofferdam_gap_events_total", "Events left out for a WebSocket that read too slowly.", gaps);
    let answers = api.measures.answers();
    let answers = answers.map(|(class, status, count)| ([("route", class.as_str()), ("status", status)], count));
    out.counters("cofferdam_http_requests_total", "Requests that were answered.", answers);
    let latencies = api.measures.latencies().map(|(class, counts)| ([("route", class.as_str())], counts));
    let help = "From the head of a request to the head of its answer.";
    out.histograms("cofferdam_http_request_seconds", help, latencies);
    let refusals = api.measures.refusals().into_iter().map(|(code, count)| ([("code", code)], count));
    out.counters("cofferdam_http_refusals_total", "Answers that were problems.", refusals);
}

/// In which part of a second the kernel counts a process's time (`USER_HZ`): the same on every machine that it runs on.
const TICK_US: u64 = 10_000;

/// The process as the kernel sees it. What the kernel does not say is left out.
fn process(out: &mut Exposition) {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let status = read("status");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
    if let Some(kib) = resident.and_then(|kib| kib.parse::<u64>().ok()) {
        let bytes = kib.saturating_mul(1_024);
        out.gauge("process_resident_memory_bytes", "Memory of the process that is in RAM.", bytes);
    }
    // The name of the program stands in parentheses before the numbers, and may hold anything.
    let stat = read("stat");
    let numbers = stat.rsplit_once(')').map_or("", |(_, numbers)| numbers);
    let ticks: Vec<u64> = numbers.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse().ok()).collect();
    if ticks.len() == 2 {
        let us = ticks.iter().sum::<u64>().saturating_mul(TICK_US);
        out.counter("process_cpu_seconds_total", "Time on processors.", Seconds(us));
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        // One of them is that of the question.
        out.gauge("process_open_fds", "File descriptors that are open.", files.count().saturating_sub(1));
    }
}
