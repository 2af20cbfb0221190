// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a peer may do with a name, told without a daemon: for `--check --peer NAME --what NAME`. The decisions are those
//! that a session makes; what only memory can tell (the enforcement that a buffer reaches) is told as what is demanded.

use super::grants::{Policy, Target};
use dmabuf_protocol::{Access, Name, PeerKind, Status};
use std::fmt::Write;

impl Policy {
    /// Line by line, what this peer may do with a buffer, a stream or a heap of this name, and why not.
    #[must_use]
    pub fn explain(&self, name: &Name) -> String {
        let mut told = String::new();
        let mut tell = |what: &str, answer: String| {
            // Writing to a String can't fail.
            let _ = writeln!(told, "{what:24}  {answer}");
        };
        tell("open, as a buffer", self.explain_open(name, None));
        for grant in &self.grants {
            if let Target::Pool(pool) = &grant.target {
                tell(
                    &format!("open, as a slot of {pool}"),
                    self.explain_open(name, Some(pool)),
                );
            }
        }
        tell("consume, as a stream", self.explain_stream(name));
        tell("publish, as either", self.explain_publish(name));
        tell("allocate, as a heap", self.explain_heap(name));
        told
    }

    fn explain_open(&self, name: &Name, pool: Option<&str>) -> String {
        let terms = |access| self.terms(name, pool, access);
        let read_only = |least: &str| match least {
            "none" => "read-only".to_owned(),
            least => format!("read-only, where the enforcement is {least} or better"),
        };
        match (terms(Access::ReadOnly), terms(Access::ReadWrite)) {
            (Ok(terms), Ok(_)) => format!("read-write; {}", read_only(terms.least.as_str())),
            (Ok(terms), Err(status)) => format!(
                "{}; read-write is {status}: no grant that covers it has access = \"read-write\"",
                read_only(terms.least.as_str())
            ),
            (Err(status), _) => {
                format!("{status}: no grant covers it{}", self.hint("buffer", name))
            }
        }
    }

    fn explain_stream(&self, name: &Name) -> String {
        match self.stream_grant(name).map(|grant| (grant, &grant.target)) {
            Some((
                grant,
                Target::Streams {
                    max_held, max_hold, ..
                },
            )) => format!(
                "read-only, where the enforcement is {} or better; at most {max_held} frames at once, each for {} ms; \
                 slots of a pool need a grant of the pool",
                grant.enforcement.as_str(),
                max_hold.as_millis()
            ),
            _ => format!(
                "{}: no grant covers it{}",
                Status::EACCES,
                self.hint("stream", name)
            ),
        }
    }

    fn explain_publish(&self, name: &Name) -> String {
        match (self.may_publish(name), self.kind) {
            (Ok(()), _) => "yes".to_owned(),
            (Err(_), PeerKind::Vm) if self.publish.is_empty() => {
                format!("{}: this VM has no publish", Status::EOPNOTSUPP)
            }
            (Err(status), _) => format!("{status}: nothing in its publish covers it"),
        }
    }

    fn explain_heap(&self, name: &Name) -> String {
        if self.allocate.iter().any(|heap| heap == name.as_str()) {
            return format!("yes, {} buffers at most", self.limits.buffers);
        }
        match self.kind {
            PeerKind::Vm if self.allocate.is_empty() => {
                format!("{}: this VM has no allocate", Status::EOPNOTSUPP)
            }
            _ => format!("{}: it isn't in its allocate", Status::EACCES),
        }
    }

    fn hint(&self, key: &str, name: &Name) -> String {
        let table = match self.kind {
            PeerKind::Vm => "vm",
            PeerKind::Client => "client",
        };
        format!(" ([[{table}.grant]] {key} = \"{name}\" would)")
    }
}
