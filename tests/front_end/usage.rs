// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! GET_USAGE: what VMs and clients see of each other, while they come, use things and go.

use crate::client::{Client, SEALED};
use crate::daemon::{CONFIG, Daemon, LIMIT};
use crate::message::{PAGE, Peer, READ_ONLY, text};
use crate::vmm::FrontEnd;
use crate::window::Answer;
use dmabuf_protocol::wire::{ListReply, ListRequest, PeerUsage};
use dmabuf_protocol::{OpCode, Resource};
use std::time::Instant;
use zerocopy::{FromBytes, FromZeros};

/// Name, kind, a client's sessions, and (use, limit) of some resources.
type Seen = (String, u32, Option<u32>, Vec<(u64, u64)>);

fn usage(peer: &mut impl Peer) -> Vec<Seen> {
    let reply = peer.call(OpCode::GetUsage, &ListRequest::new_zeroed());
    let reply = reply.unwrap();
    let (head, rest) = ListReply::read_from_prefix(&reply).unwrap();
    assert_eq!(head.next.get(), 0);
    let entries = rest.chunks(size_of::<PeerUsage>()).map(|entry| {
        let entry = PeerUsage::read_from_bytes(entry).unwrap();
        let of = |resource| {
            let one = entry.uses[resource as usize];
            (one.used.get(), one.limit.get())
        };
        let some = [Resource::Handles, Resource::Mappings, Resource::Buffers];
        // A VM's session waits for its front-end.
        let sessions = (entry.kind.get() == 2).then(|| entry.sessions.get());
        let numbers = some.map(of).to_vec();
        (text(&entry.name), entry.kind.get(), sessions, numbers)
    });
    entries.collect()
}

#[test]
fn peers_see_themselves_and_a_monitor_everybody() {
    let config = CONFIG.replace(
        "[[client]]\nname = \"producer\"",
        "[[client]]\nname = \"watcher\"\nuid = 4294967294\n[[client]]\nname = \"producer\"\nmonitor = true",
    );
    let daemon = Daemon::start(&config);
    let mut client = Client::connect(&daemon);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let _shared = client.share("ro/x", 1, SEALED);
    let handle = vm.open("ro/x", READ_ONLY);
    vm.map(handle, 0, PAGE, READ_ONLY).unwrap();
    vm.map(handle, 0, PAGE, 2).unwrap_err();
    let of_vm = || {
        let numbers = vec![(1, 8), (1, 6), (0, 8)];
        ("a".to_owned(), 1, None, numbers)
    };
    assert_eq!(usage(&mut vm), [of_vm()]);
    let idle = |name: &str, kind, limits: [u64; 3]| {
        let numbers = limits.map(|limit| (0, limit)).to_vec();
        (name.to_owned(), kind, (kind == 2).then_some(0), numbers)
    };
    let producer = || {
        let numbers = vec![(1, 600), (0, 0), (1, 600)];
        ("producer".to_owned(), 2, Some(1), numbers)
    };
    let rest = || {
        [
            idle("b", 1, [256, 256, 256]),
            idle("blind", 1, [256, 256, 256]),
            idle("watcher", 2, [256, 0, 256]),
            producer(),
        ]
    };
    let all: Vec<_> = [of_vm()].into_iter().chain(rest()).collect();
    assert_eq!(usage(&mut client), all);
    drop(vm);
    let all: Vec<_> = [idle("a", 1, [8, 6, 8])]
        .into_iter()
        .chain(rest())
        .collect();
    let until = Instant::now() + LIMIT;
    while usage(&mut client) != all {
        assert!(Instant::now() < until, "{:?}", usage(&mut client));
    }
}
