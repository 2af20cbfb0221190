// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Events: in order, with gaps noticed, and the queue always full.

use super::host::{Host, name_of, start};
use crate::{Change, Error};
use dmabuf_protocol::wire;
use zerocopy::{FromZeros, IntoBytes};

fn event(kind: u32, sequence: u64, id: u64) -> wire::Event {
    let mut event = wire::Event::new_zeroed();
    event.kind = kind.into();
    event.sequence = sequence.into();
    event.buffer = id.into();
    event.name = name_of(id).to_wire();
    event
}

#[test]
fn come_in_order() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    assert_eq!(device.event(), Ok(None));
    for sequence in 1..=100 {
        let kind = [wire::EVENT_BUFFER_ADDED, wire::EVENT_BUFFER_WITHDRAWN]
            [usize::from(sequence % 2 == 0)];
        let sent = event(kind, sequence, 1 + sequence % 12);
        host.borrow_mut().event(sent.as_bytes());
        let got = device.event().unwrap().unwrap();
        assert_eq!(got.change == Change::Added, sequence % 2 == 1);
        assert_eq!(
            (got.subject, got.name),
            ((1 + sequence % 12), Some(name_of(1 + sequence % 12)))
        );
        assert!(!got.lost);
        assert_eq!(
            host.borrow().event_buffers.len(),
            8,
            "given to the device again"
        );
    }
}

#[test]
fn gaps_are_told_once() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    for (sequence, lost) in [(1, false), (7, true), (8, false), (8, true), (9, false)] {
        host.borrow_mut()
            .event(event(wire::EVENT_BUFFER_ADDED, sequence, 1).as_bytes());
        assert_eq!(device.event().unwrap().unwrap().lost, lost, "{sequence}");
    }
}

#[test]
fn unknown_kinds_are_skipped_and_counted() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    host.borrow_mut().event(event(0x8000_001f, 1, 1).as_bytes());
    host.borrow_mut()
        .event(event(wire::EVENT_BUFFER_ADDED, 2, 5).as_bytes());
    let got = device.event().unwrap().unwrap();
    assert_eq!((got.subject, got.lost), ((5), false));
    assert_eq!(device.event(), Ok(None));
}

#[test]
fn wrong_ones_are_errors_and_later_ones_come() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    let mut nameless = event(wire::EVENT_BUFFER_ADDED, 1, 1);
    nameless.name = [0; 64];
    host.borrow_mut().event(nameless.as_bytes());
    host.borrow_mut()
        .event(&event(wire::EVENT_BUFFER_ADDED, 2, 1).as_bytes()[..95]);
    host.borrow_mut()
        .event(event(wire::EVENT_BUFFER_ADDED, 3, 7).as_bytes());
    assert_eq!(device.event(), Err(Error::Protocol("an event's name")));
    assert_eq!(device.event(), Err(Error::Protocol("an event's length")));
    let got = device.event().unwrap().unwrap();
    assert_eq!((got.subject, got.lost), ((7), true));
    assert_eq!(host.borrow().event_buffers.len(), 8);
}

#[test]
fn a_buffer_that_is_taken_away_need_not_have_a_name() {
    let host = Host::new();
    let mut device = start(&host).unwrap();
    let mut revoked = event(wire::EVENT_BUFFER_REVOKED, 1, 4);
    revoked.name = [0; 64];
    revoked.value = 250.into();
    host.borrow_mut().event(revoked.as_bytes());
    host.borrow_mut()
        .event(event(wire::EVENT_BUFFER_FREE, 2, 4).as_bytes());
    let got = device.event().unwrap().unwrap();
    assert_eq!((got.change, got.subject), (Change::Revoked, 4));
    assert_eq!((got.value, got.name), (250, None));
    let got = device.event().unwrap().unwrap();
    assert_eq!((got.change, got.name), (Change::Free, Some(name_of(4))));
}
