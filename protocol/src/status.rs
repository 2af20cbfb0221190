// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Status codes of a reply: Linux's generic errno numbers, on every architecture.

/// The outcome of a request, as the reply header carries it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub u32);

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        impl Status {
            $($(#[$doc])* pub const $name: Self = Self($value);)*

            /// The errno's name, if SPEC.md lists it.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some(stringify!($name)),)*
                    _ => None,
                }
            }
        }
    };
}

statuses! {
    /// Done.
    OK = 0;
    /// No buffer of that name, or no such heap.
    ENOENT = 2;
    /// The host failed to do it.
    EIO = 5;
    /// Nothing is ready: no frame, no free buffer.
    EAGAIN = 11;
    /// The host has no memory for it.
    ENOMEM = 12;
    /// No grant for that, or more access than the parent has, or an enforcement that can't be met.
    EACCES = 13;
    /// In use: a handle with mappings, a heap whose slots are all taken, as many waits as may be open.
    EBUSY = 16;
    /// The name is taken.
    EEXIST = 17;
    /// No window, or no fence source.
    ENODEV = 19;
    /// The request is malformed.
    EINVAL = 22;
    /// The peer has as many handles or mappings as it may have.
    EMFILE = 24;
    /// The window is full.
    ENOSPC = 28;
    /// The reply doesn't fit into the space given for it.
    EMSGSIZE = 90;
    /// The request is not known, or not on this transport.
    EOPNOTSUPP = 95;
    /// The front-end did not answer in time, or a fence didn't signal in time.
    ETIMEDOUT = 110;
    /// The handle or mapping is stale or was never given out.
    ESTALE = 116;
    /// The peer's quota is used up.
    EDQUOT = 122;
    /// The wait was cancelled.
    ECANCELED = 125;
    /// The buffer's producer ended before the fence signalled.
    EOWNERDEAD = 130;
}

impl core::fmt::Display for Status {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "errno {}", self.0),
        }
    }
}

impl core::fmt::Debug for Status {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

impl core::error::Error for Status {}
