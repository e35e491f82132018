//! What a plugin asks to be granted.

use crate::wit::types;

/// How far a permission goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Nothing.
    #[default]
    None,
    /// Look, but not change.
    Read,
    /// Look and change.
    ReadWrite,
}

/// What an agent asks to be granted: a request, which the platform team answers with a grant for each user.
///
/// What a run may do is what stands in both. What is not named here is denied, whatever is granted.
///
/// ```
/// use cofferdam_sdk::{Access, Needs};
///
/// let needs = Needs::none().tools(["file.*", "units.convert"]).state(Access::Read);
/// let needs = needs.agents(["summary"]).human();
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    tools: Vec<String>,
    state: Access,
    workspace: Access,
    agents: Vec<String>,
    human: bool,
    durable: bool,
}

impl Needs {
    /// Needs nothing.
    pub fn none() -> Needs {
        Needs::default()
    }

    /// Calls these tools as well: a tool's full name (`file.read`), or a family (`file.*`). At most 64 in all; the host
    /// refuses a plugin that names more.
    pub fn tools<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Needs {
        self.tools.extend(names.into_iter().map(Into::into));
        self
    }

    /// Reads, or reads and changes, the user's key-value data for this plugin.
    pub fn state(mut self, access: Access) -> Needs {
        self.state = access;
        self
    }

    /// Reads, or reads and changes, the user's files below `/workspace`, with `std::fs`.
    pub fn workspace(mut self, access: Access) -> Needs {
        self.workspace = access;
        self
    }

    /// Starts these agents as well, with [`Context::spawn`](crate::Context::spawn): by the names they were pushed under,
    /// without a version, or `*` for any. At most 64 in all; the host refuses a plugin that names more.
    pub fn agents<T: Into<String>>(mut self, names: impl IntoIterator<Item = T>) -> Needs {
        self.agents.extend(names.into_iter().map(Into::into));
        self
    }

    /// Asks people, with [`Context::ask`](crate::Context::ask). Makes an agent without a workspace
    /// [durable](Needs::durable) as well: an answer may come long after the host was started again.
    pub fn human(mut self) -> Needs {
        self.human = true;
        self
    }

    /// Has durable runs: a host that is killed goes on with them where they were, by executing them again from their
    /// journal. Not a permission, and granted by nobody. A durable run has no `/workspace`.
    pub fn durable(mut self) -> Needs {
        self.durable = true;
        self
    }
}

impl From<Access> for types::Access {
    fn from(access: Access) -> types::Access {
        match access {
            Access::None => types::Access::None,
            Access::Read => types::Access::Read,
            Access::ReadWrite => types::Access::ReadWrite,
        }
    }
}

impl From<Needs> for types::Needs {
    fn from(needs: Needs) -> types::Needs {
        types::Needs {
            tools: needs.tools,
            state: needs.state.into(),
            workspace: needs.workspace.into(),
            agents: needs.agents,
            human: needs.human,
            durable: needs.durable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_add_up_and_start_from_nothing() {
        let nothing: types::Needs = Needs::none().into();
        assert!(nothing.tools.is_empty());
        assert_eq!((nothing.state, nothing.workspace), (types::Access::None, types::Access::None));
        assert!(nothing.agents.is_empty() && !nothing.human && !nothing.durable);

        let more = Needs::none().tools(["file.read"]).tools(["units.*"]).state(Access::ReadWrite);
        let more: types::Needs = more.workspace(Access::Read).into();
        assert_eq!(more.tools, ["file.read", "units.*"]);
        assert_eq!((more.state, more.workspace), (types::Access::ReadWrite, types::Access::Read));

        let asking: types::Needs = Needs::none().agents(["summary"]).agents(["probe"]).human().into();
        assert_eq!(asking.agents, ["summary", "probe"]);
        // That whoever asks is durable follows on the host, for agents in every language.
        assert!(asking.human && !asking.durable);
        assert!(types::Needs::from(Needs::none().durable()).durable);
    }
}
