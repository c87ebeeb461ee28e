/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * System calls as the tracepoints show them. Included by infrasight.bpf.h and guard.bpf.c.
 */

/* The contexts of the system call tracepoints, as their format files describe them. They are the
 * same for `syscalls:` and `raw_syscalls:`. All tracepoints share the first 8 bytes. */
struct sys_enter {
  u64 common;
  long number;
  unsigned long args[6];
};

struct sys_exit {
  u64 common;
  long number;
  long ret;
};

/* Values of the column `via`. _VIA in agent/batches.py names them. */
enum via { VIA_SYSCALL, VIA_COMPAT, VIA_IO_URING, VIA_KERNEL };

/* Tells whether the current task is in a system call of the 32-bit ABI: one of a 32-bit program, or
 * one that a 64-bit program makes with `int $0x80`. No tracepoint in `syscalls:` shows these calls;
 * the guard (guard.bpf.c) forwards them. The load follows the kernel's own types, so it needs no
 * helper call. */
static inline bool in_compat_call(void) {
#ifdef COMPAT_MASK
  return *(u32 *)((char *)bpf_get_current_task_btf() + COMPAT_OFFSET) & COMPAT_MASK;
#else
  return false;
#endif
}

/* An argument that is a pointer. In a 32-bit call the kernel ignores the upper half of the
 * register. */
static inline void *pointer(unsigned long argument) {
  return (void *)(in_compat_call() ? (u32)argument : argument);
}

/* Reads the arguments of a call that came through socketcall(2): 32-bit programs pass them in
 * memory. Copies the first `count` of them to `to`; returns false if they cannot be read. For
 * programs that the guard calls, that is, whose tracepoint has `compat=socketcall(n)`. */
static inline bool socketcall_arguments(struct sys_enter *call, u32 *to, u32 count) {
  return !bpf_probe_read_user(to, count * sizeof(*to), pointer(call->args[1]));
}
