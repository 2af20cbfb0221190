// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The kernel's side of things: ioctls, mappings, sockets with fds. The only module with unsafe code.
//!
//! Everything here is a typed function over `OwnedFd` and `BorrowedFd`; nothing keeps state, nothing knows what a
//! buffer is. Called by `heap`, `buffer`, `fence`, `broker` and `vhost`.
#![allow(unsafe_code)]

mod derive;
mod dma_buf;
mod eventfd;
mod inherit;
mod limits;
mod mapping;
mod memfd;
mod notify;
mod seqpacket;
mod sync_file;
#[cfg(test)]
mod tests;
mod truncation;
mod vgem;

pub use derive::{kernel_derive, module_derive};
pub use dma_buf::{
    dma_buf_size, dma_heap_alloc, is_dma_buf, is_kernel_object, open_users, sync_cpu_write,
    udmabuf_create,
};
pub use eventfd::EventFd;
pub use inherit::{inherited_listener, read_now, set_nonblocking};
pub use limits::raise_fd_limit;
pub use mapping::Mapping;
pub use memfd::{
    NO_WRITING, SEALED, add_seals, inode, is_read_write, memfd_create, memfd_seals, next_data,
    reopen_read_only, seal_for_good, seal_size,
};
pub use notify::notify_ready;
pub use seqpacket::{MAX_MESSAGE, Received, accept, connect, listen, receive, send};
pub use sync_file::{
    SYNC_READ, SYNC_WRITE, SyncFileInfo, dma_buf_sync, export_sync_file, import_sync_file,
    sync_file_info,
};
pub use truncation::{met_truncation, survive_truncation};
pub use vgem::{is_vgem, vgem_attach_fence};
