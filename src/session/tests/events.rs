// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Events: for whom, in which order, and what happens to a peer that doesn't listen.

use super::peer::*;
use crate::session::Policy;
use dmabuf_protocol::wire::{EVENT_BUFFER_ADDED, EVENT_BUFFER_WITHDRAWN};
use dmabuf_protocol::{Access, Enforcement};

fn listener(host: &std::sync::Arc<crate::session::Host>, pattern: &str) -> Peer {
    let grants = vec![buffers(pattern, Access::ReadWrite, Enforcement::Derived)];
    Peer::client(host, Policy { grants, ..policy() })
}

#[test]
fn a_peer_hears_of_what_it_may_open() {
    let (host, _) = host(1);
    let mut producer = producer(&host);
    producer.share("memfd", P, "a/before");
    let mut peer = listener(&host, "a/*");
    producer.share("memfd", P, "a/0");
    producer.share("memfd", P, "b/0");
    producer.share("memfd", P, "a/1");
    producer.withdraw("a/0").unwrap();
    producer.withdraw("b/0").unwrap();
    let expected = [
        (EVENT_BUFFER_ADDED, 1, "a/0"),
        (EVENT_BUFFER_ADDED, 2, "a/1"),
        (EVENT_BUFFER_WITHDRAWN, 3, "a/0"),
    ];
    assert_eq!(
        peer.events(),
        expected.map(|(kind, sequence, name)| (kind, sequence, name.to_owned()))
    );
}

#[test]
fn lost_events_show_as_a_gap() {
    let (host, _) = host(1);
    let mut producer = producer(&host);
    let mut peer = listener(&host, "a/*");
    let handle = producer.alloc("memfd", P).unwrap().handle.get();
    let mut change = |count: u32| {
        for _ in 0..count {
            producer.publish(handle, "a/0", false).unwrap();
            producer.withdraw("a/0").unwrap();
        }
    };
    change(128);
    change(5);
    let sequences = |peer: &mut Peer| {
        peer.events()
            .into_iter()
            .map(|(_, sequence, _)| sequence)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        sequences(&mut peer),
        (11..=266).collect::<Vec<_>>(),
        "the newest are kept, or nobody would hear of them before the next change"
    );
    change(1);
    assert_eq!(sequences(&mut peer), [267, 268], "nothing more is lost");
    peer.session.reset();
    change(1);
    assert_eq!(sequences(&mut peer), [1, 2], "a reset starts anew");
}

#[test]
fn a_reset_forgets_what_waits() {
    let (host, _) = host(1);
    let mut producer = producer(&host);
    let mut peer = listener(&host, "a/*");
    producer.share("memfd", P, "a/0");
    peer.session.reset();
    assert_eq!(peer.events(), Vec::new());
}
