//! Tool calls: found, authorized, paid for, recorded, run, recorded.

use crate::{
    bindings::types::{Tool, ToolError},
    meter::{HeldBytes, RunMemory},
    plugin::Plugin,
    sandbox::{Guest, HostFailure, Sandbox, Spent},
    services::Services,
    stand_ins,
    workspace::{FileError, READ_BYTES_MAX, log_failure},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use cofferdam_core::{
    Json, UserExecutionContext,
    context::{Effect, ToolCallPlace},
    event::{ARGUMENTS_SHOWN_BYTES_MAX, Event, LogLevel, ToolFailure},
    grant::{Effective, TOOL_NAME_BYTES_MAX},
    ids::PluginName,
    journal::{Recorder, RunJournal},
    quota::HOST_CALL_BYTES_MAX,
    record::Asked,
    storage::{PluginKind, PluginVersion},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{ops::ControlFlow, sync::Arc, time::Instant};

/// The family of the host's own tools over the user's files. No plugin can be called so.
pub const FILE_FAMILY: &str = "file";

/// The most that one `file.read` gives, in bytes of the file: what still fits a host call when it is base64.
const FILE_READ_BYTES_MAX: u64 = 512 << 10;

/// What a tool in a list costs the host beside its texts, in bytes, about.
const TOOL_OVERHEAD_BYTES: usize = 96;

/// Names that are compared with one that no tool has.
const NAMES_COMPARED_MAX: usize = 500;

/// How much a name must be like another to be proposed, of 1: below, it is what nobody meant.
const LIKENESS_MIN: f64 = 0.7;

/// The host's own tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FileTool {
    List,
    Read,
    Write,
}

impl FileTool {
    const ALL: [Self; 3] = [Self::List, Self::Read, Self::Write];

    const fn name(self) -> &'static str {
        match self {
            Self::List => "file.list",
            Self::Read => "file.read",
            Self::Write => "file.write",
        }
    }

    const fn description(self) -> &'static str {
        match self {
            Self::List => "Lists a directory of the user's workspace: names, kinds and sizes, sorted by name.",
            Self::Read => "Reads a part of a file in the user's workspace, as text or base64, at most 512 KiB at once.",
            Self::Write => {
                "Writes a file in the user's workspace, from text or base64, replacing it or adding to it. Replacing twice does no harm; adding twice adds twice."
            }
        }
    }

    const fn input_schema(self) -> &'static str {
        match self {
            Self::List => {
                r#"{"type":"object","properties":{"path":{"type":"string","default":"","description":"directory; empty for the workspace itself"}},"additionalProperties":false}"#
            }
            Self::Read => {
                r#"{"type":"object","properties":{"path":{"type":"string"},"offset":{"type":"integer","minimum":0,"default":0},"length":{"type":"integer","minimum":1,"maximum":524288,"default":524288},"encoding":{"enum":["text","base64"],"default":"text"}},"required":["path"],"additionalProperties":false}"#
            }
            Self::Write => {
                r#"{"type":"object","properties":{"path":{"type":"string"},"text":{"type":"string"},"base64":{"type":"string"},"append":{"type":"boolean","default":false}},"required":["path"],"additionalProperties":false}"#
            }
        }
    }

    /// Looking changes nothing, and writing the same bytes again leaves the same file. The flag is the tool's and not the
    /// call's, so it says nothing of a write that appends: a second one adds the bytes a second time.
    const fn idempotent(self) -> bool {
        match self {
            Self::List | Self::Read | Self::Write => true,
        }
    }

    const fn changes_something(self) -> bool {
        matches!(self, Self::Write)
    }
}

/// Where a call goes.
enum Target {
    File(FileTool),
    Plugin(PluginName, String),
    StandIn,
}

/// The tools that a guest may call, and whether some are left out.
#[derive(bincode::Encode, bincode::Decode)]
pub struct Listed {
    tools: Vec<Tool>,
    left_out: bool,
}

/// The tools that this guest may call, by name, as many as may cross one host call and fit into the run's memory. The host
/// has them in memory until the guest has taken them, so they count as the run's memory until it asks again.
pub fn list(guest: &mut Guest) -> Listed {
    guest.listed = None;
    let ctx = guest.ctx.clone();
    let permissions = ctx.permissions();
    let bytes_left = usize::try_from(guest.meter.run().bytes_left()).unwrap_or(usize::MAX);
    let (mut tools, mut bytes, bytes_max) = (Vec::new(), 0, HOST_CALL_BYTES_MAX.min(bytes_left));
    let mut take = |name: &str, description: &str, input_schema: &str, idempotent: bool| {
        bytes += TOOL_OVERHEAD_BYTES + name.len() + description.len() + input_schema.len();
        if bytes > bytes_max {
            return ControlFlow::Break(());
        }
        let (name, description, input_schema) = (name.to_owned(), description.to_owned(), input_schema.to_owned());
        tools.push(Tool { name, description, input_schema, idempotent });
        ControlFlow::Continue(())
    };
    let stood_in = guest.services.stand_ins.as_ref().map(|stand_ins| stand_ins.tools()).unwrap_or_default();
    let mut stand_ins = stood_in.iter().filter(|name| permissions.allow_tool(name));
    let mut listed = stand_ins.try_for_each(|name| take(name, "", stand_ins::ANY_ARGUMENTS, false));
    let own = FileTool::ALL.into_iter().filter(|own| permissions.allow_tool(own.name()));
    let mut own = own.filter(|own| !stood_in.iter().any(|name| name == own.name()));
    if listed.is_continue() {
        listed = own.try_for_each(|own| take(own.name(), own.description(), own.input_schema(), own.idempotent()));
    }
    if listed.is_continue() {
        guest.services.plugins.each_tool_plugin(|about| {
            if permissions.allow_some_of(about.name.as_str()) {
                let named = about.tools.iter().map(|offered| (full_name(&about.name, &offered.name), offered));
                let mut allowed = named.filter(|(name, _)| permissions.allow_tool(name));
                listed = allowed.try_for_each(|(name, offered)| {
                    take(&name, &offered.description, offered.input_schema.as_str(), offered.idempotent)
                });
            }
            listed
        });
    }
    tools.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Listed { tools, left_out: listed.is_break() }
}

/// Holds what is listed for the guest until it asks again, and tells the client of what is left out.
pub fn hold_list(guest: &mut Guest, listed: Listed) -> wasmtime::Result<Vec<Tool>> {
    let Listed { mut tools, left_out } = listed;
    let shown = tools
        .iter()
        .map(|tool| TOOL_OVERHEAD_BYTES + tool.name.len() + tool.description.len() + tool.input_schema.len());
    guest.listed = guest.meter.run().hold(shown.sum());
    if guest.listed.is_none() {
        tools.clear();
    }
    if left_out {
        say_that_some_are_left_out(guest, tools.len())?;
    }
    Ok(tools)
}

/// Whoever looks into the run can see why an agent does not find a tool.
fn say_that_some_are_left_out(guest: &Guest, shown: usize) -> wasmtime::Result<()> {
    let text = format!(
        "tools.list shows the first {shown} tools, which is as many as fit into {HOST_CALL_BYTES_MAX} bytes and the run's memory; the others can be called, and are listed if fewer are declared or granted"
    );
    // Told as the agent's own, because it follows from what the agent asked.
    if let Some(recorder) = &guest.recorder
        && guest.ctx.take_log_line(text.len()).is_ok()
    {
        recorder.say_now(Event::Log { level: LogLevel::Warn, text })?;
    }
    Ok(())
}

fn full_name(family: &PluginName, verb: &str) -> String {
    format!("{family}.{verb}")
}

/// What came of a call, and what it took of its own sandbox, if it ran in one.
pub struct AnswerOf {
    pub result: Result<String, ToolError>,
    pub spent: Spent,
    /// The call is under way until the guest has taken the answer: an answer that waits is host memory.
    _place: ToolCallPlace,
    _held: Option<HeldBytes>,
}

/// What the record keeps of a call.
#[derive(bincode::Encode, bincode::Decode)]
pub struct ToolAnswer {
    pub result: Result<String, ToolError>,
    /// The fuel that its caller gave for it.
    pub lent: u64,
    /// The fuel that it took.
    pub spent: u64,
}

/// An answer, or a failure of the host's own.
pub type Answer = wasmtime::Result<AnswerOf>;

/// A call that was authorized and paid for.
pub struct Call {
    services: Arc<Services>,
    ctx: Arc<UserExecutionContext>,
    journal: RunJournal,
    recorder: Recorder,
    /// Its number in the record, once it has begun.
    number: u64,
    memory: Arc<RunMemory>,
    place: ToolCallPlace,
    name: String,
    arguments: Json,
    _held: HeldBytes,
    target: Target,
    fuel: u64,
}

/// Checks a call before anything happens: permission, budget, arguments, existence.
///
/// # Errors
/// What the guest is told.
pub fn prepare(guest: &Guest, name: String, arguments: String, fuel: u64) -> Result<Call, ToolError> {
    // No tool has a longer name; comparing and repeating it would cost the host more than it costs the guest.
    if name.len() > TOOL_NAME_BYTES_MAX {
        return Err(ToolError::UnknownTool(format!("a tool's name has at most {TOOL_NAME_BYTES_MAX} bytes")));
    }
    // A permit first: what is not granted is denied whether or not it exists.
    guest.ctx.authorize(Effect::Tool(&name)).map_err(|denied| ToolError::Denied(denied.to_string()))?;
    guest.ctx.may_call_host().map_err(|spent| ToolError::Exhausted(spent.to_string()))?;
    let place = guest.ctx.take_tool_call().map_err(|spent| ToolError::Exhausted(spent.to_string()))?;
    let too_large = || ToolError::TooLarge(HOST_CALL_BYTES_MAX as u64);
    if arguments.len() > HOST_CALL_BYTES_MAX {
        return Err(too_large());
    }
    let invalid = |why: String| ToolError::InvalidArguments(format!("{name}: {why}"));
    let arguments = Json::parse(arguments).map_err(|e| invalid(format!("the arguments are {e}")))?;
    if !arguments.as_str().trim_start().starts_with('{') {
        return Err(invalid("the arguments must be a JSON object".into()));
    }
    let held = guest.meter.run().hold(arguments.as_str().len()).ok_or_else(no_memory)?;
    let target = find(&guest.services, &name).ok_or_else(|| unknown(guest, &name))?;
    let bytes = event_bytes(&name, arguments.as_str());
    guest.ctx.take_event_bytes(bytes).map_err(|spent| ToolError::Exhausted(spent.to_string()))?;
    let written = guest.journal.clone().zip(guest.recorder.clone());
    let (journal, recorder) = written.ok_or_else(|| ToolError::Denied("tools cannot be called here".into()))?;
    let fuel = if matches!(target, Target::Plugin(..)) { fuel } else { 0 };
    Ok(Call {
        services: guest.services.clone(),
        ctx: guest.ctx.clone(),
        journal,
        recorder,
        number: 0,
        memory: guest.meter.run().clone(),
        place,
        name,
        arguments,
        _held: held,
        target,
        fuel,
    })
}

/// What the two events of a call repeat of it: its name twice, its arguments, and perhaps an error.
fn event_bytes(name: &str, arguments: &str) -> usize {
    2 * name.len() + arguments.len().min(ARGUMENTS_SHOWN_BYTES_MAX) + ERROR_BYTES_MAX
}

/// A call that was made in an earlier execution counts as it did then.
pub fn called_before(guest: &Guest, name: &str, arguments: &str) {
    // What it was answered then is its answer, whatever is left of the budgets.
    let _ = guest.ctx.take_tool_call();
    let _ = guest.ctx.take_event_bytes(event_bytes(name, arguments));
}

/// A call that was refused in an earlier execution counts as it did then.
pub fn refused_before(guest: &Guest, answer: Result<String, ToolError>) -> Result<String, ToolError> {
    match &answer {
        Err(ToolError::Denied(_)) => guest.ctx.denied_before(),
        Err(ToolError::Exhausted(_)) => {}
        _ => drop(guest.ctx.take_tool_call()),
    }
    answer
}

/// Makes a call again that had begun under this number, and of which nobody knows how it ended, if that does no harm. If it
/// would, the caller learns that its outcome is not known.
pub fn again(guest: &Guest, number: u64, name: String, arguments: String, fuel: u64) -> Result<Call, ToolError> {
    let place = guest.ctx.tool_calls() + 1;
    // Also one that is refused by now may have done its work then.
    let again = prepare(guest, name.clone(), arguments, fuel).ok().filter(Call::does_no_harm_again);
    let again = again.map(|call| Call { number, ..call }).ok_or_else(|| {
        ToolError::OutcomeUnknown(format!(
            "the host went away while {name} ran, which may or may not have done its work; look before you call it again"
        ))
    });
    again.inspect_err(|error| {
        if let Some(recorder) = &guest.recorder {
            let event = Event::ToolCompleted {
                call: u32::try_from(place).unwrap_or(u32::MAX),
                tool: name,
                error: Some(failure(error)),
                result_bytes: 0,
                elapsed_ms: 0,
            };
            let answer: (Result<&str, &ToolError>, u64, u64) = (Err(error), 0, 0);
            recorder.finished(number, &answer, Some(event));
        }
    })
}

/// What a call carries is held by the host, and counts as the run's memory.
fn no_memory() -> ToolError {
    ToolError::Exhausted("the arguments or the answer do not fit into the run's memory limit; hold less".into())
}

fn find(services: &Services, name: &str) -> Option<Target> {
    if services.stand_ins.as_ref().is_some_and(|stand_ins| stand_ins.has_tool(name)) {
        return Some(Target::StandIn);
    }
    if let Some(file_tool) = FileTool::ALL.into_iter().find(|file_tool| file_tool.name() == name) {
        return Some(Target::File(file_tool));
    }
    let (family, verb) = name.split_once('.')?;
    let plugin: PluginName = family.parse().ok()?;
    let about = services.plugins.latest_of(&plugin)?;
    let offered = about.kind == PluginKind::Tool && about.tools.iter().any(|tool| tool.name == verb);
    offered.then(|| Target::Plugin(plugin, verb.to_owned()))
}

/// Names the nearest tool that this run may call. Only names are looked at, those of the family that was meant first, and
/// not more of them than a caller may cost the host.
fn unknown(guest: &Guest, name: &str) -> ToolError {
    let (permissions, plugins) = (guest.ctx.permissions(), &guest.services.plugins);
    let (mut nearest, mut compared): (Option<(f64, String)>, usize) = (None, 0);
    let mut compare = |candidate: String| {
        compared += 1;
        if permissions.allow_tool(&candidate) {
            let likeness = strsim::jaro_winkler(&candidate, name);
            if nearest.as_ref().is_none_or(|(best, _)| likeness > *best) {
                nearest = Some((likeness, candidate));
            }
        }
        if compared < NAMES_COMPARED_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let _ = FileTool::ALL.into_iter().try_for_each(|own| compare(own.name().to_owned()));
    let mut of_plugin = |about: &PluginVersion| {
        about.tools.iter().try_for_each(|offered| compare(full_name(&about.name, &offered.name)))
    };
    let meant = name.split_once('.').and_then(|(family, _)| family.parse().ok());
    let meant = meant.and_then(|family| plugins.latest_of(&family)).filter(|about| about.kind == PluginKind::Tool);
    if meant.as_ref().is_none_or(|about| of_plugin(about).is_continue()) {
        plugins.each_tool_plugin(|about| {
            if permissions.allow_some_of(about.name.as_str()) { of_plugin(about) } else { ControlFlow::Continue(()) }
        });
    }
    let mut why = format!("there is no tool {name:?}");
    if let Some((_, near)) = nearest.filter(|(likeness, _)| *likeness >= LIKENESS_MIN) {
        why.push_str(&format!("; the nearest that this run may call is {near:?}"));
    }
    if guest.services.stand_ins.is_some() {
        why.push_str(&format!("; {}", stand_ins::TOOLS_HERE));
    }
    ToolError::UnknownTool(why)
}

impl Call {
    /// The fuel that the caller gave for it; none for the host's own tools, which run no guest code.
    pub fn fuel_lent(&self) -> u64 {
        self.fuel
    }

    fn does_no_harm_again(&self) -> bool {
        match &self.target {
            Target::File(FileTool::List | FileTool::Read) | Target::StandIn => true,
            Target::File(FileTool::Write) => {
                self.arguments::<WriteArguments>().is_ok_and(|arguments| !arguments.append)
            }
            Target::Plugin(plugin, verb) => self
                .services
                .plugins
                .latest_of(plugin)
                .is_some_and(|about| about.tools.iter().any(|offered| offered.name == *verb && offered.idempotent)),
        }
    }

    /// Its number in the record.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The call begins: it is recorded, and its client told. Here and not when the call gets its turn, so that events stand
    /// in the order of the guest's own calls.
    pub fn begun(mut self, asked: Asked) -> Self {
        let arguments_bytes = self.arguments.as_str().len();
        let event = Event::ToolExecuting {
            call: self.place.number(),
            tool: self.name.clone(),
            arguments: (arguments_bytes <= ARGUMENTS_SHOWN_BYTES_MAX).then(|| self.arguments.clone()),
            arguments_bytes: arguments_bytes as u64,
        };
        self.number = self.recorder.started(asked, Some(event));
        self
    }

    /// Runs the tool. Consumes the call: whatever happens, it happens once.
    pub async fn run(self) -> Answer {
        let call = self.place.number();
        // The guest may have started this without waiting: whoever emits too fast waits here.
        self.journal.relieve().await.map_err(HostFailure::storage)?;
        let begun = Instant::now();
        let (result, spent) = match &self.target {
            Target::File(file_tool) => (self.file_tool(*file_tool).await?, Spent::default()),
            Target::Plugin(plugin, verb) => self.plugin(plugin, verb).await?,
            Target::StandIn => (self.stand_in(), Spent::default()),
        };
        let result = result.map_err(cut).and_then(|answer| {
            if answer.len() > HOST_CALL_BYTES_MAX {
                return Err(ToolError::TooLarge(HOST_CALL_BYTES_MAX as u64));
            }
            let held = self.memory.hold(answer.len()).ok_or_else(no_memory)?;
            Ok((answer, held))
        });
        let (result, held) = match result {
            Ok((answer, held)) => (Ok(answer), Some(held)),
            Err(error) => (Err(error), None),
        };
        // Its answer may be large, and stands behind those of the others.
        self.journal.relieve().await.map_err(HostFailure::storage)?;
        let event = Event::ToolCompleted {
            call,
            tool: self.name.clone(),
            error: result.as_ref().err().map(failure),
            result_bytes: result.as_ref().map_or(0, |answer| answer.len() as u64),
            elapsed_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let answer = ToolAnswer { result, lent: self.fuel, spent: spent.fuel };
        self.recorder.tool_finished(self.number, &answer, self.ctx.tools_took(), event);
        Ok(AnswerOf { result: answer.result, spent, _place: self.place, _held: held })
    }

    fn stand_in(&self) -> Result<String, ToolError> {
        let stand_ins = self.services.stand_ins.as_ref();
        let answer = stand_ins.map(|stand_ins| stand_ins.call(&self.name, &self.arguments));
        let answer = answer.unwrap_or_else(|| Ok(Json::empty_object()));
        answer.map(|answer| answer.as_str().to_owned()).map_err(stand_ins::tool_error)
    }

    async fn file_tool(&self, file_tool: FileTool) -> wasmtime::Result<Result<String, ToolError>> {
        if file_tool.changes_something() {
            self.journal.before_effect().await.map_err(HostFailure::storage)?;
        }
        let files = self.services.workspaces.of(&self.ctx.scope());
        Ok(match file_tool {
            FileTool::List => match self.arguments::<ListArguments>() {
                Ok(arguments) => files.list(&arguments.path).await.map_err(file_error).map(|listing| text(&listing)),
                Err(error) => Err(error),
            },
            FileTool::Read => match self.arguments::<ReadArguments>() {
                Ok(arguments) => {
                    let length = arguments.length.min(FILE_READ_BYTES_MAX).min(READ_BYTES_MAX);
                    let chunk = files.read(&arguments.path, arguments.offset, length).await.map_err(file_error);
                    chunk.and_then(|chunk| arguments.encoding.answer(chunk, arguments.offset))
                }
                Err(error) => Err(error),
            },
            FileTool::Write => match self.arguments::<WriteArguments>().and_then(WriteArguments::bytes) {
                Ok((arguments, bytes)) => {
                    self.ctx.written().add(bytes.len());
                    let written = files.write(&arguments.path, bytes, arguments.append).await;
                    written.map_err(file_error).map(|bytes| text(&Written { bytes }))
                }
                Err(error) => Err(error),
            },
        })
    }

    fn arguments<T: DeserializeOwned>(&self) -> Result<T, ToolError> {
        self.arguments.read().map_err(|error| ToolError::InvalidArguments(format!("{}: {error}", self.name)))
    }

    /// A plugin's tool, in a sandbox of its own, with what that plugin itself declared and was granted.
    async fn plugin(&self, name: &PluginName, verb: &str) -> wasmtime::Result<(Result<String, ToolError>, Spent)> {
        let failed = |why: String| (Err(ToolError::Failed(format!("{}: {why}", self.name))), Spent::default());
        // A run has a few sandboxes for its tools at once; the other calls wait, within the run's deadline, so that one
        // user's tools cannot keep another's from running.
        let _turn = self.ctx.tool_turn().await;
        let _slot = self.services.tool_sandboxes.acquire().await.map_err(HostFailure::new)?;
        let Some(about) = self.services.plugins.latest_of(name) else {
            return Ok((Err(ToolError::UnknownTool(format!("there is no tool {:?}", self.name))), Spent::default()));
        };
        let plugin: Arc<Plugin> = match self.services.plugins.load(&about, self.ctx.scope().user()).await {
            Ok(plugin) => plugin,
            Err(error) => {
                tracing::error!(plugin = %name, error = %error, "a tool plugin cannot be loaded");
                return Ok(failed("the host cannot load this tool".into()));
            }
        };
        let granted = self.services.grants.get(&self.ctx.scope(), name).await.map_err(HostFailure::storage)?;
        let permissions = Effective::of(&about.needs, &granted.unwrap_or_default());
        let ctx = Arc::new(self.ctx.tool(name.clone(), permissions, self.number));
        let sandbox = Sandbox::open(
            &self.services,
            plugin,
            ctx.clone(),
            Some(self.journal.clone()),
            None,
            self.memory.clone(),
            self.fuel,
        )?;
        let (reply, spent) = sandbox.call_tool(verb, self.arguments.as_str()).await;
        self.ctx.tool_ended(&ctx);
        let result = match reply {
            Ok(Ok(answer)) => match Json::parse(answer) {
                Ok(answer) => Ok(answer.as_str().to_owned()),
                Err(error) => Err(ToolError::Failed(format!("{}: its answer is {error}", self.name))),
            },
            Ok(Err(error)) => Err(error),
            Err(stop) => Err(ToolError::Failed(format!("{}: {}", self.name, stop.message))),
        };
        Ok((result, spent))
    }
}

/// The longest text of a tool's error, in bytes: it is told to the guest and kept in the run's log, and a tool, or the
/// arguments that it repeats, may be a stranger's.
const ERROR_BYTES_MAX: usize = 4 << 10;

fn cut(error: ToolError) -> ToolError {
    let cut = |mut text: String| {
        text.truncate(text.floor_char_boundary(ERROR_BYTES_MAX));
        text
    };
    match error {
        ToolError::UnknownTool(text) => ToolError::UnknownTool(cut(text)),
        ToolError::Denied(text) => ToolError::Denied(cut(text)),
        ToolError::InvalidArguments(text) => ToolError::InvalidArguments(cut(text)),
        ToolError::TooLarge(bytes) => ToolError::TooLarge(bytes),
        ToolError::Exhausted(text) => ToolError::Exhausted(cut(text)),
        ToolError::NotFound(text) => ToolError::NotFound(cut(text)),
        ToolError::Failed(text) => ToolError::Failed(cut(text)),
        ToolError::OutcomeUnknown(text) => ToolError::OutcomeUnknown(cut(text)),
    }
}

/// A tool's error as it is told in events.
pub fn failure(error: &ToolError) -> ToolFailure {
    let (code, message) = match error {
        ToolError::UnknownTool(text) => ("unknown_tool", text.clone()),
        ToolError::Denied(text) => ("denied", text.clone()),
        ToolError::InvalidArguments(text) => ("invalid_arguments", text.clone()),
        ToolError::TooLarge(bytes) => ("too_large", format!("more than {bytes} bytes")),
        ToolError::Exhausted(text) => ("exhausted", text.clone()),
        ToolError::NotFound(text) => ("not_found", text.clone()),
        ToolError::Failed(text) => ("failed", text.clone()),
        ToolError::OutcomeUnknown(text) => ("outcome_unknown", text.clone()),
    };
    ToolFailure { code: code.into(), message }
}

fn file_error(error: FileError) -> ToolError {
    match error {
        FileError::NotFound(_) => ToolError::NotFound(error.to_string()),
        FileError::InvalidPath(_) => ToolError::InvalidArguments(error.to_string()),
        FileError::Full { .. } => ToolError::Exhausted(error.to_string()),
        FileError::NotAFile(_) | FileError::NotADirectory(_) | FileError::Exists(_) | FileError::NotEmpty(_) => {
            ToolError::Failed(error.to_string())
        }
        FileError::Io(source) => {
            log_failure(&source);
            ToolError::Failed("the workspace cannot be reached".into())
        }
    }
}

fn text(value: &impl Serialize) -> String {
    Json::of(value).as_str().to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListArguments {
    #[serde(default)]
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadArguments {
    path: String,
    #[serde(default)]
    offset: u64,
    #[serde(default = "read_length")]
    length: u64,
    #[serde(default)]
    encoding: Encoding,
}

const fn read_length() -> u64 {
    FILE_READ_BYTES_MAX
}

#[derive(Deserialize, Clone, Copy, Default)]
#[serde(rename_all = "snake_case")]
enum Encoding {
    #[default]
    Text,
    Base64,
}

#[derive(Serialize)]
struct ReadAnswer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    bytes: u64,
    next_offset: Option<u64>,
    size: u64,
}

impl Encoding {
    fn answer(self, chunk: crate::workspace::Chunk, offset: u64) -> Result<String, ToolError> {
        let size = chunk.size;
        if let Self::Base64 = self {
            let base64 = Some(BASE64_STANDARD.encode(&chunk.bytes));
            let bytes = chunk.bytes.len() as u64;
            return Ok(text(&ReadAnswer { text: None, base64, bytes, next_offset: chunk.next_offset, size }));
        }
        let whole = match std::str::from_utf8(&chunk.bytes) {
            Ok(whole) => whole,
            // The part ends inside a character, and there is more to come: leave the character for the next part.
            Err(error) if error.error_len().is_none() && chunk.next_offset.is_some() && error.valid_up_to() > 0 => {
                let (whole, _) = chunk.bytes.split_at(error.valid_up_to());
                std::str::from_utf8(whole).unwrap_or_default()
            }
            Err(error) => {
                let at = offset.saturating_add(error.valid_up_to() as u64);
                let why = format!("the file is not UTF-8 text at byte {at}; ask for \"encoding\":\"base64\"");
                return Err(ToolError::Failed(why));
            }
        };
        let bytes = whole.len() as u64;
        let end = offset.saturating_add(bytes);
        let next_offset = (end < size).then_some(end);
        Ok(text(&ReadAnswer { text: Some(whole), base64: None, bytes, next_offset, size }))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WriteArguments {
    path: String,
    text: Option<String>,
    base64: Option<String>,
    #[serde(default)]
    append: bool,
}

#[derive(Serialize)]
struct Written {
    bytes: u64,
}

impl WriteArguments {
    fn bytes(mut self) -> Result<(Self, Bytes), ToolError> {
        let invalid = |why: &str| ToolError::InvalidArguments(format!("file.write: {why}"));
        let bytes = match (self.text.take(), self.base64.take()) {
            (Some(text), None) => Bytes::from(text),
            (None, Some(base64)) => {
                Bytes::from(BASE64_STANDARD.decode(base64).map_err(|_| invalid("base64 is not base64"))?)
            }
            _ => return Err(invalid("give either text or base64")),
        };
        Ok((self, bytes))
    }
}
