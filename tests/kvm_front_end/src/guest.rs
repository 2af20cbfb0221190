// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The guest: one vCPU in flat 32-bit mode that runs a few instructions at a time.
//!
//! Its memory is at 0, its window at [`WINDOW`]. An experiment reads a byte of the window, writes to it in one of
//! several ways, reads again, says that it came to its end, and halts.

use crate::sys::Slot;
use anyhow::{Context, Result};
use kvm_bindings::{kvm_regs, kvm_segment};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs::File;
use std::sync::Arc;
use vm_memory::mmap::MmapRegion;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// Guest memory, from 0.
pub const RAM_SIZE: usize = 4 << 20;
/// Where the window is.
pub const WINDOW: u64 = 0x1000_0000;
const CODE: u64 = 0x1000;
const BEFORE: u64 = 0x2000;
const AFTER: u64 = 0x2001;
const DONE: u64 = 0x2002;
/// What the guest says when it came to its end.
const SAID: u8 = 0x5a;
/// More exits than that is no progress.
const MAX_EXITS: usize = 64;

/// Ways to write to memory. All but the first write `WRITTEN` to the first byte; that one adds.
pub const STORES: &[(&str, &[u8])] = &[
    // mov byte [esi], 0xa5
    ("cpu_mov", &[0xc6, 0x06, 0xa5]),
    // mov al, 0xa5; xchg [esi], al
    ("cpu_xchg", &[0xb0, 0xa5, 0x86, 0x06]),
    // lock add dword [esi], 1
    ("cpu_lock_add", &[0xf0, 0x83, 0x06, 0x01]),
    // mov eax, [esi]; mov ebx, 0xa5a5a5a5; lock cmpxchg [esi], ebx
    (
        "cpu_cmpxchg",
        &[
            0x8b, 0x06, 0xbb, 0xa5, 0xa5, 0xa5, 0xa5, 0xf0, 0x0f, 0xb1, 0x1e,
        ],
    ),
    // mov edi, esi; mov ecx, 16; mov al, 0xa5; rep stosb
    (
        "cpu_rep_stos",
        &[0x89, 0xf7, 0xb9, 0x10, 0, 0, 0, 0xb0, 0xa5, 0xf3, 0xaa],
    ),
];

/// How an experiment went.
#[derive(Debug, Default)]
pub struct Ran {
    /// The byte as the guest read it first, and after the write.
    pub seen: [u8; 2],
    /// Writes that left the guest as MMIO.
    pub mmio_writes: usize,
    /// Whether it came to its end.
    pub done: bool,
    /// What else it left the guest for.
    pub other: Option<String>,
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [before, after] = self.seen;
        write!(f, "read {before:02x}, then {after:02x}; ")?;
        match (&self.other, self.mmio_writes) {
            (Some(other), _) => write!(f, "{other}"),
            (None, 0) => write!(f, "no exit"),
            (None, count) => write!(f, "{count} exits KVM_EXIT_MMIO"),
        }?;
        f.write_str(if self.done {
            ", the vCPU goes on"
        } else {
            ", the vCPU can't go on"
        })
    }
}

/// See the module.
pub struct Guest {
    /// The VM, to give it a window.
    pub vm: Arc<VmFd>,
    /// Guest memory.
    pub memory: GuestMemoryMmap,
    /// The memfd behind it.
    pub ram: File,
    cpu: VcpuFd,
    _slot: Slot,
}

impl Guest {
    /// A guest with memory, and nothing in it.
    pub fn new() -> Result<Self> {
        let kvm = Kvm::new().context("/dev/kvm")?;
        let vm = Arc::new(kvm.create_vm().context("KVM_CREATE_VM")?);
        let ram = File::from(memfd_create("guest-ram", MemfdFlags::CLOEXEC)?);
        ftruncate(&ram, RAM_SIZE as u64)?;
        let region = Arc::new(MmapRegion::from_file(
            FileOffset::new(ram.try_clone()?, 0),
            RAM_SIZE,
        )?);
        let mapped = GuestRegionMmap::with_arc(Arc::clone(&region), GuestAddress(0))
            .context("guest memory")?;
        let memory = GuestMemoryMmap::from_regions(vec![mapped])?;
        let slot = Slot::new(Arc::clone(&vm), 0, 0, region, false).context("guest memory")?;
        let cpu = vm.create_vcpu(0).context("KVM_CREATE_VCPU")?;
        Ok(Self {
            vm,
            memory,
            ram,
            cpu,
            _slot: slot,
        })
    }

    /// Reads, stores, and reads again at an address of the window.
    pub fn run(&mut self, address: u64, store: &[u8]) -> Result<Ran> {
        let address = u32::try_from(address)?.to_le_bytes();
        let load = |to: u64| -> Result<Vec<u8>> {
            // mov al, [esi]; mov [to], al
            Ok([&[0x8a, 0x06, 0xa2][..], &u32::try_from(to)?.to_le_bytes()].concat())
        };
        let code = [
            // mov esi, address
            &[0xbe][..],
            &address,
            &load(BEFORE)?,
            store,
            &load(AFTER)?,
            // mov byte [DONE], SAID; hlt
            &[0xc6, 0x05],
            &u32::try_from(DONE)?.to_le_bytes(),
            &[SAID, 0xf4],
        ]
        .concat();
        self.memory.write_slice(&code, GuestAddress(CODE))?;
        self.memory.write_slice(&[0; 3], GuestAddress(BEFORE))?;
        self.start()?;
        let mut ran = Ran::default();
        for _ in 0..MAX_EXITS {
            match self.cpu.run() {
                Ok(VcpuExit::Hlt) => break,
                Ok(VcpuExit::MmioWrite(..)) => ran.mmio_writes += 1,
                Ok(other) => {
                    ran.other = Some(format!("exit {other:?}"));
                    break;
                }
                Err(error) if error.errno() == rustix::io::Errno::INTR.raw_os_error() => {}
                Err(error) => {
                    ran.other = Some(format!("KVM_RUN: {error}"));
                    break;
                }
            }
        }
        let byte = |at: u64| self.memory.read_obj::<u8>(GuestAddress(at));
        ran.seen = [byte(BEFORE)?, byte(AFTER)?];
        ran.done = byte(DONE)? == SAID;
        Ok(ran)
    }

    fn start(&self) -> Result<()> {
        let mut sregs = self.cpu.get_sregs()?;
        let segment = |kind: u8, selector: u16| kvm_segment {
            base: 0,
            limit: u32::MAX,
            selector,
            type_: kind,
            present: 1,
            dpl: 0,
            db: 1,
            s: 1,
            l: 0,
            g: 1,
            ..kvm_segment::default()
        };
        sregs.cs = segment(0xb, 8);
        let data = segment(3, 16);
        (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
        // Protected mode, no paging
        sregs.cr0 |= 1;
        self.cpu.set_sregs(&sregs)?;
        self.cpu.set_regs(&kvm_regs {
            rip: CODE,
            rsp: 0x8000,
            // The bit that is always set
            rflags: 2,
            ..kvm_regs::default()
        })?;
        Ok(())
    }
}
