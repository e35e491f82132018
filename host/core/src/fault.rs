//! Who is to blame when something fails. Every wire mapping switches on this and on nothing else.

/// Who is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The caller sent something that cannot be used. Sending it again changes nothing.
    Caller,
    /// What the caller names does not exist, or is not theirs, which looks the same.
    Absent,
    /// The guest's own code failed.
    Guest,
    /// The caller may not do this.
    Denied,
    /// A limit was reached. Later, or with less, it may work.
    Exhausted,
    /// The host itself failed, or is going away.
    Host,
}
