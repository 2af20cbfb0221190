# SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
# The four functions that compiled Rust code expects from a C library.

.section .text.memory, "ax"
.code64
.global memcpy
memcpy:
	movq %rdi, %rax
	movq %rdx, %rcx
	rep movsb
	ret

.global memmove
memmove:
	movq %rdi, %rax
	movq %rdx, %rcx
	movq %rdi, %r8
	subq %rsi, %r8                      # below the length only if the end of the source would be overwritten
	cmpq %rdx, %r8
	jb 2f
	rep movsb
	ret
2:	leaq -1(%rdi,%rdx), %rdi
	leaq -1(%rsi,%rdx), %rsi
	std
	rep movsb
	cld
	ret

.global memset
memset:
	movq %rdi, %r8
	movl %esi, %eax
	movq %rdx, %rcx
	rep stosb
	movq %r8, %rax
	ret

.global bcmp
.global memcmp
bcmp:
memcmp:
	xorl %eax, %eax
	movq %rdx, %rcx
	cmpq %rcx, %rcx                     # nothing is equal to nothing
	repe cmpsb
	je 2f
	movzbl -1(%rdi), %eax
	movzbl -1(%rsi), %ecx
	subl %ecx, %eax
2:	ret
