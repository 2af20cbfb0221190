// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The socket transport: host processes, one thread per connection.
//!
//! The same requests as on virtqueues, one per message, with fds in place of window offsets. A client that stalls, lies
//! or dies ends its own connection and nothing else.

mod connection;
mod line;

use crate::config::ClientConfig;
use crate::session::{Host, Policy, Session, Transport};
use crate::sys;
use rustix::fd::{AsFd, OwnedFd};
use rustix::net::UCred;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Most connections at once.
const MAX_CONNECTIONS: u32 = 256;

/// Which processes are a peer.
#[derive(Debug)]
pub struct Client {
    uid: Option<u32>,
    gid: Option<u32>,
    policy: Arc<Policy>,
}

impl Client {
    /// As configured, with these rights.
    #[must_use]
    pub fn new(config: &ClientConfig, policy: Arc<Policy>) -> Self {
        Self {
            uid: config.uid,
            gid: config.gid,
            policy,
        }
    }

    fn is(&self, process: &UCred) -> bool {
        self.uid.is_none_or(|uid| uid == process.uid.as_raw())
            && self.gid.is_none_or(|gid| gid == process.gid.as_raw())
    }
}

/// Starts accepting clients. The first entry that fits a process decides what it may do.
///
/// # Errors
/// When no thread can be had.
pub fn start(listener: OwnedFd, clients: Vec<Client>, host: &Arc<Host>) -> std::io::Result<()> {
    let host = Arc::clone(host);
    let accept = move || {
        let open = Arc::new(AtomicU32::new(0));
        loop {
            match sys::accept(listener.as_fd()) {
                Ok(socket) => welcome(socket, &clients, &host, &open),
                Err(error) => {
                    log::error!("broker: can't accept clients: {error}");
                    // Out of fds or memory: only time helps, and spinning would make it worse.
                    std::thread::sleep(std::time::Duration::from_millis(100));
                }
            }
        }
    };
    std::thread::Builder::new()
        .name("broker".to_owned())
        .spawn(accept)?;
    Ok(())
}

fn welcome(socket: OwnedFd, clients: &[Client], host: &Arc<Host>, open: &Arc<AtomicU32>) {
    let Ok(process) = rustix::net::sockopt::socket_peercred(&socket) else {
        return;
    };
    let Some(client) = clients.iter().find(|client| client.is(&process)) else {
        log::warn!(
            "broker: no [[client]] fits process {} (uid {}, gid {}): not served",
            process.pid.as_raw_nonzero(),
            process.uid.as_raw(),
            process.gid.as_raw()
        );
        return;
    };
    if open.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
        open.fetch_sub(1, Ordering::Relaxed);
        log::warn!("broker: more than {MAX_CONNECTIONS} connections: one more is not served");
        return;
    }
    let name = client.policy.name;
    let session = Session::new(Arc::clone(host), Arc::clone(&client.policy), Transport::Fds);
    let counted = Arc::clone(open);
    let serve = move || {
        match session {
            Ok(session) => connection::serve(socket, session),
            Err(error) => log::error!("broker: no session for {name}: {error}"),
        }
        counted.fetch_sub(1, Ordering::Relaxed);
    };
    if let Err(error) = std::thread::Builder::new()
        .name(format!("client {name}"))
        .spawn(serve)
    {
        open.fetch_sub(1, Ordering::Relaxed);
        log::error!("broker: no thread for {name}: {error}");
    }
}
