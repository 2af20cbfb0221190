// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The streams there are, by their names, and the thread that ends holds.

use super::bell::{bell, with_bell};
use super::board::Board;
use super::{Consumer, Consumption, MAX_BUFFERS, Producer, State, Stream, lock};
use crate::buffer::Subscription;
use crate::watch::Watch;
use dmabuf_protocol::wire::Format;
use dmabuf_protocol::{Name, Status};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// All streams of a daemon.
#[derive(Debug, Default)]
pub struct Streams {
    list: Arc<List>,
    watch: Mutex<Option<Arc<Watch>>>,
}

#[derive(Debug, Default)]
pub(super) struct List {
    pub(super) by_name: Mutex<BTreeMap<Name, Arc<Stream>>>,
}

impl Streams {
    /// A new stream without buffers, for the peer whose session `session` is.
    ///
    /// # Errors
    /// [`Status::EEXIST`] if the name is taken, [`Status::ENOMEM`] if the thread that ends holds can't be started.
    pub fn create(
        &self,
        name: Name,
        format: Option<Format>,
        peer: Name,
        session: &Arc<Subscription>,
    ) -> Result<Producer, Status> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let watch = self.watch().map_err(|_| Status::ENOMEM)?;
        let mut by_name = lock(&self.list.by_name);
        if by_name.contains_key(&name) {
            return Err(Status::EEXIST);
        }
        let stream = Arc::new(Stream {
            name,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            format,
            state: Mutex::new(State {
                board: Board::default(),
                buffers: Vec::with_capacity(MAX_BUFFERS),
                bells: Arc::new([]),
                withdrawn: false,
            }),
            producer: bell(peer, session),
            starved: AtomicBool::new(false),
            watch,
        });
        by_name.insert(name, Arc::clone(&stream));
        Ok(Producer {
            stream,
            streams: Arc::downgrade(&self.list),
        })
    }

    /// Joins a stream.
    ///
    /// # Errors
    /// [`Status::ENOENT`] if there is none of that name, [`Status::EMFILE`] above [`super::MAX_CONSUMERS`].
    pub fn open(
        &self,
        name: &Name,
        terms: Consumption,
        peer: Name,
        session: &Arc<Subscription>,
    ) -> Result<Consumer, Status> {
        let stream = self.find(name).ok_or(Status::ENOENT)?;
        let bell = bell(peer, session);
        let number = {
            let mut state = stream.lock();
            if state.withdrawn {
                return Err(Status::ENOENT);
            }
            let number = state.board.join(terms)?;
            state.bells = with_bell(&state.bells, number, Some(Arc::clone(&bell)));
            number
        };
        Ok(Consumer {
            stream,
            number,
            bell,
        })
    }

    /// The stream of that name.
    #[must_use]
    pub fn find(&self, name: &Name) -> Option<Arc<Stream>> {
        lock(&self.list.by_name).get(name).cloned()
    }

    /// Up to `max` streams with a number above `cursor` for which `wanted` holds, in the order of their numbers, and
    /// whether there are more.
    #[must_use]
    pub fn page(
        &self,
        cursor: u64,
        max: usize,
        wanted: impl Fn(&Name) -> bool,
    ) -> (Vec<Arc<Stream>>, bool) {
        let mut streams: Vec<_> = lock(&self.list.by_name)
            .values()
            .filter(|stream| stream.id > cursor && wanted(&stream.name))
            .cloned()
            .collect();
        streams.sort_by_key(|stream| stream.id);
        let more = streams.len() > max;
        streams.truncate(max);
        (streams, more)
    }

    /// Starts the thread that ends holds, instead of with the first stream.
    ///
    /// # Errors
    /// EAGAIN: no thread can be made.
    pub fn start(&self) -> std::io::Result<()> {
        self.watch().map(drop)
    }

    fn watch(&self) -> std::io::Result<Arc<Watch>> {
        let mut watch = lock(&self.watch);
        if let Some(watch) = watch.as_ref() {
            return Ok(Arc::clone(watch));
        }
        let list = Arc::downgrade(&self.list);
        let started = Watch::start("stream-holds", move |now| {
            let streams: Vec<_> = lock(&list.upgrade()?.by_name).values().cloned().collect();
            Some(streams.iter().filter_map(|stream| stream.expire(now)).min())
        })?;
        Ok(Arc::clone(watch.insert(started)))
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        if let Some(watch) = lock(&self.watch).take() {
            watch.end();
        }
    }
}
