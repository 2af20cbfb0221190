// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Limits of the process (getrlimit(2)).

use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the soft limit of open files to the hard one.
pub fn raise_fd_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(errno) = setrlimit(Resource::Nofile, limit) {
        log::warn!("can't raise the limit of open files: {errno}");
    }
}
