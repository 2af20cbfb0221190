// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The board against random schedules, and the ends against each other.

use super::board::Board;
use super::*;
use crate::buffer::Subscription;
use proptest::prelude::*;

const HOLD: Duration = Duration::from_millis(100);

fn mode(depth: u8) -> ConsumeMode {
    if depth == 0 {
        ConsumeMode::Latest
    } else {
        ConsumeMode::Fifo(depth)
    }
}

fn terms(mode: ConsumeMode, max_held: u32) -> Consumption {
    Consumption {
        mode,
        max_held,
        hold: HOLD,
        holds: Gauge::default(),
        max_holds: u64::MAX,
    }
}

fn board(buffers: u32) -> Board {
    let mut board = Board::default();
    for index in 0..buffers {
        assert_eq!(board.add(), Ok(index));
    }
    board
}

/// What the sequences of one consumer must obey.
#[derive(Default)]
struct Seen {
    last: u64,
    held: Vec<(u64, Instant)>,
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 200, ..Default::default() })]

    #[test]
    fn counters_add_up_on_every_schedule(
        buffers in 1u32..9,
        modes in proptest::collection::vec(0u8..5, 1..6),
        steps in proptest::collection::vec((0u8..7, 0usize..8), 1..400),
    ) {
        let mut board = board(buffers);
        let mut own: Vec<u32> = (0..buffers).collect();
        let mut now = Instant::now();
        let lanes: Vec<usize> = modes.iter().map(|&depth| board.join(terms(mode(depth), 2)).unwrap()).collect();
        let mut seen: Vec<Seen> = lanes.iter().map(|_| Seen::default()).collect();
        for (step, who) in steps {
            let n = who % lanes.len();
            let (lane, consumer) = (lanes[n], &mut seen[n]);
            match step {
                0 | 1 => match own.pop() {
                    Some(index) => {
                        board.queue(index, 7, 0).unwrap();
                        prop_assert_eq!(board.queue(index, 7, 0), Err(Status::EBUSY));
                    }
                    None => match board.reclaim() {
                        Some(index) => own.push(index),
                        None => {
                            let mut held: Vec<u64> = seen.iter().flat_map(|consumer| &consumer.held).map(|(sequence, _)| *sequence).collect();
                            held.sort_unstable();
                            held.dedup();
                            prop_assert_eq!(held.len(), usize::try_from(buffers).unwrap(), "only holds keep a buffer from the producer");
                        }
                    },
                },
                2 => match board.acquire(lane, now) {
                    Ok(got) => {
                        prop_assert!(got.frame.sequence > consumer.last, "sequences increase");
                        prop_assert!(!own.contains(&got.frame.index), "the producer must not have a held buffer");
                        consumer.last = got.frame.sequence;
                        consumer.held.push((got.frame.sequence, got.deadline));
                    }
                    Err(Status::EBUSY) => prop_assert_eq!(consumer.held.len(), 2),
                    Err(error) => prop_assert_eq!(error, Status::EAGAIN),
                },
                3 => if let Some((sequence, _)) = consumer.held.pop() {
                    board.release(lane, sequence).unwrap();
                    prop_assert_eq!(board.release(lane, sequence), Err(Status::ESTALE));
                },
                4 => {
                    now += HOLD / 3;
                    let (_, next) = board.expire(now);
                    for consumer in &mut seen {
                        consumer.held.retain(|(_, deadline)| *deadline > now);
                    }
                    let expected = seen.iter().flat_map(|consumer| &consumer.held).map(|(_, deadline)| *deadline).min();
                    prop_assert_eq!(next, expected);
                }
                _ => own.extend(board.reclaim()),
            }
            for (lane, consumer) in lanes.iter().zip(&seen) {
                let (_, counters, ready, held) = board.counters(*lane).unwrap();
                prop_assert_eq!(board.produced(), counters.delivered + counters.skipped + u64::from(ready));
                prop_assert_eq!(usize::try_from(held).unwrap(), consumer.held.len());
            }
            let (all, with_producer, free) = board.buffers();
            prop_assert_eq!(all, buffers);
            prop_assert_eq!(usize::try_from(with_producer).unwrap(), own.len());
            prop_assert!(free + with_producer <= all);
        }
        // When all have gone, every buffer comes back.
        for lane in lanes {
            board.leave(lane);
        }
        while let Some(index) = board.reclaim() {
            own.push(index);
        }
        own.sort_unstable();
        prop_assert_eq!(own, (0..buffers).collect::<Vec<_>>());
    }
}

#[test]
fn a_consumer_that_never_acquires_costs_the_producer_nothing() {
    let mut board = board(2);
    let lane = board.join(terms(ConsumeMode::Fifo(64), 2)).unwrap();
    board.queue(0, 0, 0).unwrap();
    board.queue(1, 0, 0).unwrap();
    for frame in 0..1000 {
        let index = board.reclaim().expect("taken from the one that sleeps");
        assert_eq!(index, frame % 2, "the oldest first");
        board.queue(index, 0, 0).unwrap();
    }
    let (_, counters, ready, _) = board.counters(lane).unwrap();
    assert_eq!((counters.skipped, ready), (1000, 2));
}

#[test]
fn a_frame_behind_a_held_one_is_taken_back() {
    let mut board = board(2);
    let sleeps = board.join(terms(ConsumeMode::Fifo(64), 2)).unwrap();
    let holds = board.join(terms(ConsumeMode::Fifo(64), 2)).unwrap();
    board.queue(0, 0, 0).unwrap();
    board.acquire(holds, Instant::now()).unwrap();
    board.queue(1, 0, 0).unwrap();
    assert_eq!(board.reclaim(), Some(1));
    assert_eq!(board.counters(sleeps).unwrap().1.skipped, 1);
    assert_eq!(
        board.counters(sleeps).unwrap().2,
        1,
        "the first one is still ready"
    );
}

#[test]
fn what_is_held_is_not_taken_back() {
    let mut board = board(2);
    let lane = board.join(terms(ConsumeMode::Latest, 2)).unwrap();
    let now = Instant::now();
    board.queue(0, 0, 0).unwrap();
    let held = board.acquire(lane, now).unwrap();
    board.queue(1, 0, 0).unwrap();
    assert_eq!(board.reclaim(), Some(1), "ready, and not acquired");
    assert_eq!(board.reclaim(), None);
    assert_eq!(board.expire(held.deadline), (true, None));
    assert_eq!(board.reclaim(), Some(0));
    assert_eq!(
        board.release(lane, held.frame.sequence),
        Err(Status::ESTALE),
        "an expired hold can't be given back"
    );
    assert_eq!(board.counters(lane).unwrap().1.expired, 1);
}

#[test]
fn only_the_first_frame_rings() {
    let mut board = board(4);
    let lanes: Vec<usize> = (0..70)
        .map(|_| board.join(terms(ConsumeMode::Fifo(4), 4)).unwrap())
        .collect();
    let (_, first, _) = board.queue(0, 0, 0).unwrap();
    assert_eq!(first.iter().collect::<Vec<_>>(), lanes);
    let (_, first, _) = board.queue(1, 0, 0).unwrap();
    assert_eq!(first.iter().count(), 0);
    board.acquire(lanes[66], Instant::now()).unwrap();
    board.acquire(lanes[66], Instant::now()).unwrap();
    let (_, first, _) = board.queue(2, 0, 0).unwrap();
    assert_eq!(first.iter().collect::<Vec<_>>(), [lanes[66]]);
}

struct Rig {
    streams: Streams,
    session: Arc<Subscription>,
}

impl Rig {
    fn new() -> Self {
        let registry = crate::buffer::Registry::default();
        Self {
            streams: Streams::default(),
            session: registry.subscribe(1).unwrap(),
        }
    }

    fn producer(&self, buffers: usize) -> Producer {
        let name = Name::new("front").unwrap();
        let producer = self
            .streams
            .create(name, None, name, &self.session)
            .unwrap();
        for _ in 0..buffers {
            let parts = crate::heap::MemfdHeap.allocate(4096).unwrap();
            producer.add(Buffer::new(parts, None)).unwrap();
        }
        producer
    }

    fn consumer(&self, mode: ConsumeMode, hold: Duration) -> Consumer {
        let name = Name::new("front").unwrap();
        let terms = Consumption {
            hold,
            ..terms(mode, 2)
        };
        self.streams
            .open(&name, terms, name, &self.session)
            .unwrap()
    }
}

use crate::heap::Heap as _;

#[test]
fn a_hold_ends_by_itself_and_the_producer_is_told() {
    let rig = Rig::new();
    let producer = rig.producer(1);
    let consumer = rig.consumer(ConsumeMode::Latest, Duration::from_millis(20));
    producer.queue(0, 0, 0).unwrap();
    consumer.acquire(Instant::now()).unwrap();
    assert!(consumer.bell().answer());
    rig.session.wake().clear();
    assert_eq!(producer.reclaim(), Err(Status::EAGAIN));
    // Nobody does anything: the watch has to.
    let mut poll = [rustix::event::PollFd::new(
        rig.session.wake(),
        rustix::event::PollFlags::IN,
    )];
    let limit = rustix::event::Timespec {
        tv_sec: 10,
        tv_nsec: 0,
    };
    assert_eq!(rustix::event::poll(&mut poll, Some(&limit)), Ok(1));
    assert!(producer.bell().answer());
    assert_eq!(producer.reclaim(), Ok(0));
    assert_eq!(consumer.release(1), Err(Status::ESTALE));
}

#[test]
fn the_producer_is_told_when_only_one_who_sleeps_is_left() {
    let rig = Rig::new();
    let producer = rig.producer(1);
    let holds = rig.consumer(ConsumeMode::Latest, HOLD);
    let _sleeps = rig.consumer(ConsumeMode::Latest, HOLD);
    producer.queue(0, 0, 0).unwrap();
    let frame = holds.acquire(Instant::now()).unwrap().frame;
    assert_eq!(producer.reclaim(), Err(Status::EAGAIN));
    holds.release(frame.sequence).unwrap();
    assert!(producer.bell().answer(), "the frame can be taken back now");
    assert_eq!(producer.reclaim(), Ok(0));
}

#[test]
fn a_stream_ends_with_its_producer() {
    let rig = Rig::new();
    let producer = rig.producer(2);
    let consumer = rig.consumer(ConsumeMode::Latest, HOLD);
    producer.queue(0, 0, 0).unwrap();
    assert!(consumer.bell().answer());
    drop(producer);
    assert!(consumer.is_withdrawn() && consumer.bell().answer());
    assert_eq!(consumer.acquire(Instant::now()).unwrap().frame.sequence, 1);
    assert_eq!(
        consumer.acquire(Instant::now()).unwrap_err(),
        Status::ENODEV
    );
    let name = Name::new("front").unwrap();
    assert!(rig.streams.find(&name).is_none());
    // Its name is free again, for another stream.
    let next = rig.producer(1);
    assert_ne!(next.stream().id(), consumer.stream().id());
}
