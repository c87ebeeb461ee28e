/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * System calls, as the raw tracepoints sys_enter and sys_exit show them. Included by
 * infrasight.bpf.h and dispatcher.bpf.c, after task.bpf.h.
 */

/* The contexts of the raw tracepoints: include/trace/events/syscalls.h. */
struct raw_enter {
  u64 registers;
  long number;
};

struct raw_exit {
  u64 registers;
  long ret;
};

/* A call's entry and exit, for the functions of a SystemCall. */
struct sys_enter {
  long number;
  unsigned long args[6];
};

struct sys_exit {
  long number;
  long ret;
};

/* Values of the column `via`. _VIA in agent/batches.py names them. */
enum via { VIA_SYSCALL, VIA_COMPAT, VIA_IO_URING, VIA_KERNEL };

/* The slots of the dispatcher's arrays, as in kernel/system_calls.py: the numbers of 64-bit calls,
 * those of 32-bit calls, and the calls inside i386's socketcall(2). */
#define CALLS 512 /* greater than every call's number */
#define SOCKETCALLS 32
#define CALL_SLOTS (2 * CALLS + SOCKETCALLS)

/* The members of pt_regs: x86 has the first line, arm64 the second. */
OPTIONAL_FIELDS(pt_regs__orig_ax, pt_regs__bx, pt_regs__cx, pt_regs__dx, pt_regs__si, pt_regs__di,
                pt_regs__bp, pt_regs__r10, pt_regs__r8, pt_regs__r9);
OPTIONAL_FIELDS(pt_regs__syscallno, pt_regs__orig_x0, pt_regs__regs);

/* Tells whether the current task is in a system call of the 32-bit ABI: one of a 32-bit program, or
 * one that a 64-bit program makes with `int $0x80`. The load follows the kernel's own types, so it
 * needs no helper call. */
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

/* The registers with which the current task entered the kernel; at a call's exit they still hold
 * its arguments. The pointer has the kernel's own type, so that REGISTER is a load, where the
 * context's would need a helper call for each read. */
static inline u64 registers_of_call(void) {
  return bpf_task_pt_regs(bpf_get_current_task_btf());
}

/* Reads a register. It is not volatile: what a program does not use is not read. */
#define REGISTER_OF(type, registers, offset)                                                       \
  ({                                                                                               \
    u64 value_;                                                                                    \
    asm("%0 = *(" #type " *)(%1 + %2)" : "=r"(value_) : "r"(registers), "i"(offset));              \
    value_;                                                                                        \
  })
#define REGISTER(registers, offset) REGISTER_OF(u64, registers, offset)

/* The number of the call that ends. */
static inline u32 number_at_exit(u64 registers) {
  if (HAS_FIELD(pt_regs__orig_ax)) return REGISTER(registers, OFFSET_pt_regs__orig_ax);
  return REGISTER_OF(u32, registers, OFFSET_pt_regs__syscallno);
}

static inline u64 first_compat_argument(u64 registers) {
  if (HAS_FIELD(pt_regs__bx)) return REGISTER(registers, OFFSET_pt_regs__bx);
  return REGISTER(registers, OFFSET_pt_regs__orig_x0);
}

/* The slot of a call; CALL_SLOTS if it has none. */
static inline u32 slot_of(u64 registers, u32 number) {
  if (!in_compat_call()) return number < CALLS ? number : CALL_SLOTS;
#ifdef SOCKETCALL
  if (number == SOCKETCALL) {
    u32 inner = first_compat_argument(registers);
    return inner < SOCKETCALLS ? 2 * CALLS + inner : CALL_SLOTS;
  }
#endif
  return number < CALLS ? CALLS + number : CALL_SLOTS;
}
