// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A V4L2 camera that captures straight into the shared buffers. No byte of a frame passes through this process.

use super::{Frame, FrameSource, Slot};
use crate::error::{Error, Result};
use crate::picture::{Picture, layout};
use crate::shared_memory::SharedMemory;
use crate::v4l2::{CaptureDevice, FrameLayout};
use dmabuf_protocol::wire::Format;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// A camera in one mode.
#[derive(Debug)]
pub struct Camera {
    device: CaptureDevice,
    layout: FrameLayout,
}

impl Camera {
    /// Opens a device and sets picture (fourcc of V4L2) and, if given, frame rate.
    ///
    /// # Errors
    /// [`Error::Device`]
    pub fn open(path: &Path, picture: Picture, frames_per_second: Option<u32>) -> Result<Self> {
        let device = CaptureDevice::open(path)?;
        let layout = device.set_format(picture)?;
        if let Some(rate) = frames_per_second {
            device.set_rate(rate)?;
        }
        Ok(Self { device, layout })
    }

    /// Makes the picture of the kernel's test camera (vivid) move, which it hardly does by itself.
    ///
    /// # Errors
    /// [`Error::Device`] when this is another camera.
    pub fn vivid_motion(&self) -> Result<()> {
        let controls = self.device.controls();
        for name in ["Horizontal Movement", "Vertical Movement"] {
            let control = controls
                .iter()
                .find(|control| control.name == name)
                .ok_or_else(|| Error::Device {
                    device: "the camera".to_owned(),
                    what: format!("has no {name:?}, so it isn't vivid. Leave --vivid-motion out"),
                })?;
            // The largest value is the fastest movement, to the right or downwards.
            self.device.set_control(control, control.maximum)?;
        }
        Ok(())
    }

    fn queue(&self, slots: &[Slot<impl AsRef<SharedMemory>>], slot: usize) -> Result<()> {
        let known = slots.get(slot).zip(u32::try_from(slot).ok());
        let (buffer, index) = known.ok_or(Error::NotDmaBuf)?;
        if !buffer.buffer.as_ref().is_dma_buf() {
            return Err(Error::NotDmaBuf);
        }
        let size = u32::try_from(buffer.buffer.as_ref().size()).unwrap_or(u32::MAX);
        self.device
            .queue(index, buffer.buffer.as_ref().as_fd(), size)
    }
}

impl FrameSource for Camera {
    fn picture(&self) -> Picture {
        self.layout.picture
    }

    fn frame_size(&self) -> u64 {
        self.layout.size.into()
    }

    fn format(&self) -> Option<Format> {
        let Picture {
            width,
            height,
            fourcc,
        } = self.layout.picture;
        layout(fourcc.v4l2_to_drm()?, width, height, self.layout.stride)
    }

    /// One that is being filled, and one for the next frame.
    fn needs(&self) -> usize {
        2
    }

    fn start(&mut self, slots: &[Slot<impl AsRef<SharedMemory>>]) -> Result<()> {
        self.device
            .request_buffers(u32::try_from(slots.len()).unwrap_or(u32::MAX))?;
        for slot in 0..slots.len() {
            self.queue(slots, slot)?;
        }
        self.device.start()
    }

    fn next(
        &mut self,
        slots: &mut [Slot<impl AsRef<SharedMemory>>],
        limit: Duration,
    ) -> Result<Frame> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let captured = self.device.dequeue(left)?;
            let slot = usize::try_from(captured.index).unwrap_or(usize::MAX);
            let bytes = usize::try_from(captured.bytes).unwrap_or(usize::MAX);
            if slots
                .get(slot)
                .is_none_or(|slot| bytes > slot.mapping.len())
            {
                return Err(Error::Device {
                    device: "the camera's driver".to_owned(),
                    what: "finished a frame in a buffer it doesn't have".to_owned(),
                });
            }
            if captured.damaged {
                log::warn!("frame {} is damaged and left out", captured.sequence);
                self.queue(slots, slot)?;
                continue;
            }
            return Ok(Frame {
                slot,
                sequence: captured.sequence.into(),
                timestamp_ns: captured.timestamp_ns,
                bytes,
            });
        }
    }

    fn give_back(&mut self, slots: &[Slot<impl AsRef<SharedMemory>>], frame: Frame) -> Result<()> {
        self.queue(slots, frame.slot)
    }
}
