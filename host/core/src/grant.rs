//! What a plugin may do for a user: what the plugin declared *and* what the user was granted.

use crate::ids::PluginName;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fmt,
    str::FromStr,
    sync::{Arc, LazyLock},
};

/// How many tools a declaration or a grant may name.
pub const TOOL_PATTERNS_MAX: usize = 64;
/// How many agents a declaration or a grant may name.
pub const AGENT_PATTERNS_MAX: usize = 64;
/// How long a tool's full name may be, in bytes.
pub const TOOL_NAME_BYTES_MAX: usize = 130;

/// How far a permission goes. Ordered: each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Nothing.
    #[default]
    None,
    /// Look, but not change.
    Read,
    /// Look and change.
    ReadWrite,
}

/// A tool's full name (`file.read`), a family of tools (`file.*`), or all tools (`*`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ToolPattern(String);

/// A text that names no tool and no family of tools.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no tool: write family.tool (file.read), a family (file.*) or all tools (*), in a-z, 0-9, '-', '_'"
)]
pub struct InvalidPattern(String);

impl ToolPattern {
    /// The pattern as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether everything that `other` means is meant by this too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match self.0.strip_suffix('*') {
            Some(family) => other.0.starts_with(family),
            None => self.0 == other.0,
        }
    }

    fn covers_tool(&self, tool: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(family) => tool.starts_with(family),
            None => self.0 == tool,
        }
    }
}

fn is_name_part(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
}

/// Whether a text can be a tool's own name, the part after the dot: 1 to 64 characters of `a-z 0-9 - _`.
#[must_use]
pub fn is_tool_verb(text: &str) -> bool {
    is_name_part(text)
}

impl FromStr for ToolPattern {
    type Err = InvalidPattern;
    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let valid = text == "*"
            || text
                .split_once('.')
                .is_some_and(|(family, tool)| is_name_part(family) && (tool == "*" || is_name_part(tool)));
        // What is echoed is cut short: it may come from a hostile plugin.
        if valid { Ok(Self(text.to_owned())) } else { Err(InvalidPattern(text.chars().take(80).collect())) }
    }
}

impl TryFrom<String> for ToolPattern {
    type Error = InvalidPattern;
    fn try_from(text: String) -> Result<Self, InvalidPattern> {
        text.parse()
    }
}

impl From<ToolPattern> for String {
    fn from(pattern: ToolPattern) -> String {
        pattern.0
    }
}

impl fmt::Display for ToolPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An agent's name, or all agents (`*`). Without a version: whoever may start an agent may start any version of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AgentPattern {
    /// All agents.
    Any,
    /// The agent of this name.
    Named(PluginName),
}

/// A text that names no agent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no agent: write the name it was pushed under, without a version (summary), or all agents (*); a name is 1 to 64 characters of a-z, 0-9 and '-', the first a letter"
)]
pub struct InvalidAgentPattern(String);

impl AgentPattern {
    /// The pattern as it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Any => "*",
            Self::Named(name) => name.as_str(),
        }
    }

    /// Whether everything that `other` means is meant by this too.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        *self == Self::Any || self == other
    }
}

impl FromStr for AgentPattern {
    type Err = InvalidAgentPattern;
    fn from_str(text: &str) -> Result<Self, InvalidAgentPattern> {
        match text {
            "*" => Ok(Self::Any),
            // What is echoed is cut short: it may come from a hostile plugin.
            _ => text.parse().map(Self::Named).map_err(|_| InvalidAgentPattern(text.chars().take(80).collect())),
        }
    }
}

impl TryFrom<String> for AgentPattern {
    type Error = InvalidAgentPattern;
    fn try_from(text: String) -> Result<Self, InvalidAgentPattern> {
        text.parse()
    }
}

impl From<AgentPattern> for String {
    fn from(pattern: AgentPattern) -> String {
        pattern.as_str().to_owned()
    }
}

impl fmt::Display for AgentPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Shared, because each run is given what its plugin declares and what its user was granted.
type Tools = Arc<BTreeSet<ToolPattern>>;

fn no_tools() -> Tools {
    static NONE: LazyLock<Tools> = LazyLock::new(Tools::default);
    NONE.clone()
}

/// A set of permissions: what a plugin declares, what a user is granted, or what stands in both. Absent is nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permissions {
    /// Tools that may be called.
    #[serde(default = "no_tools", deserialize_with = "bounded_tools")]
    tools: Tools,
    /// The user's key-value data for the plugin.
    #[serde(default)]
    state: Access,
    /// The user's files, as the directory `/workspace`. The tools `file.*` are granted as tools.
    #[serde(default)]
    workspace: Access,
    /// Agents that may be started.
    #[serde(default, deserialize_with = "bounded_agents")]
    agents: BTreeSet<AgentPattern>,
    /// Questions to people.
    #[serde(default)]
    human: bool,
    /// Tools of which each call waits until a person has allowed it. A grant says so; what a plugin declares has none.
    #[serde(default = "no_tools", deserialize_with = "bounded_tools", skip_serializing_if = "is_nothing")]
    approve: Tools,
}

fn is_nothing(tools: &Tools) -> bool {
    tools.is_empty()
}

fn bounded_tools<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Tools, D::Error> {
    let tools = Vec::<ToolPattern>::deserialize(deserializer)?;
    if tools.len() > TOOL_PATTERNS_MAX {
        return Err(serde::de::Error::custom(format!(
            "tools has {} entries, at most {TOOL_PATTERNS_MAX} are allowed; name a family (file.*) instead of its tools",
            tools.len()
        )));
    }
    Ok(widest(tools))
}

fn bounded_agents<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<AgentPattern>, D::Error> {
    let agents = Vec::<AgentPattern>::deserialize(deserializer)?;
    if agents.len() > AGENT_PATTERNS_MAX {
        return Err(serde::de::Error::custom(format!(
            "agents has {} entries, at most {AGENT_PATTERNS_MAX} are allowed; name all agents (*) instead",
            agents.len()
        )));
    }
    Ok(fewest(agents))
}

/// The same meaning without the entries that another entry covers, so that equal meanings compare equal.
fn widest(tools: impl IntoIterator<Item = ToolPattern>) -> Tools {
    let all: BTreeSet<_> = tools.into_iter().collect();
    if all.is_empty() {
        return no_tools();
    }
    let widest = all.iter().filter(|tool| !all.iter().any(|other| other != *tool && other.covers(tool)));
    Arc::new(widest.cloned().collect())
}

impl Default for Permissions {
    fn default() -> Self {
        let (state, workspace) = (Access::None, Access::None);
        Self { tools: no_tools(), state, workspace, agents: BTreeSet::new(), human: false, approve: no_tools() }
    }
}

/// The same for agents, among which only `*` covers others.
fn fewest(agents: impl IntoIterator<Item = AgentPattern>) -> BTreeSet<AgentPattern> {
    let mut all: BTreeSet<_> = agents.into_iter().collect();
    if all.contains(&AgentPattern::Any) {
        all.retain(|agent| *agent == AgentPattern::Any);
    }
    all
}

/// The tools that stand in either of two sets.
fn either(ours: &Tools, theirs: &Tools) -> Tools {
    match (ours.is_empty(), theirs.is_empty()) {
        (_, true) => ours.clone(),
        (true, false) => theirs.clone(),
        (false, false) => widest(ours.union(theirs).cloned()),
    }
}

/// The patterns whose meaning stands in both of two sets.
fn in_both<P: Clone>(ours: &BTreeSet<P>, theirs: &BTreeSet<P>, covers: impl Fn(&P, &P) -> bool) -> Vec<P> {
    let mut both = Vec::new();
    for our in ours {
        for their in theirs {
            if covers(our, their) {
                both.push(their.clone());
            } else if covers(their, our) {
                both.push(our.clone());
            }
        }
    }
    both
}

impl Permissions {
    /// These tools and this access to state, and nothing else.
    #[must_use]
    pub fn new(tools: impl IntoIterator<Item = ToolPattern>, state: Access) -> Self {
        Self { tools: widest(tools), state, ..Self::default() }
    }

    /// The same, and this access to the directory `/workspace`.
    #[must_use]
    pub fn with_workspace(self, workspace: Access) -> Self {
        Self { workspace, ..self }
    }

    /// The same, and these agents to start.
    #[must_use]
    pub fn with_agents(self, agents: impl IntoIterator<Item = AgentPattern>) -> Self {
        Self { agents: fewest(agents), ..self }
    }

    /// The same, and questions to people, or none.
    #[must_use]
    pub fn with_human(self, human: bool) -> Self {
        Self { human, ..self }
    }

    /// Nothing at all.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// What stands in both.
    #[must_use]
    pub fn intersect(&self, other: &Self) -> Self {
        Self {
            tools: widest(in_both(&self.tools, &other.tools, ToolPattern::covers)),
            state: self.state.min(other.state),
            workspace: self.workspace.min(other.workspace),
            agents: fewest(in_both(&self.agents, &other.agents, AgentPattern::covers)),
            human: self.human && other.human,
            // Whoever asks for it has it.
            approve: either(&self.approve, &other.approve),
        }
    }

    /// What stands in either.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            tools: widest(self.tools.union(&other.tools).cloned()),
            state: self.state.max(other.state),
            workspace: self.workspace.max(other.workspace),
            agents: fewest(self.agents.union(&other.agents).cloned()),
            human: self.human || other.human,
            approve: either(&self.approve, &other.approve),
        }
    }

    /// Whether a tool may be called.
    #[must_use]
    pub fn allow_tool(&self, name: &str) -> bool {
        self.tools.iter().any(|pattern| pattern.covers_tool(name))
    }

    /// Whether any tool of a family may be called, so that those of others need not be looked at.
    #[must_use]
    pub fn allow_some_of(&self, family: &str) -> bool {
        let of_family = |pattern: &ToolPattern| {
            pattern.0 == "*" || pattern.0.strip_prefix(family).is_some_and(|rest| rest.starts_with('.'))
        };
        self.tools.iter().any(of_family)
    }

    /// Whether a person has to allow each call of a tool.
    #[must_use]
    pub fn needs_approval(&self, tool: &str) -> bool {
        self.approve.iter().any(|pattern| pattern.covers_tool(tool))
    }

    /// The tools that may be called.
    #[must_use]
    pub fn tools(&self) -> &BTreeSet<ToolPattern> {
        &self.tools
    }

    /// How far access to state goes.
    #[must_use]
    pub const fn state(&self) -> Access {
        self.state
    }

    /// How far access to the directory `/workspace` goes.
    #[must_use]
    pub const fn workspace(&self) -> Access {
        self.workspace
    }

    /// Whether an agent may be started, by its name without a version.
    #[must_use]
    pub fn allow_agent(&self, name: &str) -> bool {
        self.agents.iter().any(|pattern| *pattern == AgentPattern::Any || pattern.as_str() == name)
    }

    /// The agents that may be started.
    #[must_use]
    pub const fn agents(&self) -> &BTreeSet<AgentPattern> {
        &self.agents
    }

    /// Whether people may be asked.
    #[must_use]
    pub const fn human(&self) -> bool {
        self.human
    }
}

/// What a plugin may do for a user, with where it comes from, so that a denial can say what is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    declared: Permissions,
    granted: Permissions,
    both: Permissions,
}

impl Effective {
    /// What stands in the plugin's declaration and in the user's grant.
    #[must_use]
    pub fn of(declared: &Permissions, granted: &Permissions) -> Self {
        Self { declared: declared.clone(), granted: granted.clone(), both: declared.intersect(granted) }
    }

    /// What may be done.
    #[must_use]
    pub const fn permissions(&self) -> &Permissions {
        &self.both
    }

    /// What the plugin declared.
    #[must_use]
    pub const fn declared(&self) -> &Permissions {
        &self.declared
    }

    /// The grant that there is, and this beside it.
    #[must_use]
    pub fn granted_and(&self, more: &Permissions) -> Permissions {
        self.granted.and(more)
    }
}

/// Everything that is declared is granted.
impl From<Permissions> for Effective {
    fn from(permissions: Permissions) -> Self {
        Self::of(&permissions, &permissions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern() -> impl Strategy<Value = ToolPattern> {
        prop::sample::select(vec!["*", "file.*", "file.read", "file.write", "net.*", "net.get", "filex.read"])
            .prop_map(|text| text.parse().expect("a pattern"))
    }

    fn permissions() -> impl Strategy<Value = Permissions> {
        let access = prop::sample::select(vec![Access::None, Access::Read, Access::ReadWrite]);
        let agent = prop::sample::select(vec!["*", "analyst", "echo", "probe"])
            .prop_map(|text| text.parse::<AgentPattern>().expect("an agent"));
        let agents = prop::collection::vec(agent, 0..4);
        (prop::collection::vec(pattern(), 0..5), access.clone(), access, agents, any::<bool>()).prop_map(
            |(tools, state, workspace, agents, human)| {
                Permissions::new(tools, state).with_workspace(workspace).with_agents(agents).with_human(human)
            },
        )
    }

    proptest! {
        #[test]
        fn a_grant_only_narrows_a_declaration(declared in permissions(), granted in permissions(), tool in
            prop::sample::select(vec!["file.read", "file.write", "net.get", "filex.read", "file", "other.x"]), agent in
            prop::sample::select(vec!["analyst", "echo", "probe", "other", "*", ""]))
        {
            let effective = declared.intersect(&granted);
            prop_assert_eq!(effective.allow_tool(tool), declared.allow_tool(tool) && granted.allow_tool(tool));
            prop_assert_eq!(effective.state(), declared.state().min(granted.state()));
            prop_assert_eq!(effective.workspace(), declared.workspace().min(granted.workspace()));
            prop_assert_eq!(effective.allow_agent(agent), declared.allow_agent(agent) && granted.allow_agent(agent));
            prop_assert_eq!(effective.human(), declared.human() && granted.human());
        }

        #[test]
        fn what_a_denial_proposes_adds_to_a_grant_and_takes_nothing_away(granted in permissions(), more in permissions()) {
            let proposed = Effective::of(&Permissions::none(), &granted).granted_and(&more);
            prop_assert_eq!(proposed.intersect(&granted), granted.clone());
            prop_assert_eq!(proposed.intersect(&more), more.clone());
        }

        #[test]
        fn what_is_written_is_read_back(permissions in permissions()) {
            let written = serde_json::to_string(&permissions).expect("writes");
            prop_assert_eq!(serde_json::from_str::<Permissions>(&written).expect("reads"), permissions);
        }

        #[test]
        fn intersection_is_an_algebra(a in permissions(), b in permissions(), c in permissions()) {
            prop_assert_eq!(a.intersect(&b), b.intersect(&a));
            prop_assert_eq!(a.intersect(&a), a.clone());
            prop_assert_eq!(a.intersect(&b).intersect(&c), a.intersect(&b.intersect(&c)));
            prop_assert_eq!(a.intersect(&Permissions::none()), Permissions::none());
        }
    }

    #[test]
    fn absent_is_nothing_and_unparsable_is_refused() {
        assert_eq!(serde_json::from_str::<Permissions>("{}").expect("empty"), Permissions::none());
        for text in [
            r#"{"tool":["file.read"]}"#,
            r#"{"tools":["file"]}"#,
            r#"{"tools":["File.read"]}"#,
            r#"{"tools":["file.re*"]}"#,
            r#"{"tools":["*.read"]}"#,
            r#"{"tools":"*"}"#,
            r#"{"state":"all"}"#,
            r#"{"workspace":true}"#,
            r#"{"agents":"*"}"#,
            r#"{"agents":["Echo"]}"#,
            r#"{"agents":["echo@0.1.0"]}"#,
            r#"{"agents":["echo*"]}"#,
            r#"{"agents":[""]}"#,
            r#"{"human":"read"}"#,
            "null",
        ] {
            assert!(serde_json::from_str::<Permissions>(text).is_err(), "{text} was taken");
        }
    }

    #[test]
    fn a_document_names_as_many_agents_as_it_may_and_no_more() {
        let read = |count: usize| {
            let agents: Vec<_> = (0..count).map(|n| format!("agent-{n}")).collect();
            serde_json::from_value::<Permissions>(serde_json::json!({"agents": agents}))
        };
        assert_eq!(read(AGENT_PATTERNS_MAX).expect("as many as may be").agents().len(), AGENT_PATTERNS_MAX);
        let refused = read(AGENT_PATTERNS_MAX + 1).expect_err("one too many").to_string();
        assert!(refused.contains("agents has 65 entries, at most 64"), "{refused}");
    }

    #[test]
    fn all_agents_are_said_once() {
        let all: Permissions = serde_json::from_str(r#"{"agents":["echo","*","probe"]}"#).expect("reads");
        assert_eq!(all, Permissions::none().with_agents([AgentPattern::Any]));
        assert!(all.allow_agent("echo") && all.allow_agent("anything-else"));
        let one = Permissions::none().with_agents(["echo".parse().expect("an agent")]);
        assert!(one.allow_agent("echo") && !one.allow_agent("echo2") && !one.allow_agent("ech"));
    }

    #[test]
    fn a_family_does_not_reach_into_a_longer_name() {
        let file = Permissions::new(["file.*".parse().expect("a pattern")], Access::None);
        assert!(file.allow_tool("file.read"));
        assert!(!file.allow_tool("filex.read"));
        assert!(!file.allow_tool("file"));
    }
}
