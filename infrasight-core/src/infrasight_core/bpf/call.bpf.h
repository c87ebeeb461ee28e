/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Calls as they come into the kernel. Included by infrasight.bpf.h and guard.bpf.c.
 */
/* The contexts of the tracepoints of system calls, as in their format files, of `syscalls:` and of `raw_syscalls:` alike; the
 * first 8 bytes are common to all. */
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

/* The column `via`; agent/batches.py has their names. */
enum via { VIA_SYSCALL, VIA_COMPAT, VIA_IO_URING };

/* Whether the current task is in a call of the 32-bit ABI: of a 32-bit program, or of any that makes `int $0x80`. No tracepoint
 * of `syscalls:` shows such a call: the guard brings it. The task is read as the kernel's own code reads it, without a call. */
static inline bool in_compat_call(void) {
#ifdef COMPAT_MASK
  return *(u32 *)((char *)bpf_get_current_task_btf() + COMPAT_OFFSET) & COMPAT_MASK;
#else
  return false;
#endif
}

/* An argument that is a pointer. Of a 32-bit call the kernel takes the lower half, whatever the upper one holds. */
static inline void *pointer(unsigned long argument) {
  return (void *)(in_compat_call() ? (u32)argument : argument);
}

/* The arguments of one of socketcall(2)'s calls, which 32-bit programs have in memory: `count` of them, as many as `to` holds;
 * false where they cannot be read. A program that the guard calls for SOCKETCALL(n) finds them so. */
static inline bool socketcall_arguments(struct sys_enter *call, u32 *to, u32 count) {
  return !bpf_probe_read_user(to, count * sizeof(*to), pointer(call->args[1]));
}
