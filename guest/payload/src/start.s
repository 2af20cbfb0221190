# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# From PVH's entry (32-bit protected mode, no paging, %ebx points to the start info) to 64-bit mode with SSE, the first
# 4 GiB mapped to themselves, and a stack; then to Rust.

.section .note.Xen, "a", @note
.balign 4
.long 4, 8, 18                          # name's size, descriptor's size, XEN_ELFNOTE_PHYS32_ENTRY
.asciz "Xen"
.quad pvh_start

.section .text.start, "ax"
.code32
.global pvh_start
pvh_start:
	cli
	cld
	# 2048 pages of 2 MiB: present, writable
	movl $0x83, %eax
	xorl %ecx, %ecx
2:	movl %eax, page_directories(,%ecx,8)
	addl $0x200000, %eax
	incl %ecx
	cmpl $2048, %ecx
	jne 2b
	movl $page_directories + 3, %eax
	xorl %ecx, %ecx
3:	movl %eax, pointer_table(,%ecx,8)
	addl $0x1000, %eax
	incl %ecx
	cmpl $4, %ecx
	jne 3b
	movl $pointer_table + 3, top_table
	movl $top_table, %eax
	movl %eax, %cr3
	movl $0x620, %eax                   # PAE, OSFXSR, OSXMMEXCPT
	movl %eax, %cr4
	movl $0xc0000080, %ecx              # EFER: LME
	rdmsr
	orl $0x100, %eax
	wrmsr
	movl $0x80000033, %eax              # PG, NE, ET, MP, PE; not EM
	movl %eax, %cr0
	lgdt descriptors_pointer
	ljmp $8, $long_start

.code64
long_start:
	movl $16, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	movl $stack_top, %esp
	movl %ebx, %edi
	call payload_main
5:	hlt
	jmp 5b

.section .rodata.start, "a"
.balign 8
descriptors:
	.quad 0
	.quad 0x00af9b000000ffff            # 8: 64-bit code
	.quad 0x00cf93000000ffff            # 16: data
descriptors_pointer:
	.word descriptors_pointer - descriptors - 1
	.long descriptors

.section .bss.start, "aw", @nobits
.balign 4096
top_table:
	.skip 4096
pointer_table:
	.skip 4096
page_directories:
	.skip 4 * 4096
	.skip 64 * 1024
stack_top:
