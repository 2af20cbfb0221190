// SPDX-License-Identifier: GPL-2.0-only
/*
 * Leaves the VM before each notification of a virtio device. For guests of a KVM
 * whose SVM is emulated by QEMU; nobody else needs this.
 *
 * QEMU notes an exception of the guest in the VMCB's EVENTINJ, and at the next exit
 * copies that to EXITINTINFO: not valid any more, but with its type. KVM looks at the
 * type (svm_check_emulate_instruction(), Linux 6.14 and later), takes the exception
 * for one that is being delivered, and does not emulate the access that caused the
 * exit: "KVM internal error. Suberror: 3". So a guest that accesses a device's memory
 * dies if an exception, a page fault mostly, was the last thing before it. An exit
 * for something else clears EVENTINJ: CPUID always exits, and drivers notify with
 * interrupts off or under a lock, so that no exception comes in between.
 */
#include <linux/kprobes.h>
#include <linux/module.h>

static int leave(struct kprobe *probe, struct pt_regs *regs)
{
	u32 leaf = 0, subleaf = 0;

	asm volatile("cpuid" : "+a" (leaf), "+c" (subleaf) : : "ebx", "edx", "memory");
	return 0;
}

static struct kprobe notify = {
	.symbol_name = "vp_notify",
	.pre_handler = leave,
};

static int __init exit_before_notify_init(void)
{
	return register_kprobe(&notify);
}

static void __exit exit_before_notify_exit(void)
{
	unregister_kprobe(&notify);
}

module_init(exit_before_notify_init);
module_exit(exit_before_notify_exit);
MODULE_DESCRIPTION("Leaves the VM before each notification of a virtio device");
MODULE_LICENSE("GPL");
