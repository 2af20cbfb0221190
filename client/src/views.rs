// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a consumer has opened of its stream's buffers, by index. Each is opened and mapped once, and kept: nothing of it is
//! on the path of a frame.

use crate::error::{Error, Result};
use crate::mapping::Mapping;
use crate::shared_memory::SharedMemory;
use dmabuf_protocol::wire::STREAM_MAX_BUFFERS;

/// The buffers that have been opened, each a `B`.
#[derive(Debug)]
pub(crate) struct Views<B>(Vec<Option<(B, Mapping)>>);

impl<B: AsRef<SharedMemory>> Views<B> {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// The buffer with this index; `open` is asked for it when it is wanted first.
    pub(crate) fn get(
        &mut self,
        index: u32,
        open: impl FnOnce() -> Result<B>,
    ) -> Result<(&B, &Mapping)> {
        let wrong = || Error::Protocol("a frame in a buffer that can't be");
        if index >= STREAM_MAX_BUFFERS {
            return Err(wrong());
        }
        let place = usize::try_from(index).map_err(|_| wrong())?;
        if self.0.len() <= place {
            self.0.resize_with(place + 1, || None);
        }
        let view = self.0.get_mut(place).ok_or_else(wrong)?;
        if view.is_none() {
            let buffer = open()?;
            let mapping = buffer.as_ref().map()?;
            *view = Some((buffer, mapping));
        }
        let (buffer, mapping) = view.as_ref().ok_or_else(wrong)?;
        Ok((buffer, mapping))
    }
}
