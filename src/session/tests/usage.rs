// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! GET_USAGE, and the quotas of frames held and of consumers.

use super::peer::*;
use crate::session::{FenceTerms, Grant, Host, Limits, Pattern, Policy, Target};
use dmabuf_protocol::wire::*;
use dmabuf_protocol::{Access, Enforcement, OpCode, PeerKind, Resource, Status};
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerocopy::{FromBytes, FromZeros};

/// A host process that may consume and make every stream, with a usage of its own.
pub fn streams_policy(text: &str, limits: Limits) -> Policy {
    Policy {
        name: name(text),
        kind: PeerKind::Client,
        grants: vec![Grant {
            target: Target::Streams {
                names: Pattern::new("*").unwrap(),
                max_held: 8,
                max_hold: Duration::from_secs(600),
            },
            access: Access::ReadOnly,
            enforcement: Enforcement::Derived,
            fail_stop: false,
            fences: FenceTerms::default(),
        }],
        publish: vec![Pattern::new("*").unwrap()],
        allocate: vec!["memfd".to_owned()],
        limits,
        ..policy()
    }
}

/// The same peer again: limits and usage are shared.
fn again(of: &Policy) -> Policy {
    Policy {
        usage: Arc::clone(&of.usage),
        ..streams_policy(of.name.as_str(), of.limits)
    }
}

impl Peer {
    pub fn stream(&mut self, text: &str) -> Result<u64, Status> {
        self.stream_with(text, 0)
    }

    fn stream_with(&mut self, text: &str, hold_ms: u32) -> Result<u64, Status> {
        let request = StreamOpenRequest {
            name: name(text).to_wire(),
            mode: MODE_FIFO.into(),
            depth: 8.into(),
            hold_ms: hold_ms.into(),
            ..FromZeros::new_zeroed()
        };
        let reply = self.call(OpCode::StreamOpen, &request)?;
        Ok(StreamOpenReply::read_from_bytes(&reply)
            .unwrap()
            .stream
            .get())
    }

    fn acquire(&mut self, stream: u64) -> Result<u64, Status> {
        let reply = self.call(OpCode::StreamAcquire, &stream.to_le_bytes())?;
        Ok(FrameReply::read_from_bytes(&reply).unwrap().sequence.get())
    }

    fn give_back(&mut self, stream: u64, sequence: u64) {
        let request = StreamReleaseRequest {
            stream: stream.into(),
            sequence: sequence.into(),
        };
        self.call(OpCode::StreamRelease, &request).unwrap();
    }

    /// A stream with `frames` frames, all queued once there is a consumer.
    pub fn produce(&mut self, text: &str, frames: u32) -> u64 {
        let request = StreamCreateRequest {
            name: name(text).to_wire(),
            ..FromZeros::new_zeroed()
        };
        let reply = self.call(OpCode::StreamCreate, &request).unwrap();
        let stream = StreamCreateReply::read_from_bytes(&reply).unwrap().stream;
        for _ in 0..frames {
            let handle = self.alloc("memfd", P).unwrap().handle;
            let request = StreamAddRequest { stream, handle };
            self.call(OpCode::StreamAdd, &request).unwrap();
        }
        stream.get()
    }

    fn queue(&mut self, stream: u64, index: u32) {
        let request = StreamQueueRequest {
            stream: stream.into(),
            index: index.into(),
            ..FromZeros::new_zeroed()
        };
        self.call(OpCode::StreamQueue, &request).unwrap();
    }

    /// All pages of `max` entries.
    fn usage(&mut self, max: u32) -> Vec<PeerUsage> {
        let (mut all, mut cursor) = (Vec::new(), 0);
        loop {
            let request = ListRequest {
                cursor: u64::into(cursor),
                max: max.into(),
                reserved: 0.into(),
            };
            let reply = self.call(OpCode::GetUsage, &request).unwrap();
            let (head, entries) = ListReply::read_from_prefix(&reply).unwrap();
            let entries: Vec<_> = entries
                .chunks(size_of::<PeerUsage>())
                .map(|entry| PeerUsage::read_from_bytes(entry).unwrap())
                .collect();
            assert_eq!(u32::try_from(entries.len()), Ok(head.count.get()));
            assert!(max == 0 || head.count.get() <= max);
            all.extend(entries);
            cursor = head.next.get();
            if cursor == 0 {
                return all;
            }
        }
    }
}

/// Use and limit.
fn of(usage: &PeerUsage, resource: Resource) -> (u64, u64) {
    let entry = usage.uses[resource as usize];
    (entry.used.get(), entry.limit.get())
}

const SMALL: Limits = Limits {
    handles: 5,
    buffers: 6,
    mappings: 0,
    bytes: 7 * P,
    waits: 8,
    holds: 3,
    consumers: 2,
};

#[test]
fn a_peer_sees_what_it_uses_itself() {
    let (host, _) = host(1);
    let policy = streams_policy("app", SMALL);
    let second = again(&policy);
    let mut app = Peer::client(&host, policy);
    let mut more = Peer::client(&host, second);
    for _ in 0..3 {
        app.alloc("memfd", P).unwrap();
    }
    more.alloc("memfd", 2 * P).unwrap();
    let stream = more.produce("front", 1);
    app.stream("front").unwrap();
    let held = more.stream("front").unwrap();
    more.queue(stream, 0);
    more.acquire(held).unwrap();
    let all = app.usage(0);
    assert_eq!(all.len(), 1, "nobody else");
    let usage = all[0];
    assert_eq!(usage.name, name("app").to_wire());
    assert_eq!(usage.kind.get(), PeerKind::Client.to_wire());
    assert_eq!(usage.sessions.get(), 2);
    assert_eq!(usage.per_session.get(), 0b1_1111);
    // The fullest session of what is limited for each.
    assert_eq!(of(&usage, Resource::Handles), (3, 5));
    assert_eq!(of(&usage, Resource::Mappings), (0, 0));
    assert_eq!(of(&usage, Resource::Inflight), (0, 0));
    assert_eq!(of(&usage, Resource::Waits), (0, 8));
    assert_eq!(of(&usage, Resource::Ends), (2, 64));
    // The sum of what is limited for all together.
    assert_eq!(of(&usage, Resource::Buffers), (5, 6));
    assert_eq!(of(&usage, Resource::Bytes), (6 * P, 7 * P));
    assert_eq!(of(&usage, Resource::Holds), (1, 3));
    assert_eq!(of(&usage, Resource::Consumers), (2, 2));
    more.session.end();
    drop(more);
    let usage = app.usage(0)[0];
    assert_eq!(usage.sessions.get(), 1);
    // The stream's buffer is there as long as its consumer.
    assert_eq!(of(&usage, Resource::Buffers), (4, 6));
    assert_eq!(of(&usage, Resource::Holds), (0, 3));
    assert_eq!(of(&usage, Resource::Consumers), (1, 2));
}

#[test]
fn a_vm_sees_its_window() {
    let (host, _) = host(1);
    let mut producer = producer(&host);
    producer.share("dma", P, "b");
    let grants = vec![buffers("b", Access::ReadWrite, Enforcement::Vmm)];
    let mut vm = Peer::vm(&host, Policy { grants, ..policy() }, 8, &[]);
    let handle = vm.open("b", Access::ReadWrite).unwrap().handle.get();
    assert!(vm.map(handle, 0, P, Access::ReadWrite).is_none());
    let usage = vm.usage(0)[0];
    assert_eq!(usage.kind.get(), PeerKind::Vm.to_wire());
    assert_eq!(of(&usage, Resource::Inflight), (1, 64));
    assert_eq!(of(&usage, Resource::Mappings), (1, 200));
    let job = vm.job();
    vm.finish(&job, Ok(())).unwrap();
    let usage = vm.usage(0)[0];
    assert_eq!(of(&usage, Resource::Inflight), (0, 64));
    assert_eq!(of(&usage, Resource::Mappings), (1, 200));
}

#[test]
fn a_monitor_sees_everybody_in_pages() {
    let (mut host, _pool) = host(1);
    let names: Vec<String> = (0..40).map(|n| format!("peer/{n}")).collect();
    let mut peers: Vec<_> = names
        .iter()
        .map(|text| Arc::new(streams_policy(text, SMALL)))
        .collect();
    let monitor = || Policy {
        monitor: true,
        ..streams_policy("monitor", SMALL)
    };
    peers.push(Arc::new(monitor()));
    Arc::get_mut(&mut host).unwrap().peers = peers;
    let mut monitor = Peer::client(&host, monitor());
    for max in [0, 1, 7, u32::MAX] {
        let seen: Vec<_> = monitor.usage(max).iter().map(|peer| peer.name).collect();
        let expected = names.iter().map(String::as_str).chain(["monitor"]);
        assert_eq!(
            seen,
            expected
                .map(|text| name(text).to_wire())
                .collect::<Vec<_>>()
        );
    }
    for cursor in [41, u64::MAX] {
        let request = ListRequest {
            cursor: cursor.into(),
            ..FromZeros::new_zeroed()
        };
        let reply = monitor.call(OpCode::GetUsage, &request).unwrap();
        assert_eq!(reply, [0; 16], "an empty last page");
    }
    let mut other = Peer::client(&host, streams_policy("peer/3", SMALL));
    assert_eq!(other.usage(0).len(), 1);
}

/// Two sessions of one peer, with all frames of two streams ready for them.
fn consumers(host: &Arc<Host>) -> (Peer, [(Peer, u64); 2]) {
    let mut maker = Peer::client(
        host,
        streams_policy(
            "maker",
            Limits {
                bytes: 64 * P,
                ..Limits::DEFAULT
            },
        ),
    );
    let made = ["front", "rear"].map(|text| maker.produce(text, 4));
    let policy = streams_policy("app", SMALL);
    let second = again(&policy);
    let mut both = [Peer::client(host, policy), Peer::client(host, second)];
    let [front, rear] = &mut both;
    let ends = [front.stream("front").unwrap(), rear.stream("rear").unwrap()];
    for stream in made {
        (0..4).for_each(|index| maker.queue(stream, index));
    }
    let [front, rear] = both;
    (maker, [(front, ends[0]), (rear, ends[1])])
}

#[test]
fn frames_held_are_limited_over_all_streams_and_sessions() {
    let (host, _) = host(1);
    let (_maker, [(mut front, f), (mut rear, r)]) = consumers(&host);
    assert_eq!((front.acquire(f), front.acquire(f)), (Ok(1), Ok(2)));
    assert_eq!(rear.acquire(r), Ok(1));
    assert_eq!(rear.acquire(r), Err(Status::EDQUOT));
    assert_eq!(front.acquire(f), Err(Status::EDQUOT));
    front.give_back(f, 1);
    assert_eq!(rear.acquire(r), Ok(2), "refused frames are not lost");
    assert_eq!(rear.acquire(r), Err(Status::EDQUOT));
    rear.call(OpCode::StreamClose, &r.to_le_bytes()).unwrap();
    assert_eq!(of(&front.usage(0)[0], Resource::Holds), (1, 3));
}

#[test]
fn a_hold_that_ends_by_its_deadline_is_given_back() {
    let (host, _) = host(1);
    let mut app = Peer::client(&host, streams_policy("app", SMALL));
    let made = app.produce("front", 1);
    let stream = app.stream_with("front", 20).unwrap();
    app.queue(made, 0);
    app.acquire(stream).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while of(&app.usage(0)[0], Resource::Holds).0 > 0 {
        assert!(Instant::now() < until, "nobody ends it");
        std::thread::yield_now();
    }
}

#[test]
fn consumers_are_limited_over_all_sessions() {
    let (host, _) = host(1);
    let (mut maker, [(mut front, f), (mut rear, _)]) = consumers(&host);
    assert_eq!(rear.stream("front"), Err(Status::EDQUOT));
    assert_eq!(
        rear.stream("absent"),
        Err(Status::EDQUOT),
        "the quota first: nothing is told about names"
    );
    // The producer is another peer, and its own end doesn't count.
    maker.stream("front").unwrap();
    front.call(OpCode::StreamClose, &f.to_le_bytes()).unwrap();
    let again = rear.stream("front").unwrap();
    assert_eq!(front.stream("front"), Err(Status::EDQUOT));
    rear.session.reset();
    assert_eq!(rear.acquire(again), Err(Status::ESTALE));
    front.stream("front").unwrap();
    front.stream("rear").unwrap();
    assert_eq!(front.stream("rear"), Err(Status::EDQUOT));
}
