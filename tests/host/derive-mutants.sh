#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-only
# Takes one protection at a time out of kernel/dmabuf_derive, and shows which check of derive-check misses it.
#
#   derive-mutants.sh build SOURCE KDIR OUT   builds OUT/NAME.ko for each mutant, from copies of SOURCE
#   derive-mutants.sh run DIR                 as root, where /dev/dma_heap, vgem, vivid and test_exporter.ko are, with
#                                             derive-check in the PATH: tries DIR/*.ko in the order of the list
#
# Prints "mutant NAME caught by CHECK" or "mutant NAME SURVIVED", and ends with 1 if one survived.
#
# Not in the list: the reference of an alias to its dma-buf (a kernel without it is not one to go on with), and that
# the fd is looked up twice (no program can hit the moment between).
set -eu

# NAME, FILE, a sed script. `unload` stays the last: the kernel may not survive it.
mutants() {
	cat <<'LIST'
write_only main.c s/mode != O_RDONLY && !parent->writable/mode == O_RDWR \&\& !parent->writable/
write_only_of_writable main.c s/if (mode == O_WRONLY)/if (0)/
escalation main.c s/mode != O_RDONLY && !parent->writable/0/
mode_3 main.c s/ || mode == O_ACCMODE)/)/
unknown_flags main.c s/request.flags & ~(O_ACCMODE . O_CLOEXEC) ||/0 ||/
unknown_options main.c s/request.options & ~DMABUF_DERIVE_MAP_WRITABLE_AS_READONLY ||/0 ||/
option_with_write main.c s/(request.options && mode != O_RDONLY)/0/
access_by_file_mode main.c s/parent->writable = alias->writable;/parent->writable = file->f_mode \& FMODE_WRITE;/
unreadable_parent main.c s/return parent->readable ? 0 : -EACCES;/return 0;/
cloexec main.c s/get_unused_fd_flags(request.flags & O_CLOEXEC)/get_unused_fd_flags(0)/
fd_number_leaks main.c s/put_unused_fd(fd);/;/
parent_leaks main.c s/fd_install(fd, file);/fd_install(fd, file); return 0;/
node_mode main.c s/0660/0666/
options_widen main.c s/mode == O_RDWR, request.options)/mode == O_RDWR, mode == O_RDWR ? 0 : 1)/
alias_leaks alias.c s/dma_buf_put(alias->dmabuf);/;/
private_mapping alias.c s/if (!(vma->vm_flags & VM_MAYSHARE))/if (0)/
grows alias.c s/vm_flags_set(vma, VM_DONTEXPAND);/;/
file_mode alias.c s/writable || lenient ? O_RDWR : O_RDONLY/O_RDWR/
write_request alias.c s/writable || lenient ? O_RDWR : O_RDONLY/O_RDWR/;s/if ((vma->vm_flags & VM_WRITE) &&/if (0 \&\&/
clear_write alias.c s/vm_flags_clear(vma, VM_WRITE | /vm_flags_clear(vma, /
clear_maywrite alias.c s/vm_flags_clear(vma, VM_WRITE | VM_MAYWRITE | /vm_flags_clear(vma, VM_WRITE | /
clear_shared alias.c s/\(vm_flags_clear(vma, .*\) | VM_SHARED/\1/
page_prot alias.c s/vma->vm_page_prot = .*;/;/
clear_write_unseen alias.c s/VM_WRITE | VM_MAYWRITE | VM_SHARED/VM_MAYWRITE | VM_SHARED/;s/!pte_write(.*) &&/1 \&\&/
clear_maywrite_unseen alias.c s/VM_WRITE | VM_MAYWRITE | VM_SHARED/VM_WRITE | VM_SHARED/
clear_shared_unseen alias.c s/VM_WRITE | VM_MAYWRITE | VM_SHARED/VM_WRITE | VM_MAYWRITE/
page_prot_unseen alias.c s/vma->vm_page_prot = .*;/;/;s/!pte_write(.*) &&/1 \&\&/
check_write alias.c s/!(vma->vm_flags & (VM_WRITE | /!(vma->vm_flags \& (/
check_maywrite alias.c s/\((vma->vm_flags & (VM_WRITE | \)VM_MAYWRITE | /\1/
check_shared alias.c s/\((vma->vm_flags & (VM_WRITE | VM_MAYWRITE\) | VM_SHARED/\1/
check_prot alias.c s/!pte_write(.*) &&/1 \&\&/
check_access alias.c s/!(vma->vm_ops && vma->vm_ops->access)/1/
close_refused alias.c s/vma->vm_ops->close(vma);/;/
sync_write alias.c s/(sync.flags & DMA_BUF_SYNC_WRITE) && !alias->writable/0/
sync_unknown alias.c s/sync.flags & ~DMA_BUF_SYNC_VALID_FLAGS_MASK/0/
sync_reads_twice alias.c s/return alias_sync(alias, arg);/return alias_sync(alias, arg) ?: dmabuf_ioctl(alias->dmabuf, cmd, arg);/
import_fence alias.c s/if (!alias->writable)/if (0)/
set_name alias.c s/return -ENOTTY;/return dmabuf_ioctl(alias->dmabuf, cmd, arg);/
poll_out alias.c s/_key &= ~EPOLLOUT/_key \&= ~0/;s/return ready & ~EPOLLOUT/return ready/
size alias.c s/return alias->dmabuf->size;/return 0;/
unload alias.c s/^	.owner = THIS_MODULE,//
LIST
}

build() {
	source=$1 kdir=$2 out=$3
	mkdir -p "$out"
	mutants | while read -r name file script; do
		copy=$out/$name
		rm -rf "$copy"
		cp -r "$source" "$copy"
		sed -i "$script" "$copy/$file"
		if cmp -s "$source/$file" "$copy/$file"; then
			echo "mutant $name does not apply: $file has changed, change its line in ${0##*/}"
			exit 1
		fi
		# What is left over of a protection may be unused: no -Werror.
		sed -i /^ccflags/d "$copy/Kbuild"
		make -s -C "$kdir" M="$copy" modules
		cp "$copy/dmabuf_derive.ko" "$out/$name.ko"
		rm -rf "$copy"
	done
}

run() {
	directory=$1
	mutants | {
		survivors=0
		while read -r name rest; do
			rmmod dmabuf_derive 2>/dev/null || true
			insmod "$directory/$name.ko"
			# grep ends at the first one, and with it derive-check.
			caught=$(timeout 300 derive-check all </dev/null 2>&1 | grep -m1 '^check [^ ]* fail ' || true)
			if [ "$caught" ]; then
				set -- $caught
				echo "mutant $name caught by $2"
			else
				echo "mutant $name SURVIVED"
				survivors=1
			fi
		done
		exit $survivors
	}
}

case ${1-} in
build) build "$2" "$3" "$4" ;;
run) run "$2" ;;
*)
	echo "usage: ${0##*/} build SOURCE KDIR OUT | run DIR" >&2
	exit 2
	;;
esac
