// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Lines to and from the guest's `guest-check lockstep`, or a producer's: the demo's main job asks through it, and
//! the scripts of scenarios through `xtask link`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

/// How long the other side may take for an answer.
pub const LIMIT: Duration = Duration::from_secs(30);

/// `xtask link`: connects, and gives exactly one answer for each line of its input.
///
/// A guest that is gone, or too slow, answers `err GONE` from then on, so that a script never waits in vain.
pub fn command(socket: &Path) -> Result<i32> {
    let mut link = Link::socket(socket);
    match &link {
        Ok(_) => println!("ready"),
        Err(error) => println!("err GONE {error:#}"),
    }
    for line in io::stdin().lines() {
        let line = line?;
        let answer = match &mut link {
            Ok(link) => link.ask(&line),
            Err(error) => Err(anyhow!("{error:#}")),
        };
        match answer {
            Ok(answer) => println!("{answer}"),
            Err(error) => {
                println!("err GONE {error:#}");
                link = Err(error);
            }
        }
    }
    Ok(0)
}

/// Lines to and from somebody, with a time limit.
pub struct Link {
    to: Box<dyn Write>,
    lines: Receiver<String>,
}

impl Link {
    fn new(from: impl Read + Send + 'static, to: impl Write + 'static) -> Self {
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(from).lines() {
                if line.map_or(true, |line| sender.send(line).is_err()) {
                    return;
                }
            }
        });
        Self {
            to: Box::new(to),
            lines,
        }
    }

    /// The producer's standard input and output.
    pub fn fifos(run: &Path) -> Result<Self> {
        // Opened for both directions, a fifo doesn't wait for its other side.
        let open = |name: &str| -> Result<File> {
            let path = run.join(name);
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .with_context(|| format!("can't open {}", path.display()))
        };
        Ok(Self::new(open("producer.out")?, open("producer.in")?))
    }

    /// The bed's link; the guest says `ready` when it is.
    pub fn socket(path: &Path) -> Result<Self> {
        let socket = UnixStream::connect(path)
            .with_context(|| format!("can't connect to {}", path.display()))?;
        let mut link = Self::new(socket.try_clone()?, socket);
        let greeting = link.line()?;
        if greeting == "ready" {
            Ok(link)
        } else {
            bail!("the guest said {greeting:?}")
        }
    }

    /// The next line from there.
    pub fn line(&mut self) -> Result<String> {
        self.lines.recv_timeout(LIMIT).context("no answer")
    }

    /// Sends a line.
    pub fn send(&mut self, line: &str) -> Result<()> {
        writeln!(self.to, "{line}")?;
        Ok(self.to.flush()?)
    }

    /// Sends a line and waits for the answer.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        self.send(line)?;
        self.line().with_context(|| format!("after {line:?}"))
    }
}
