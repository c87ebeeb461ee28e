/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The guard: forwards calls of the 32-bit ABI, which no tracepoint in `syscalls:` shows, to the
 * probes' own programs, and counts those that it cannot forward. It is attached to
 * raw_syscalls:sys_enter and sys_exit and therefore runs in every system call of the machine; for a
 * 64-bit call it takes one load and one comparison. The agent puts the probes' programs into the
 * arrays (kernel/guard.py).
 */
#include "call.bpf.h"

#define CALLS 512 /* greater than every call's number */
#define X32_BIT 30
#define ENOSYS 38

enum untraced_way { UNTRACED_COMPAT, UNTRACED_X32, UNTRACED_WAYS };

BPF_PROG_ARRAY(compat_enter, SLOTS);
BPF_PROG_ARRAY(compat_exit, SLOTS);
BPF_ARRAY(wanted, u8, SLOTS); /* whether a probe wants the calls of a slot */
BPF_F_TABLE("array", int, u64, untraced, UNTRACED_WAYS, BPF_F_MMAPABLE);
BPF_HASH(socketcalls, u32, u32, ENTRIES); /* the call inside socketcall(2), by thread */

static inline void count_untraced(int way) {
  u64 *count = untraced.lookup(&way);
  if (count) __sync_fetch_and_add(count, 1);
}

/* The slot of a call is its number; SLOTS if it has none. socketcall(2) is many calls in one: the
 * calls inside it have their own slots after all numbers. */
static inline u32 slot_on_enter(struct sys_enter *call) {
  if (call->number != SOCKETCALL) return call->number < CALLS ? call->number : SLOTS;
  u32 inner = call->args[0];
  u32 slot = CALLS + inner;
  u32 thread = bpf_get_current_pid_tgid();
  if (inner >= SLOTS - CALLS) return SLOTS;
  u8 *is_wanted = wanted.lookup(&slot);
  if (!is_wanted || !*is_wanted) return SLOTS;
  /* Without room, the exit cannot find out which call it was. */
  if (socketcalls.update(&thread, &inner)) count_untraced(UNTRACED_COMPAT);
  return slot;
}

static inline u32 slot_on_exit(struct sys_exit *call) {
  if (call->number != SOCKETCALL) return call->number < CALLS ? call->number : SLOTS;
  u32 thread = bpf_get_current_pid_tgid();
  u32 slot = SLOTS;
  u32 *inner = socketcalls.lookup(&thread);
  if (inner) {
    slot = CALLS + *inner;
    socketcalls.delete(&thread);
  }
  return slot;
}

int guard_enter(struct sys_enter *call) {
  if (!in_compat_call()) return 0;
  u32 slot = slot_on_enter(call);
  compat_enter.call(call, slot); /* returns only if the slot has no program */
  u8 *is_wanted = wanted.lookup(&slot);
  if (is_wanted && *is_wanted) count_untraced(UNTRACED_COMPAT);
  return 0;
}

int guard_exit(struct sys_exit *call) {
  if (in_compat_call()) {
    u32 slot = slot_on_exit(call);
    compat_exit.call(call, slot);
    return 0;
  }
  /* The x32 ABI: 64-bit calls with other numbers. */
  bool is_x32 = call->number >> X32_BIT == 1;
  if (is_x32 && call->ret != -ENOSYS) count_untraced(UNTRACED_X32);
  return 0;
}
