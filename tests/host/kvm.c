// SPDX-License-Identifier: GPL-2.0-only
/* A virtual machine with the mapping as RAM, and one instruction that stores to it. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "derive-check.h"

/* Real mode, at address 0: mov ax, 0x1000; mov ds, ax; mov byte [0], ATTACK_BYTE; hlt */
static const uint8_t code[] = {
	0xb8, 0x00, 0x10, 0x8e, 0xd8, 0xc6, 0x06, 0x00, 0x00, ATTACK_BYTE, 0xf4,
};

static int add_memory(int vm, uint32_t slot, uint64_t address, uint64_t size, void *memory)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = address,
		.memory_size = size,
		.userspace_addr = (uintptr_t)memory,
	};

	return ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) ? errno : 0;
}

static int start_at_zero(int vcpu)
{
	struct kvm_regs regs = { .rip = 0, .rflags = 2 };
	struct kvm_sregs sregs;

	if (ioctl(vcpu, KVM_GET_SREGS, &sregs))
		return errno;
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) || ioctl(vcpu, KVM_SET_REGS, &regs))
		return errno;
	return 0;
}

/* A store that KVM hands to the VMM as device access has not happened. */
static int run(int kvm, int vcpu)
{
	int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), err;
	struct kvm_run *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);

	if (run == MAP_FAILED)
		return NOT_TRIED;
	if (ioctl(vcpu, KVM_RUN, 0))
		err = errno;
	else if (run->exit_reason == KVM_EXIT_HLT)
		err = 0;
	else
		err = run->exit_reason == KVM_EXIT_MMIO ? EFAULT : EIO;
	munmap(run, size);
	return err;
}

int kvm_store(uint8_t *map)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = -1, vcpu = -1, err = NOT_TRIED;
	uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (kvm >= 0)
		vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm >= 0)
		vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	if (vcpu >= 0 && page != MAP_FAILED) {
		memcpy(page, code, sizeof(code));
		err = add_memory(vm, 0, 0, 4096, page) ?: add_memory(vm, 1, 0x10000, SIZE, map) ?:
		      start_at_zero(vcpu) ?: run(kvm, vcpu);
	}
	munmap(page, 4096);
	close(vcpu);
	close(vm);
	close(kvm);
	return err;
}
