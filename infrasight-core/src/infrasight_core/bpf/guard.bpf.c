/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The guard: brings the calls of the 32-bit ABI, which no tracepoint of `syscalls:` shows, to the probes' own programs, and counts
 * those that it cannot bring. It hangs on raw_syscalls:sys_enter and sys_exit and so runs in every call of the machine: what it
 * does in an ordinary one is one load and one comparison. The agent puts the programs into the arrays (kernel/guard.py).
 */
#include "call.bpf.h"

#define CALLS 512 /* greater numbers are no calls */
#define X32_BIT 30
#define ENOSYS 38

enum untraced_way { UNTRACED_COMPAT, UNTRACED_X32, UNTRACED_WAYS };

BPF_PROG_ARRAY(compat_enter, SLOTS);
BPF_PROG_ARRAY(compat_exit, SLOTS);
BPF_ARRAY(wanted, u8, SLOTS); /* the slots that a probe wants to have */
BPF_F_TABLE("array", int, u64, untraced, UNTRACED_WAYS, BPF_F_MMAPABLE);
BPF_HASH(socketcalls, u32, u32, ENTRIES);

static inline void count_untraced(int way) {
  u64 *count = untraced.lookup(&way);
  if (count) __sync_fetch_and_add(count, 1);
}

/* The slot of a call: its number; of socketcall(2), which is many calls in one, behind all numbers, that of the call in it. */
static inline u32 slot_on_enter(struct sys_enter *call) {
  u32 inner = call->args[0], slot = CALLS + inner, tid = bpf_get_current_pid_tgid();
  if (call->number != SOCKETCALL) return call->number < CALLS ? call->number : SLOTS;
  if (inner >= SLOTS - CALLS) return SLOTS;
  u8 *is_wanted = wanted.lookup(&slot);
  if (!is_wanted || !*is_wanted) return SLOTS;
  if (socketcalls.update(&tid, &inner)) count_untraced(UNTRACED_COMPAT); /* at its exit nobody will know which it is */
  return slot;
}

static inline u32 slot_on_exit(struct sys_exit *call) {
  u32 slot = SLOTS, tid = bpf_get_current_pid_tgid();
  if (call->number != SOCKETCALL) return call->number < CALLS ? call->number : SLOTS;
  u32 *inner = socketcalls.lookup(&tid);
  if (inner) {
    slot = CALLS + *inner;
    socketcalls.delete(&tid);
  }
  return slot;
}

int guard_enter(struct sys_enter *call) {
  if (!in_compat_call()) return 0;
  u32 slot = slot_on_enter(call);
  compat_enter.call(call, slot); /* does not come back */
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
  if (call->number >> X32_BIT == 1 && call->ret != -ENOSYS) count_untraced(UNTRACED_X32); /* the x32 ABI: 64-bit calls, other numbers */
  return 0;
}
