//! What a guest wants its host to do, and the proof that it may.

use crate::{
    identity::Scope,
    ids::{PluginName, ThreadId, UserId},
};

/// Something that a guest wants its host to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect<'a> {
    /// Call a tool, by its full name.
    Tool(&'a str),
    /// Look at the user's state.
    StateRead,
    /// Change the user's state.
    StateWrite,
    /// Look into the directory `/workspace`.
    WorkspaceRead,
    /// Change something in the directory `/workspace`.
    WorkspaceWrite,
    /// Start an agent, by its name without a version.
    Agent(&'a str),
    /// Ask people.
    Human,
}

/// The effect is not allowed. The text says what is missing and who can mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The plugin did not declare it.
    #[error(
        "plugin {plugin:?} may not {what}: its needs do not declare it; add it to the plugin's needs, and build and push it again"
    )]
    NotDeclared {
        /// What.
        what: String,
        /// Which plugin.
        plugin: PluginName,
    },
    /// The user was not granted it.
    #[error(
        "plugin {plugin:?} may not {what} for user {user:?}: it is declared but not granted; an operator can: cofferdam grant set {user} {plugin} '{grant}'"
    )]
    NotGranted {
        /// What.
        what: String,
        /// Which plugin.
        plugin: PluginName,
        /// For whom.
        user: UserId,
        /// The grant that would do, as JSON.
        grant: String,
    },
    /// The same where an author tries a plugin alone.
    #[error(
        "the plugin may not {what}: it is declared but not granted; grant it with --grant '{grant}', or in a case with \"grant\""
    )]
    TriedAlone {
        /// What.
        what: String,
        /// The grant that would do, as JSON.
        grant: String,
    },
}

/// Proof that an effect was authorized. Only [`super::UserExecutionContext::authorize`] makes one.
#[derive(Debug)]
pub struct Permit {
    pub(super) scope: Scope,
    pub(super) plugin: PluginName,
    pub(super) thread: ThreadId,
}

/// A part of the user's state: one plugin's, in one thread or in all of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StateSpace {
    scope: Scope,
    plugin: PluginName,
    thread: Option<ThreadId>,
}

impl StateSpace {
    /// Whose.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Which plugin's.
    #[must_use]
    pub const fn plugin(&self) -> &PluginName {
        &self.plugin
    }

    /// The thread it is bound to, or the empty text.
    #[must_use]
    pub fn thread(&self) -> &str {
        self.thread.as_ref().map_or("", ThreadId::as_str)
    }
}

impl Permit {
    /// Whose data the effect touches.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The plugin's state: of this thread, or of the user.
    #[must_use]
    pub fn state_space(&self, of_thread: bool) -> StateSpace {
        StateSpace {
            scope: self.scope.clone(),
            plugin: self.plugin.clone(),
            thread: of_thread.then(|| self.thread.clone()),
        }
    }
}
