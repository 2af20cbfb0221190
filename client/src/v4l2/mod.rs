// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A V4L2 capture device that captures into dma-bufs of others (`V4L2_MEMORY_DMABUF`): single-plane devices, and
//! multi-plane ones as long as a picture is one memory plane. Used by [`crate::source::camera`].

pub(crate) mod raw;

use crate::connection::wait;
use crate::error::{Error, Result};
use crate::picture::{Fourcc, Picture};
use crate::sys;
use rustix::event::PollFlags;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// The layout of the camera's frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLayout {
    /// Size and V4L2's fourcc.
    pub picture: Picture,
    /// Bytes from one line of the first plane to the next.
    pub stride: u32,
    /// Bytes of a frame.
    pub size: u32,
}

/// A frame that the camera has finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Which buffer it is in.
    pub index: u32,
    /// The driver's number of the frame.
    pub sequence: u32,
    /// When it was captured, in ns of the driver's clock (`CLOCK_MONOTONIC` in nearly all of them).
    pub timestamp_ns: u64,
    /// Bytes in it.
    pub bytes: u32,
    /// The driver says that the contents are damaged.
    pub damaged: bool,
}

/// A setting of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlInfo {
    id: u32,
    /// The driver's name for it.
    pub name: String,
    /// Smallest value.
    pub minimum: i32,
    /// Largest value.
    pub maximum: i32,
}

/// An open capture device.
#[derive(Debug)]
pub struct CaptureDevice {
    fd: OwnedFd,
    path: String,
    kind: u32,
}

impl CaptureDevice {
    /// Opens a device node and makes sure that it captures video.
    ///
    /// # Errors
    /// [`Error::Device`]
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display().to_string();
        let failed = |what: String| Error::Device {
            device: shown.clone(),
            what,
        };
        let fd = open(
            path,
            OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| {
            failed(format!(
                "can't open it: {errno}. Is it a camera, and may this user open it?"
            ))
        })?;
        let mut about = raw::Capability::new_zeroed();
        sys::query_capability(fd.as_fd(), &mut about).map_err(|errno| {
            failed(format!(
                "is no V4L2 device ({errno}). Name one like /dev/video0"
            ))
        })?;
        let can = if about.capabilities & raw::CAP_DEVICE_CAPS == 0 {
            about.capabilities
        } else {
            about.device_caps
        };
        let kind = match (
            can & raw::CAP_CAPTURE != 0,
            can & raw::CAP_CAPTURE_MPLANE != 0,
        ) {
            (true, _) => raw::CAPTURE,
            (false, true) => raw::CAPTURE_MPLANE,
            (false, false) => {
                return Err(failed("captures no video. Name another device".to_owned()));
            }
        };
        if can & raw::CAP_STREAMING == 0 {
            return Err(failed(
                "can't stream into buffers. Name another device".to_owned(),
            ));
        }
        Ok(Self {
            fd,
            path: shown,
            kind,
        })
    }

    fn failed(&self, what: impl Into<String>) -> Error {
        Error::Device {
            device: self.path.clone(),
            what: what.into(),
        }
    }

    /// Sets size and fourcc. The driver may choose another size, but not another fourcc.
    ///
    /// # Errors
    /// [`Error::Device`]
    pub fn set_format(&self, wanted: Picture) -> Result<FrameLayout> {
        let mut format = self.describe(wanted)?;
        sys::set_format(self.fd.as_fd(), &mut format).map_err(|errno| match errno {
            Errno::BUSY => self.failed("is in use by another process. End that one first"),
            errno => self.failed(format!("{} is not possible: {errno}", wanted.fourcc)),
        })?;
        let layout = self.layout(&format)?;
        if layout.picture.fourcc != wanted.fourcc {
            return Err(self.failed(format!(
                "offers {} and not {}. Choose another --fourcc (v4l2-ctl --list-formats shows them)",
                layout.picture.fourcc, wanted.fourcc
            )));
        }
        Ok(layout)
    }

    fn describe(&self, wanted: Picture) -> Result<raw::Format> {
        // Both kinds of format begin with these four fields; the rest of a single-plane one stays 0.
        let mut picture = raw::PixFormatMplane::new_zeroed();
        picture.width = wanted.width;
        picture.height = wanted.height;
        picture.fourcc = wanted.fourcc.0;
        picture.field = raw::FIELD_NONE;
        picture.num_planes = u8::from(self.kind == raw::CAPTURE_MPLANE);
        let mut format = raw::Format::new_zeroed();
        format.kind = self.kind;
        picture
            .write_to_prefix(&mut format.picture)
            .map_err(|_| self.failed("has a format that is too long"))?;
        Ok(format)
    }

    fn layout(&self, format: &raw::Format) -> Result<FrameLayout> {
        if self.kind == raw::CAPTURE {
            let pix: raw::PixFormat = self.read(format)?;
            let picture = Picture {
                width: pix.width,
                height: pix.height,
                fourcc: Fourcc(pix.fourcc),
            };
            return Ok(FrameLayout {
                picture,
                stride: pix.bytes_per_line,
                size: pix.size_image,
            });
        }
        let pix: raw::PixFormatMplane = self.read(format)?;
        if pix.num_planes != 1 {
            return Err(self.failed(
                "puts each plane of this fourcc into memory of its own. Choose a --fourcc with one memory plane",
            ));
        }
        let picture = Picture {
            width: pix.width,
            height: pix.height,
            fourcc: Fourcc(pix.fourcc),
        };
        Ok(FrameLayout {
            picture,
            stride: pix.bytes_per_line,
            size: pix.size_image,
        })
    }

    fn read<T: FromBytes>(&self, format: &raw::Format) -> Result<T> {
        match T::read_from_prefix(&format.picture) {
            Ok((read, _)) => Ok(read),
            Err(_) => Err(self.failed("has a format that is too short")),
        }
    }

    /// Asks for a frame rate; drivers take the nearest that they have.
    ///
    /// # Errors
    /// [`Error::Device`]
    pub fn set_rate(&self, frames_per_second: u32) -> Result<()> {
        let mut parameters = raw::Parameters::new_zeroed();
        parameters.kind = self.kind;
        parameters.numerator = 1;
        parameters.denominator = frames_per_second;
        sys::set_parameters(self.fd.as_fd(), &mut parameters).map_err(|errno| {
            self.failed(format!("can't set a frame rate: {errno}. Leave --fps out"))
        })
    }

    /// The device's settings.
    #[must_use]
    pub fn controls(&self) -> Vec<ControlInfo> {
        let mut controls = Vec::new();
        let mut query = raw::QueryControl::new_zeroed();
        query.id = raw::NEXT_CONTROL;
        while sys::query_control(self.fd.as_fd(), &mut query).is_ok() {
            let name = query.name.split(|&b| b == 0).next().unwrap_or_default();
            controls.push(ControlInfo {
                id: query.id,
                name: String::from_utf8_lossy(name).into_owned(),
                minimum: query.minimum,
                maximum: query.maximum,
            });
            let last = query.id;
            query = raw::QueryControl::new_zeroed();
            query.id = last | raw::NEXT_CONTROL;
        }
        controls
    }

    /// Changes a setting.
    ///
    /// # Errors
    /// [`Error::Device`]
    pub fn set_control(&self, control: &ControlInfo, value: i32) -> Result<()> {
        let mut wanted = raw::Control {
            id: control.id,
            value,
        };
        sys::set_control(self.fd.as_fd(), &mut wanted).map_err(|errno| {
            self.failed(format!("can't set {:?} to {value}: {errno}", control.name))
        })
    }

    /// Tells the driver how many dma-bufs will be queued.
    ///
    /// # Errors
    /// [`Error::Device`], also when the driver wants more buffers than that.
    pub fn request_buffers(&self, count: u32) -> Result<()> {
        let mut request = raw::RequestBuffers::new_zeroed();
        request.count = count;
        request.kind = self.kind;
        request.memory = raw::MEMORY_DMABUF;
        sys::request_buffers(self.fd.as_fd(), &mut request).map_err(|errno| match errno {
            Errno::BUSY => self.failed("is in use by another process. End that one first"),
            Errno::INVAL => self.failed("can't capture into dma-bufs. Name another device"),
            errno => self.failed(format!("VIDIOC_REQBUFS: {errno}")),
        })?;
        if request.count == count {
            Ok(())
        } else {
            Err(self.failed(format!(
                "needs {} buffers. Set --buffers to that",
                request.count
            )))
        }
    }

    /// Gives the driver a dma-buf to capture into.
    ///
    /// # Errors
    /// [`Error::Device`]
    pub fn queue(&self, index: u32, dma_buf: BorrowedFd<'_>, length: u32) -> Result<()> {
        let mut buffer = raw::Buffer::new_zeroed();
        buffer.index = index;
        buffer.kind = self.kind;
        let mut plane = raw::Plane::new_zeroed();
        plane.length = length;
        // The kernel's field is an int in a union of 8 bytes, whose first 4 it reads.
        let mut memory = [0u8; 8];
        if let Some(number) = memory.first_chunk_mut() {
            *number = dma_buf.as_raw_fd().to_ne_bytes();
        }
        plane.memory = u64::from_ne_bytes(memory);
        sys::queue(self.fd.as_fd(), &mut buffer, &mut plane).map_err(|errno| {
            self.failed(format!(
                "VIDIOC_QBUF: {errno}. Is the buffer a dma-buf that this device can reach?"
            ))
        })
    }

    /// Starts to capture.
    ///
    /// # Errors
    /// [`Error::Device`]
    pub fn start(&self) -> Result<()> {
        sys::stream_on(self.fd.as_fd(), self.kind).map_err(|errno| {
            self.failed(format!(
                "VIDIOC_STREAMON: {errno}. Is the camera connected?"
            ))
        })
    }

    /// Waits for the next finished frame.
    ///
    /// # Errors
    /// [`Error::Deadline`] when there is none within `limit`; [`Error::Device`].
    pub fn dequeue(&self, limit: Duration) -> Result<Captured> {
        let until = Instant::now() + limit;
        loop {
            let mut buffer = raw::Buffer::new_zeroed();
            buffer.kind = self.kind;
            let mut plane = raw::Plane::new_zeroed();
            match sys::dequeue(self.fd.as_fd(), &mut buffer, &mut plane) {
                Ok(()) => return Ok(captured(&buffer, &plane)),
                Err(Errno::AGAIN) => {}
                Err(errno) => {
                    return Err(
                        self.failed(format!("VIDIOC_DQBUF: {errno}. Is it still connected?"))
                    );
                }
            }
            if !wait(self.fd.as_fd(), PollFlags::IN, until)
                .map_err(Error::system("waiting for a frame"))?
            {
                return Err(Error::Deadline {
                    what: "the next frame of the camera",
                    after: limit,
                });
            }
        }
    }
}

fn captured(buffer: &raw::Buffer, plane: &raw::Plane) -> Captured {
    let seconds = u64::try_from(buffer.seconds).unwrap_or_default();
    let microseconds = u64::try_from(buffer.microseconds).unwrap_or_default();
    Captured {
        index: buffer.index,
        sequence: buffer.sequence,
        timestamp_ns: seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(microseconds.saturating_mul(1000)),
        bytes: plane.bytes_used,
        damaged: buffer.flags & raw::BUFFER_ERROR != 0,
    }
}
