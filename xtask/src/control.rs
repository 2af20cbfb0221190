// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What bed and agent say to each other, over pipes in the flat bed and over a virtio-serial port in the nested one.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// Where output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The host command's standard output.
    HostOut,
    /// The host command's standard error.
    HostErr,
    /// The guest command's standard output, or the guest's console.
    GuestOut,
    /// The guest command's standard error.
    GuestErr,
}

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// Agent to bed: output of a command.
    Output(Source, Vec<u8>),
    /// Agent to bed: something the user should know.
    Note(String),
    /// Agent to bed: it runs. The first frame.
    Started,
    /// Agent to bed: the daemon serves and the guest's driver is up; the commands start.
    Up,
    /// Agent to bed: an [`Outcome`] as JSON. The last frame.
    Outcome(Vec<u8>),
    /// Bed to agent: input for the guest's shell; empty at its end.
    Input(Vec<u8>),
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Status of the host command.
    pub host: Option<i32>,
    /// Status of the guest command or shell.
    pub guest: Option<i32>,
    /// The time limit was reached.
    pub timed_out: bool,
    /// What went wrong with the bed itself.
    pub failure: Option<String>,
    /// Lines of the guest's kernel log that tell of a bug (oops, warning, hung task).
    pub kernel_complaints: Vec<String>,
    /// The VMs, host VM and guests, whose kernels died before init and that were started again. Set by the bed.
    #[serde(default)]
    pub early_deaths: Vec<String>,
}

/// The longest payload: anything longer is no frame of ours.
const LIMIT: u32 = 1 << 24;

impl Frame {
    /// Writes the frame, and flushes.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let (kind, payload): (u8, &[u8]) = match self {
            Self::Output(Source::HostOut, bytes) => (b'h', bytes),
            Self::Output(Source::HostErr, bytes) => (b'H', bytes),
            Self::Output(Source::GuestOut, bytes) => (b'g', bytes),
            Self::Output(Source::GuestErr, bytes) => (b'G', bytes),
            Self::Note(text) => (b'n', text.as_bytes()),
            Self::Started => (b's', &[]),
            Self::Up => (b'u', &[]),
            Self::Outcome(json) => (b'o', json),
            Self::Input(bytes) => (b'i', bytes),
        };
        let size = u32::try_from(payload.len())
            .ok()
            .filter(|size| *size <= LIMIT)
            .ok_or_else(|| io::Error::other("a control frame is too long"))?;
        let mut bytes = Vec::with_capacity(payload.len() + 5);
        bytes.push(kind);
        bytes.extend_from_slice(&size.to_le_bytes());
        bytes.extend_from_slice(payload);
        to.write_all(&bytes)?;
        to.flush()
    }

    /// Reads a frame; `None` at the end of the stream.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut kind = [0];
        loop {
            match from.read(&mut kind) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut size = [0; 4];
        from.read_exact(&mut size)?;
        let size = u32::from_le_bytes(size);
        if size > LIMIT {
            return Err(io::Error::other("a control frame is too long"));
        }
        let mut payload = vec![0; usize::try_from(size).map_err(io::Error::other)?];
        from.read_exact(&mut payload)?;
        let [kind] = kind;
        Ok(Some(match kind {
            b'h' => Self::Output(Source::HostOut, payload),
            b'H' => Self::Output(Source::HostErr, payload),
            b'g' => Self::Output(Source::GuestOut, payload),
            b'G' => Self::Output(Source::GuestErr, payload),
            b'n' => Self::Note(String::from_utf8_lossy(&payload).into_owned()),
            b's' => Self::Started,
            b'u' => Self::Up,
            b'o' => Self::Outcome(payload),
            b'i' => Self::Input(payload),
            other => {
                return Err(io::Error::other(format!(
                    "unknown control frame {other:#x}"
                )));
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::{Frame, Source};

    #[test]
    fn frames_survive_the_way() {
        let frames = [
            Frame::Output(Source::HostErr, b"a\0\n".to_vec()),
            Frame::Note("x".into()),
            Frame::Started,
            Frame::Up,
            Frame::Input(Vec::new()),
            Frame::Outcome(b"{}".to_vec()),
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.write(&mut bytes).unwrap();
        }
        let mut from = bytes.as_slice();
        for frame in frames {
            assert_eq!(Frame::read(&mut from).unwrap(), Some(frame));
        }
        assert_eq!(Frame::read(&mut from).unwrap(), None);
        assert!(
            Frame::read(&mut [b'n', 5, 0, 0, 0, 1].as_slice()).is_err(),
            "cut off"
        );
        assert!(
            Frame::read(&mut [b'n', 0, 0, 0, 255].as_slice()).is_err(),
            "too long"
        );
    }
}
