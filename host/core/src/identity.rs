//! Who asks: the proof that every storage call and every operator's act must show.

use crate::{
    fault::Fault,
    ids::{KeyId, UserId},
};

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Submit and see their own runs.
    User,
    /// Push plugins, set grants, create keys; no runs of their own.
    Operator,
}

/// Who was found behind a request's key. Made by authentication only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    user: UserId,
    role: Role,
    key: KeyId,
}

/// The caller's key is of the wrong kind for what it asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrongRole {
    /// An operator's key is needed.
    #[error("this needs an operator's key (the admin key)")]
    OperatorNeeded,
    /// A user's key is needed.
    #[error("an operator's key has no runs, files or state of its own; use a user's key")]
    UserNeeded,
}

impl WrongRole {
    /// Always [`Fault::Denied`].
    #[must_use]
    pub const fn fault(self) -> Fault {
        Fault::Denied
    }
}

impl Identity {
    /// The identity that a stored key stands for. Authentication calls this, nobody else.
    #[must_use]
    pub const fn authenticated(user: UserId, role: Role, key: KeyId) -> Self {
        Self { user, role, key }
    }

    /// Whom the key belongs to.
    #[must_use]
    pub const fn user(&self) -> &UserId {
        &self.user
    }

    /// What the key may do.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.role
    }

    /// The public name of the key.
    #[must_use]
    pub const fn key(&self) -> &KeyId {
        &self.key
    }

    /// The right to touch this user's data.
    ///
    /// # Errors
    /// When the key is an operator's.
    pub fn scope(&self) -> Result<Scope, WrongRole> {
        match self.role {
            Role::User => Ok(Scope(self.user.clone())),
            Role::Operator => Err(WrongRole::UserNeeded),
        }
    }

    /// The right to act for the platform.
    ///
    /// # Errors
    /// When the key is a user's.
    pub const fn operator(&self) -> Result<Operator, WrongRole> {
        match self.role {
            Role::Operator => Ok(Operator(())),
            Role::User => Err(WrongRole::OperatorNeeded),
        }
    }
}

/// The right to touch one user's data, and no other's. Comes from an [`Identity`], from a
/// [`UserExecutionContext`](crate::UserExecutionContext), or, for a run that the host itself must end, from an
/// [`Operator`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope(UserId);

impl Scope {
    pub(crate) const fn of(user: UserId) -> Self {
        Self(user)
    }

    /// Whose data.
    #[must_use]
    pub const fn user(&self) -> &UserId {
        &self.0
    }
}

/// The right to act for the platform.
#[derive(Debug, Clone, Copy)]
pub struct Operator(());

impl Operator {
    /// The host's own right, for what it does by itself at start and stop.
    #[must_use]
    pub const fn host() -> Self {
        Self(())
    }

    /// The right to touch a given user's data on the platform's behalf.
    #[must_use]
    pub fn on_behalf_of(self, user: &UserId) -> Scope {
        Scope(user.clone())
    }
}
