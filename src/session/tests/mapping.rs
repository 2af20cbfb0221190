// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The life cycle of a mapping (SPEC.md), step by step.

use super::peer::*;
use crate::session::{MAP_DEADLINE, MAX_INFLIGHT, MapError, Policy, VmSession};
use dmabuf_protocol::wire::{MapReply, WINDOW_DYNAMIC, WINDOW_STATIC};
use dmabuf_protocol::{Access, Enforcement, Status, Uuid};
use std::time::{Duration, Instant};

use Access::{ReadOnly, ReadWrite};

/// A VM with a window of 8 pages, and its read-write handle of a buffer of 8 pages.
fn vm_with_buffer() -> (Peer, u64, Peer) {
    let (host, _) = host(1);
    let mut producer = producer(&host);
    producer.share("dma", 8 * P, "b");
    let grants = vec![buffers("b", ReadWrite, Enforcement::Derived)];
    let mut vm = Peer::vm(&host, Policy { grants, ..policy() }, 8, &[]);
    let handle = vm.open("b", ReadWrite).unwrap().handle.get();
    (vm, handle, producer)
}

fn later() -> Instant {
    Instant::now() + MAP_DEADLINE + Duration::from_secs(1)
}

/// The window has room for this many pages again.
fn assert_free(vm: &mut Peer, handle: u64, pages: u64) {
    let reply = vm.mapped(handle, pages * P, ReadWrite);
    assert!(vm.unmap(reply.mapping.get()).is_none());
    let job = vm.job();
    assert!(vm.finish(&job, Ok(())).is_some());
}

#[test]
fn a_mapping_comes_and_goes() {
    let (mut vm, handle, _producer) = vm_with_buffer();
    assert!(vm.map(handle, 2 * P, 3 * P, ReadWrite).is_none());
    let token = vm.token();
    let job = vm.job();
    let source = job.map.as_ref().unwrap();
    assert_eq!(
        (source.offset, job.length, job.window_offset),
        (2 * P, 3 * P, 0)
    );
    assert_eq!(source.alias.access(), ReadWrite);
    assert!(vm.session.next_deadline().is_some());

    let done = vm.finish(&job, Ok(())).unwrap();
    assert_eq!(done.token, token);
    let reply: MapReply = read(answer(&done).unwrap());
    assert_eq!((reply.window.get(), reply.uuid), (WINDOW_DYNAMIC, [0; 16]));
    assert_eq!((reply.window_offset.get(), reply.length.get()), (0, 3 * P));
    assert_eq!(
        (
            reply.access.get(),
            reply.enforcement.get(),
            reply.caching.get()
        ),
        (2, 0, 1)
    );
    assert_eq!(vm.session.next_deadline(), None);
    assert_eq!(vm.session.counts(), (1, 1));
    assert_eq!(vm.close(handle), Err(Status::EBUSY));

    assert!(vm.unmap(reply.mapping.get()).is_none());
    let job = vm.job();
    assert!(job.map.is_none());
    assert_eq!(
        (job.window_offset, job.length),
        (0, 3 * P),
        "exactly what was mapped"
    );
    assert_eq!(
        vm.unmap(reply.mapping.get()),
        Some(Err(Status::ESTALE)),
        "twice"
    );
    assert_eq!(vm.close(handle), Err(Status::EBUSY), "while being undone");
    let done = vm.finish(&job, Ok(())).unwrap();
    assert_eq!(answer(&done), Ok(Vec::new()));
    assert_eq!(
        vm.unmap(reply.mapping.get()),
        Some(Err(Status::ESTALE)),
        "afterwards"
    );
    assert_free(&mut vm, handle, 8);
    assert_eq!(vm.close(handle), Ok(()));
    assert_eq!(vm.session.counts(), (0, 0));
}

#[test]
fn a_read_only_mapping_has_a_read_only_alias() {
    let (mut vm, handle, _producer) = vm_with_buffer();
    assert!(vm.map(handle, 0, P, ReadOnly).is_none());
    let job = vm.job();
    assert_eq!(job.map.as_ref().unwrap().alias.access(), ReadOnly);
    let done = vm.finish(&job, Ok(())).unwrap();
    let reply: MapReply = read(answer(&done).unwrap());
    assert_eq!(
        (reply.access.get(), reply.enforcement.get()),
        (0, 1),
        "only the VMM enforces it"
    );
    assert_eq!(vm.info().probe.get(), 1);
}

#[test]
fn a_refused_mapping_leaves_nothing() {
    let (mut vm, handle, _producer) = vm_with_buffer();
    let outcomes = [
        (MapError::Refused, Status::EIO),
        (MapError::NotRunning, Status::ENODEV),
        (MapError::IgnoresReadOnly, Status::EACCES),
    ];
    for (error, status) in outcomes {
        assert!(vm.map(handle, 0, 8 * P, ReadOnly).is_none());
        let job = vm.job();
        let done = vm.finish(&job, Err(error)).unwrap();
        assert_eq!(answer(&done), Err(status));
        assert!(vm.finish(&job, Ok(())).is_none(), "answered once");
        assert_eq!(vm.session.counts(), (1, 0));
    }
    assert_free(&mut vm, handle, 8);
}

#[test]
fn a_late_mapping_is_undone() {
    let (mut vm, handle, _producer) = vm_with_buffer();
    assert!(vm.map(handle, 0, 8 * P, ReadWrite).is_none());
    let (token, job) = (vm.token(), vm.job());
    assert!(vm.session.expire(Instant::now()).is_empty(), "not yet");
    let late = vm.session.expire(later());
    assert_eq!(late.len(), 1);
    assert_eq!(
        (late[0].token, answer(&late[0])),
        (token, Err(Status::ETIMEDOUT))
    );
    assert!(vm.session.expire(later()).is_empty(), "answered once");
    assert_eq!(vm.session.next_deadline(), None);

    assert_eq!(vm.session.counts(), (1, 1), "it still counts");
    assert_eq!(vm.close(handle), Err(Status::EBUSY));
    assert_eq!(
        vm.map(handle, 0, P, ReadWrite),
        Some(Err(Status::ENOSPC)),
        "its range is taken"
    );

    assert!(vm.finish(&job, Ok(())).is_none(), "nobody waits for it");
    let undo = vm.job();
    assert!(undo.map.is_none());
    assert_eq!((undo.window_offset, undo.length), (0, 8 * P));
    assert!(vm.finish(&undo, Ok(())).is_none());
    assert_eq!(vm.session.counts(), (1, 0));
    assert_free(&mut vm, handle, 8);
    assert_eq!(vm.close(handle), Ok(()));
}

#[test]
fn a_late_refusal_frees_the_range() {
    let (mut vm, handle, _producer) = vm_with_buffer();
    assert!(vm.map(handle, 0, 8 * P, ReadWrite).is_none());
    let job = vm.job();
    assert_eq!(vm.session.expire(later()).len(), 1);
    assert!(vm.finish(&job, Err(MapError::Refused)).is_none());
    assert!(vm.jobs().is_empty(), "there is nothing to undo");
    assert_free(&mut vm, handle, 8);
}

#[test]
fn a_late_unmap_still_ends() {
    let (mut vm, handle, _producer) = vm_with_buffer();
    let reply = vm.mapped(handle, 8 * P, ReadWrite);
    assert!(vm.unmap(reply.mapping.get()).is_none());
    let job = vm.job();
    let late = vm.session.expire(later());
    assert_eq!(answer(&late[0]), Err(Status::ETIMEDOUT));
    assert_eq!(vm.unmap(reply.mapping.get()), Some(Err(Status::ESTALE)));
    assert_eq!(vm.map(handle, 0, P, ReadWrite), Some(Err(Status::ENOSPC)));
    assert!(vm.finish(&job, Ok(())).is_none());
    assert_free(&mut vm, handle, 8);
}

#[test]
fn what_cannot_be_undone_is_never_used_again() {
    let (mut vm, handle, _producer) = vm_with_buffer();
    let reply = vm.mapped(handle, 4 * P, ReadWrite);
    assert!(vm.unmap(reply.mapping.get()).is_none());
    let job = vm.job();
    let done = vm.finish(&job, Err(MapError::Refused)).unwrap();
    assert_eq!(answer(&done), Err(Status::EIO));
    assert_eq!(vm.unmap(reply.mapping.get()), Some(Err(Status::ESTALE)));
    assert_eq!(vm.close(handle), Err(Status::EBUSY));
    assert_eq!(vm.session.counts(), (1, 1));
    let other = vm.mapped(handle, 4 * P, ReadWrite);
    assert_eq!(other.window_offset.get(), 4 * P, "behind the stuck one");
    assert_eq!(vm.map(handle, 0, P, ReadWrite), Some(Err(Status::ENOSPC)));

    vm.session.reset();
    assert_eq!(vm.session.counts(), (0, 0));
    let handle = vm.open("b", ReadWrite).unwrap().handle.get();
    assert_free(&mut vm, handle, 8);
}

#[test]
fn a_reset_ends_what_is_mapped() {
    let (mut vm, handle, _producer) = vm_with_buffer();
    let reply = vm.mapped(handle, 8 * P, ReadWrite);
    vm.session.reset();
    assert!(
        vm.jobs().is_empty(),
        "the front-end has dropped it by itself"
    );
    assert_eq!(vm.session.counts(), (0, 0));
    assert_eq!(vm.unmap(reply.mapping.get()), Some(Err(Status::ESTALE)));
    assert_eq!(vm.close(handle), Err(Status::ESTALE));
    let handle = vm.open("b", ReadWrite).unwrap().handle.get();
    assert_free(&mut vm, handle, 8);
}

#[test]
fn a_reset_while_the_front_end_maps() {
    for undone in [Ok(()), Err(MapError::Refused)] {
        let (mut vm, handle, _producer) = vm_with_buffer();
        assert!(vm.map(handle, 0, 8 * P, ReadWrite).is_none());
        let job = vm.job();
        vm.session.reset();
        assert_eq!(vm.session.next_deadline(), None);
        assert!(vm.session.expire(later()).is_empty(), "its driver is gone");
        let handle = vm.open("b", ReadWrite).unwrap().handle.get();
        assert_eq!(
            vm.map(handle, 0, P, ReadWrite),
            Some(Err(Status::ENOSPC)),
            "taken until the answer"
        );
        assert!(vm.finish(&job, Ok(())).is_none());
        let undo = vm.job();
        assert!(undo.map.is_none());
        // Refused: it was mapped before the reset, and dropped by it.
        assert!(vm.finish(&undo, undone).is_none());
        assert_eq!(vm.session.counts(), (1, 0), "{undone:?}");
        assert_free(&mut vm, handle, 8);
    }
}

#[test]
fn a_reset_while_the_front_end_unmaps() {
    for undone in [Ok(()), Err(MapError::Refused)] {
        let (mut vm, handle, _producer) = vm_with_buffer();
        let reply = vm.mapped(handle, 8 * P, ReadWrite);
        assert!(vm.unmap(reply.mapping.get()).is_none());
        let job = vm.job();
        vm.session.reset();
        assert!(vm.finish(&job, undone).is_none());
        assert_eq!(vm.session.counts(), (0, 0), "{undone:?}");
        let handle = vm.open("b", ReadWrite).unwrap().handle.get();
        assert_free(&mut vm, handle, 8);
    }
}

#[test]
fn a_late_mapping_that_cannot_be_undone_is_stuck() {
    let (mut vm, handle, _producer) = vm_with_buffer();
    assert!(vm.map(handle, 0, 8 * P, ReadWrite).is_none());
    let job = vm.job();
    assert_eq!(vm.session.expire(later()).len(), 1);
    assert!(vm.finish(&job, Ok(())).is_none());
    let undo = vm.job();
    assert!(vm.finish(&undo, Err(MapError::Refused)).is_none());
    assert_eq!(vm.session.counts(), (1, 1));
    assert_eq!(vm.map(handle, 0, P, ReadWrite), Some(Err(Status::ENOSPC)));
}

#[test]
fn only_so_many_can_wait() {
    let (host, _) = host(1);
    let mut producer = producer(&host);
    producer.share("dma", P, "b");
    let grants = vec![buffers("b", ReadWrite, Enforcement::Derived)];
    let mut vm = Peer::vm(&host, Policy { grants, ..policy() }, 128, &[]);
    let handle = vm.open("b", ReadWrite).unwrap().handle.get();
    for _ in 0..MAX_INFLIGHT {
        assert!(vm.map(handle, 0, P, ReadWrite).is_none());
    }
    assert_eq!(vm.map(handle, 0, P, ReadWrite), Some(Err(Status::EBUSY)));
    assert_eq!(vm.info().max_inflight.get(), MAX_INFLIGHT);
    let jobs = vm.jobs();
    let done = vm.finish(&jobs[0], Ok(())).unwrap();
    let first: MapReply = read(answer(&done).unwrap());
    assert!(vm.map(handle, 0, P, ReadWrite).is_none());
    assert!(
        vm.unmap(first.mapping.get()).is_none(),
        "an UNMAP is never refused for that"
    );
}

#[test]
fn quotas_and_checks() {
    let (host, pool) = host(1);
    let mut producer = producer(&host);
    producer.share("dma", 8 * P, "b");
    let limits = crate::session::Limits {
        waits: 200,
        handles: 9,
        buffers: 9,
        mappings: 1,
        bytes: 0,
        ..crate::session::Limits::DEFAULT
    };
    let grants = vec![buffers("b", ReadWrite, Enforcement::Vmm)];
    let small = || Policy {
        grants: grants.clone(),
        limits,
        ..policy()
    };
    let mut vm = Peer::vm(&host, small(), 8, &[&pool]);
    let handle = vm.open("b", ReadWrite).unwrap().handle.get();
    let reader = vm.derive(handle, 0, 0).unwrap().handle.get();

    assert_eq!(
        vm.map(handle + 7, 0, P, ReadOnly),
        Some(Err(Status::ESTALE))
    );
    assert_eq!(vm.map(reader, 0, P, ReadWrite), Some(Err(Status::EACCES)));
    assert_eq!(
        vm.map(handle, 8 * P, P, ReadOnly),
        Some(Err(Status::EINVAL)),
        "past the end"
    );
    assert_eq!(
        vm.map(handle, 7 * P, 2 * P, ReadOnly),
        Some(Err(Status::EINVAL)),
        "past the end"
    );
    vm.mapped(handle, P, ReadWrite);
    assert_eq!(vm.map(handle, 0, P, ReadWrite), Some(Err(Status::EMFILE)));
    assert!(vm.jobs().is_empty(), "the front-end was asked for nothing");

    let mut without = Peer::vm(&host, small(), 0, &[&pool]);
    let handle = without.open("b", ReadWrite).unwrap().handle.get();
    assert_eq!(
        without.map(handle, 0, P, ReadWrite),
        Some(Err(Status::ENODEV))
    );
    let mut client = Peer::client(&host, small());
    let handle = client.open("b", ReadWrite).unwrap().handle.get();
    assert_eq!(
        client.map(handle, 0, P, ReadWrite),
        Some(Err(Status::EOPNOTSUPP))
    );
    assert_eq!(client.unmap(1), Some(Err(Status::EOPNOTSUPP)));
}

#[test]
fn a_slot_appears_in_its_static_window() {
    let (host, pool) = host(2);
    let mut producer = producer(&host);
    producer.share("pool", P, "s/0");
    producer.share("pool", P, "s/1");
    let grants = vec![whole_pool(ReadWrite)];
    let with = || Policy {
        grants: grants.clone(),
        ..policy()
    };
    let mut vm = Peer::vm(&host, with(), 0, &[&pool]);
    let opened = vm.open("s/1", ReadOnly).unwrap();
    assert_eq!(
        (opened.buffer.flags.get(), opened.buffer.enforcement.get()),
        (1, 4)
    );
    let handle = opened.handle.get();
    let reply = vm.map(handle, P, P, ReadOnly).unwrap().unwrap();
    assert_eq!(
        (reply.window.get(), reply.uuid),
        (WINDOW_STATIC, Uuid([7; 16]).0)
    );
    assert_eq!(
        reply.window_offset.get(),
        P + 2 * P + P,
        "header, slot 0, first page of slot 1"
    );
    assert_eq!(reply.enforcement.get(), Enforcement::Sealed.to_wire());
    assert_eq!(vm.close(handle), Err(Status::EBUSY));
    assert_eq!(vm.unmap(reply.mapping.get()), Some(Ok(())));
    assert_eq!(vm.unmap(reply.mapping.get()), Some(Err(Status::ESTALE)));
    assert_eq!(vm.close(handle), Ok(()));
    assert!(vm.jobs().is_empty());

    // A VM that hasn't this window maps it dynamically.
    let mut other = Peer::vm(&host, with(), 8, &[]);
    let opened = other.open("s/1", ReadOnly).unwrap();
    assert_eq!(opened.buffer.flags.get(), 0);
    let reply = other.mapped(opened.handle.get(), 2 * P, ReadOnly);
    assert_eq!(
        (reply.window.get(), reply.enforcement.get()),
        (WINDOW_DYNAMIC, 4)
    );
}

#[test]
fn an_answer_that_nobody_waits_for_changes_nothing() {
    let (mut vm, handle, _producer) = vm_with_buffer();
    assert!(vm.map(handle, 0, P, ReadWrite).is_none());
    let job = vm.job();
    assert_eq!(
        vm.unmap(job.mapping.0),
        Some(Err(Status::ESTALE)),
        "not given out yet"
    );
    let done = vm.finish(&job, Ok(())).unwrap();
    let reply: MapReply = read(answer(&done).unwrap());
    for outcome in [Ok(()), Err(MapError::Refused)] {
        assert!(vm.finish(&job, outcome).is_none());
    }
    assert_eq!(vm.session.counts(), (1, 1));
    assert!(vm.unmap(reply.mapping.get()).is_none());
}

#[test]
fn the_end_of_a_session_gives_everything_back() {
    let (mut vm, handle, mut producer) = vm_with_buffer();
    assert!(vm.map(handle, 0, P, ReadWrite).is_none());
    let jobs = vm.jobs();
    vm.session.end();
    assert_eq!(vm.session.counts(), (0, 0));
    assert!(vm.finish(&jobs[0], Ok(())).is_none());
    assert_eq!(vm.session.next_deadline(), None);
    drop((vm, jobs));
    producer.withdraw("b").unwrap();
    let used = std::sync::Arc::clone(&producer.session.policy().usage);
    producer.session.end();
    assert_eq!(
        (used.buffers.get(), used.bytes.get()),
        (0, 0),
        "the memory is gone"
    );
}
