// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Any sequence of requests, answers, deadlines, resets and revocations against what must hold of a window.

use super::peer::*;
use super::revoke::until_revoked;
use crate::session::{Limits, MAP_DEADLINE, MapError, Pattern, Policy, VmSession, WindowJob};
use dmabuf_protocol::wire::MapReply;
use dmabuf_protocol::{Access, Enforcement, Status};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

const PAGES: u64 = 12;

#[derive(Clone, Debug)]
enum Step {
    Map {
        pages: u64,
    },
    Unmap(usize),
    /// The front-end answers its oldest job: done, or refused.
    Answer {
        refuse: bool,
    },
    Expire,
    Reset,
    /// The buffer is taken away, and another one comes.
    Revoke,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..=5u64).prop_map(|pages| Step::Map { pages }),
        3 => any::<usize>().prop_map(Step::Unmap),
        6 => prop::bool::weighted(0.2).prop_map(|refuse| Step::Answer { refuse }),
        1 => Just(Step::Expire),
        1 => Just(Step::Reset),
        1 => Just(Step::Revoke),
    ];
    prop::collection::vec(step, 1..60)
}

/// The front-end's and the driver's view of things.
struct World {
    vm: Peer,
    handle: u64,
    producer: Peer,
    own: u64,
    jobs: std::collections::VecDeque<WindowJob>,
    /// What the front-end has mapped: start and length.
    window: BTreeMap<u64, u64>,
    /// Mappings that the driver knows of, with start and length.
    known: Vec<(u64, u64, u64)>,
    /// Those that were revoked and that it hasn't unmapped.
    dead: Vec<(u64, u64, u64)>,
    /// Requests without an answer.
    open: HashSet<u64>,
    /// Mappings that were asked for since the last reset.
    fresh: HashSet<u64>,
}

impl World {
    fn new(vm: Peer, producer: Peer) -> Self {
        let mut world = Self {
            vm,
            handle: 0,
            producer,
            own: 0,
            jobs: [].into(),
            window: BTreeMap::new(),
            known: Vec::new(),
            dead: Vec::new(),
            open: HashSet::new(),
            fresh: HashSet::new(),
        };
        world.share_buffer();
        world
    }

    fn share_buffer(&mut self) {
        self.own = self.producer.share("dma", PAGES * P, "b");
        self.open_buffer();
    }

    fn open_buffer(&mut self) {
        self.handle = self.vm.open("b", Access::ReadWrite).unwrap().handle.get();
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Map { pages } => {
                match self.vm.map(self.handle, 0, pages * P, Access::ReadWrite) {
                    None => drop(self.open.insert(self.vm.token())),
                    Some(answer) => drop(answer.unwrap_err()),
                }
            }
            Step::Unmap(choice) if !self.dead.is_empty() && choice % 2 == 0 => {
                let (mapping, ..) = self.dead.swap_remove(choice / 2 % self.dead.len());
                match self.vm.unmap(mapping) {
                    None => drop(self.open.insert(self.vm.token())),
                    // It was undone already, or is stuck.
                    Some(answer) => assert!(matches!(answer, Ok(()) | Err(Status::ESTALE))),
                }
            }
            Step::Unmap(choice) if !self.known.is_empty() => {
                let (mapping, ..) = self.known.swap_remove(choice % self.known.len());
                assert!(self.vm.unmap(mapping).is_none());
                self.open.insert(self.vm.token());
            }
            Step::Unmap(_) => {}
            Step::Answer { refuse } => self.answer(*refuse),
            Step::Expire => {
                let late = Instant::now() + MAP_DEADLINE + Duration::from_secs(1);
                for done in self.vm.session.expire(late) {
                    assert!(self.open.remove(&done.token), "answered once");
                }
                assert!(self.open.is_empty(), "everybody has an answer");
            }
            Step::Reset => {
                self.vm.session.reset();
                self.window.clear();
                self.known.clear();
                self.dead.clear();
                self.open.clear();
                self.fresh.clear();
                self.open_buffer();
            }
            Step::Revoke => {
                self.producer.revoke("b", 0).unwrap();
                until_revoked(&mut self.vm, self.handle);
                self.dead.append(&mut self.known);
                // It goes when it has no mappings.
                let _ = self.vm.close(self.handle);
                self.producer.close(self.own).unwrap();
                self.share_buffer();
            }
        }
        let jobs = self.vm.jobs();
        let asked = jobs.iter().filter(|job| job.map.is_some());
        self.fresh.extend(asked.map(|job| job.mapping.0));
        self.jobs.extend(jobs);
    }

    /// A front-end as it must be: maps nothing over something else, unmaps exactly what is mapped.
    fn answer(&mut self, refuse: bool) {
        let Some(job) = self.jobs.pop_front() else {
            return;
        };
        let end = job.window_offset + job.length;
        assert!(
            end <= PAGES * P,
            "inside the window, and not on its last page"
        );
        let outcome = match &job.map {
            // A reset drops what is mapped, so a front-end has no reason to keep something from before.
            _ if refuse && self.fresh.contains(&job.mapping.0) => Err(MapError::Refused),
            Some(_) => {
                let overlaps =
                    |(start, len): (&u64, &u64)| *start < end && job.window_offset < start + len;
                let dead = self.dead.iter().map(|(_, start, len)| (start, len));
                assert!(!dead.into_iter().any(overlaps), "other memory: {job:?}");
                assert!(
                    !self.window.iter().any(overlaps),
                    "{job:?} over {:?}",
                    self.window
                );
                self.window.insert(job.window_offset, job.length);
                Ok(())
            }
            None if self.window.get(&job.window_offset) == Some(&job.length) => {
                self.window.remove(&job.window_offset);
                Ok(())
            }
            None => Err(MapError::Refused),
        };
        let Some(done) = self.vm.finish(&job, outcome) else {
            return;
        };
        assert!(self.open.remove(&done.token), "answered once");
        if let Ok(body) = answer(&done)
            && job.map.is_some()
        {
            let reply: MapReply = read(body);
            assert_eq!(
                self.window.get(&reply.window_offset.get()),
                Some(&reply.length.get())
            );
            self.known.push((
                reply.mapping.get(),
                reply.window_offset.get(),
                reply.length.get(),
            ));
        }
    }

    /// What the driver knows is mapped, and nothing of it twice.
    fn check(&self) {
        for (_, start, len) in &self.known {
            assert_eq!(self.window.get(start), Some(len));
        }
        let starts: HashSet<u64> = self.known.iter().map(|(_, start, _)| *start).collect();
        assert_eq!(starts.len(), self.known.len());
    }

    /// Everything can be given back: after a reset and all answers, the whole window is free.
    fn end(mut self) {
        self.step(&Step::Reset);
        while !self.jobs.is_empty() {
            self.step(&Step::Answer { refuse: false });
        }
        assert_eq!(self.vm.session.counts(), (1, 0));
        assert!(self.vm.late.is_empty());
        let reply = self.vm.mapped(self.handle, PAGES * P, Access::ReadWrite);
        assert_eq!(reply.window_offset.get(), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_window_never_overlaps_and_never_leaks(steps in steps()) {
        let (host, _) = host(1);
        let limits = Limits { bytes: u64::MAX, handles: 4000, buffers: 4000, ..policy().limits };
        let publish = vec![Pattern::new("*").unwrap()];
        let allocate = vec!["dma".to_owned()];
        let producer = Peer::client(&host, Policy { limits, publish, allocate, ..policy() });
        let grants = vec![buffers("b", Access::ReadWrite, Enforcement::Derived)];
        let vm = Peer::vm(&host, Policy { grants, ..policy() }, PAGES, &[]);
        let mut world = World::new(vm, producer);
        for step in &steps {
            world.step(step);
            world.check();
        }
        world.end();
    }
}
