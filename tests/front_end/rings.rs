// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Rings that lie: the queue is stopped, and nothing else happens.

use crate::client::Client;
use crate::daemon::{CONFIG, Daemon};
use crate::guest::{DATA, Descriptor, INDIRECT, NEXT, RAM, RAM_SIZE, Ring, WRITE};
use crate::message::{Peer, READ_WRITE, request};
use crate::vmm::FrontEnd;
use crate::window::{Answer, WINDOW};
use dmabuf_protocol::OpCode;
use rustix::fs::SealFlags;
use std::time::Duration;

/// Space that nobody else uses, with a request in it.
const OWN: u64 = DATA + 0x28_0000;
const REPLY: u64 = OWN + 0x1000;
const TABLE: u64 = OWN + 0x2000;
const END: u64 = RAM + RAM_SIZE;
const HEAD: u16 = 200;

/// What is offered as a chain. `None` as the table: in the ring's own.
fn offer(ring: &mut Ring, head: u16, descriptors: &[Descriptor]) {
    for (index, descriptor) in (head..).zip(descriptors) {
        ring.set(index, *descriptor);
    }
    ring.offer(head);
}

/// Runs a daemon with two VMs, lets `lie` spoil a queue of the first, and checks that only this queue stops.
fn stops_only_the_queue(queue: usize, lie: impl FnOnce(&mut Ring)) {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(3);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let mut other = FrontEnd::connect(&daemon, "b", Answer::Honours);
    assert_eq!(vm.info().handles.get(), 0);
    // The event queue is looked at when there is something to tell.
    let mut producer = Client::connect(&daemon);
    producer.share("rw/x", 1, SealFlags::SHRINK);
    let ring = &mut vm.rings[queue];
    ring.write(OWN, &request(OpCode::GetInfo.to_wire(), 1, &[0u8; 0]));
    lie(ring);
    ring.kick();
    daemon.logged(&["peer a", &format!("queue {queue} is stopped")]);
    while vm.rings[queue].take_used().is_some() {}
    // What comes after is not looked at.
    offer(
        &mut vm.rings[queue],
        HEAD,
        &[
            Descriptor::new(OWN, 16, NEXT, HEAD + 1),
            Descriptor::new(REPLY, 256, WRITE, 0),
        ],
    );
    vm.rings[queue].kick();
    if queue != 0 {
        assert_eq!(vm.info().handles.get(), 0, "the control queue goes on");
    }
    assert_eq!(other.info().handles.get(), 0, "the other VM goes on");
    let more = vm.rings[queue].wait_used_for(Duration::from_millis(20));
    assert_eq!(more, None, "the queue is stopped");
    // A reset makes it good again.
    vm.reset();
    assert_eq!(vm.info().handles.get(), 0);
    assert_eq!(daemon.count_logged("is stopped"), 1, "once in the log");
    producer.withdraw("rw/x").unwrap();
    drop((vm, other, producer));
    daemon.returns_to(idle);
}

#[test]
pub fn a_chain_that_never_ends() {
    stops_only_the_queue(0, |ring| {
        offer(ring, HEAD, &[Descriptor::new(OWN, 16, NEXT, HEAD)]);
    });
    stops_only_the_queue(0, |ring| {
        offer(
            ring,
            HEAD,
            &[
                Descriptor::new(OWN, 16, NEXT, HEAD + 1),
                Descriptor::new(REPLY, 16, NEXT | WRITE, HEAD + 2),
                Descriptor::new(REPLY, 16, NEXT | WRITE, HEAD + 1),
            ],
        );
    });
    // A loop of nothing, through an indirect table.
    stops_only_the_queue(0, |ring| {
        ring.set_in(TABLE, 0, Descriptor::new(OWN, 0, NEXT, 1));
        ring.set_in(TABLE, 1, Descriptor::new(OWN, 0, NEXT, 0));
        offer(ring, HEAD, &[Descriptor::new(TABLE, 32, INDIRECT, 0)]);
    });
}

#[test]
pub fn descriptors_that_are_not_there() {
    for head in [256, 257, 0x8000, u16::MAX] {
        stops_only_the_queue(0, |ring| ring.offer(head));
    }
    stops_only_the_queue(0, |ring| {
        offer(ring, HEAD, &[Descriptor::new(OWN, 16, NEXT, 256)]);
    });
    stops_only_the_queue(0, |ring| {
        ring.set_in(TABLE, 0, Descriptor::new(OWN, 16, NEXT, 1));
        offer(ring, HEAD, &[Descriptor::new(TABLE, 16, INDIRECT, 0)]);
    });
}

#[test]
pub fn descriptors_outside_memory() {
    let places = [
        (0, 16),
        (RAM - 8, 16),
        (END - 8, 16),
        (END, 16),
        (RAM, RAM_SIZE as u32 + 1),
        (u64::MAX - 8, 16),
        (u64::MAX, 0xffff_ffff),
        (1 << 63, 16),
        (WINDOW, 16),
    ];
    for (address, len) in places {
        stops_only_the_queue(0, |ring| {
            offer(
                ring,
                HEAD,
                &[
                    Descriptor::new(address, len, NEXT, HEAD + 1),
                    Descriptor::new(REPLY, 256, WRITE, 0),
                ],
            );
        });
    }
    for (address, len) in [(END - 16, 256), (0, 256), (u64::MAX - 15, 256)] {
        stops_only_the_queue(0, |ring| {
            offer(
                ring,
                HEAD,
                &[
                    Descriptor::new(OWN, 16, NEXT, HEAD + 1),
                    Descriptor::new(address, len, WRITE, 0),
                ],
            );
        });
    }
}

#[test]
pub fn indirect_tables_that_lie() {
    let lies: [(u64, u32, &[Descriptor]); 6] = [
        // A table in a table, also itself.
        (
            TABLE,
            16,
            &[Descriptor::new(TABLE + 0x100, 16, INDIRECT, 0)],
        ),
        (TABLE, 16, &[Descriptor::new(TABLE, 16, INDIRECT, 0)]),
        // Not whole descriptors, none at all, more than there can be.
        (TABLE, 24, &[Descriptor::new(OWN, 16, 0, 0)]),
        (TABLE, 0, &[]),
        (TABLE, 16 * 0x1_0000, &[Descriptor::new(OWN, 16, NEXT, 1)]),
        // Outside memory.
        (END, 32, &[]),
    ];
    for (address, len, table) in lies {
        stops_only_the_queue(0, |ring| {
            for (index, descriptor) in (0..).zip(table) {
                ring.set_in(address, index, *descriptor);
            }
            offer(ring, HEAD, &[Descriptor::new(address, len, INDIRECT, 0)]);
        });
    }
}

#[test]
pub fn readable_after_writable() {
    stops_only_the_queue(0, |ring| {
        offer(
            ring,
            HEAD,
            &[
                Descriptor::new(REPLY, 256, NEXT | WRITE, HEAD + 1),
                Descriptor::new(OWN, 16, 0, 0),
            ],
        );
    });
}

#[test]
pub fn an_index_that_jumps() {
    for jump in [257, 0x8000] {
        stops_only_the_queue(0, |ring| ring.set_available(jump + 1));
    }
    // Back, which is far ahead.
    stops_only_the_queue(0, |ring| ring.set_available(0));
}

#[test]
pub fn the_other_queues_lie() {
    for queue in [1, 2] {
        stops_only_the_queue(queue, |ring| {
            offer(ring, HEAD, &[Descriptor::new(OWN, 16, NEXT, HEAD)]);
        });
        stops_only_the_queue(queue, |ring| {
            offer(ring, HEAD, &[Descriptor::new(0, 256, WRITE, 0)]);
        });
    }
}

/// Chains that are strange, and legal.
#[test]
pub fn the_same_chain_twice_and_chains_of_nothing() {
    let daemon = Daemon::start(CONFIG);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let ring = &mut vm.rings[0];
    ring.write(OWN, &request(OpCode::GetInfo.to_wire(), 1, &[0u8; 0]));
    offer(
        ring,
        HEAD,
        &[
            Descriptor::new(OWN, 16, NEXT, HEAD + 1),
            Descriptor::new(REPLY, 256, WRITE, 0),
        ],
    );
    ring.offer(HEAD);
    // Nothing readable; nothing at all.
    offer(
        ring,
        HEAD + 2,
        &[Descriptor::new(REPLY + 0x100, 256, WRITE, 0)],
    );
    offer(ring, HEAD + 3, &[Descriptor::new(OWN, 0, 0, 0)]);
    ring.kick();
    let len = OpCode::GetInfo.min_reply() as u32;
    assert_eq!(ring.wait_used(), (HEAD, len));
    assert_eq!(ring.wait_used(), (HEAD, len));
    assert_eq!(ring.wait_used(), (HEAD + 2, 16), "EINVAL");
    assert_eq!(ring.wait_used(), (HEAD + 3, 0));
    assert_eq!(vm.info().handles.get(), 0);
}

/// Rings whose parts lie at the very end of memory, or beyond it.
#[test]
pub fn rings_that_end_outside_memory() {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(3);
    type Place = fn(&mut Ring);
    let places: [Place; 3] = [
        |ring| ring.available = END - 4,
        |ring| ring.used = END - 4,
        |ring| ring.descriptors = END - 16,
    ];
    for place in places {
        let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
        vm.stop();
        vm.rings[0].clear();
        place(&mut vm.rings[0]);
        vm.start([0; 3]);
        let ring = &mut vm.rings[0];
        if ring.available == END - 4 {
            ring.set_available(1);
        } else {
            ring.set_in(ring.descriptors, 0, Descriptor::new(OWN, 16, NEXT, 1));
            ring.offer(0);
        }
        ring.kick();
        daemon.logged(&["peer a", "queue 0 is stopped"]);
        // The worker must be free for others to come.
        drop(vm);
        daemon.returns_to(idle);
    }
}

/// The front-end that maps everything writable lists the window as memory, and the guest uses it as such.
#[test]
pub fn descriptors_and_rings_in_the_window() {
    let daemon = Daemon::start(CONFIG);
    let mut producer = Client::connect(&daemon);
    let memory = producer.share("rw/x", 4, SealFlags::SHRINK);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::ListsWindow);
    let mut other = FrontEnd::connect(&daemon, "b", Answer::Honours);
    let handle = vm.open("rw/x", READ_WRITE);
    let map = vm.map(handle, 0, 4 << 12, READ_WRITE).unwrap();
    let window = WINDOW + map.window_offset.get();
    memory.write(0, &[0xee; 512]);

    let ring = &mut vm.rings[0];
    ring.write(OWN, &request(OpCode::GetInfo.to_wire(), 1, &[0u8; 0]));
    offer(
        ring,
        HEAD,
        &[
            Descriptor::new(OWN, 16, NEXT, HEAD + 1),
            Descriptor::new(window, 256, WRITE, 0),
        ],
    );
    ring.kick();
    daemon.logged(&["peer a", "queue 0 is stopped", "outside guest memory"]);
    assert_eq!(
        memory.read(0, 512),
        [0xee; 512],
        "nothing was written there"
    );
    assert_eq!(other.info().handles.get(), 0);
    vm.reset();
    assert_eq!(vm.info().handles.get(), 0);
}

/// Whatever is in the rings: the daemon lives, and each reset makes it good again.
#[test]
pub fn random_rings() {
    let daemon = Daemon::start(CONFIG);
    let idle = daemon.idle(3);
    let mut vm = FrontEnd::connect(&daemon, "a", Answer::Honours);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..150 {
        for queue in [0, 1, 2] {
            let ring = &mut vm.rings[queue];
            for index in 0..32 {
                let word = random();
                let address = match word % 8 {
                    0 => random(),
                    1 => END - word % 64,
                    2 => TABLE,
                    _ => DATA + word % 0x10_0000,
                };
                let len = if word & 0x100 == 0 {
                    (random() % 300) as u32
                } else {
                    random() as u32
                };
                let next = (random() % 34) as u16;
                ring.set(
                    index,
                    Descriptor::new(address, len, (word >> 32) as u16 & 7, next),
                );
                ring.set_in(
                    TABLE,
                    index,
                    Descriptor::new(address, len, (word >> 40) as u16 & 7, next),
                );
            }
            for _ in 0..8 {
                ring.offer((random() % 33) as u16);
            }
            ring.kick();
        }
        vm.reset();
        assert_eq!(vm.info().handles.get(), 0);
    }
    drop(vm);
    daemon.returns_to(idle);
}
