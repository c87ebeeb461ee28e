/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What a probe's C includes. The probe lists its columns once, says what it keeps from a call's entry to its exit, and
 * includes this file:
 *
 *   #define COLUMNS(FIXED, CHARS, TEXT) FIXED(u32, flags) CHARS(parent_comm, 16) TEXT(path, 4096, 64)
 *   struct entry { u64 time; const char *path; u32 flags; };
 *   #include "infrasight.bpf.h"
 *
 * FIXED is a number, CHARS a string in a fixed width, TEXT a string at its own length: at most the second number of bytes
 * (a power of two) and about the third on average. Every CPU has a block: an array per column, and for each TEXT column a
 * heap and an array of ends. A program writes an event into the slot at `_head`, field by field, and moves `_head` last;
 * the agent has the block mapped, takes slices of the columns up to `_head`, and moves `_tail`.
 * Names that begin with an underscore, or hold two in a row, are the header's own.
 *
 * Only programs on perf-type tracepoints (syscalls:, sched:, sock: …) may write a block: they run with preemption off and
 * never nest on a CPU, so a block has one writer at a time. A program on a function of the kernel (KernelFunction) is compiled
 * `#ifdef HAVE_<its name>`; it takes `u64 *arguments`, returns 0, and writes a map of the probe's own, from which the program
 * at the call's exit fills the row.
 */
#define PATH_BYTES 4096
#define PATH_DEPTH 128 /* components and mounts that a path may have */
#define NEAR_BYTES 512
#define CURRENT_DIRECTORY (-100)

#include "call.bpf.h"

#define DATA_LOC(context, member) ((char *)(context) + ((context)->member & 0xffff))

/* The columns that every event has, filled by common(). */
#define HEADER_COLUMNS(FIXED, CHARS)                                                                                           \
  FIXED(u64, time)                                                                                                             \
  FIXED(u64, duration_ns)                                                                                                      \
  FIXED(u64, process_key)                                                                                                      \
  FIXED(u64, parent_process_key)                                                                                               \
  FIXED(u64, grandparent_process_key)                                                                                          \
  FIXED(u64, cgroup_id)                                                                                                        \
  FIXED(u64, quality)                                                                                                          \
  FIXED(u32, pid)                                                                                                              \
  FIXED(u32, tid)                                                                                                              \
  FIXED(u32, ppid)                                                                                                             \
  FIXED(u32, uid)                                                                                                              \
  FIXED(u32, gid)                                                                                                              \
  FIXED(s32, return_code)                                                                                                      \
  FIXED(u8, via)                                                                                                               \
  CHARS(comm, 16)

/* A column's array is of bytes, because LLVM writes an array of u64 out element by element (0.5 s per 16,384) and char in no
 * time; its type stands before it as an array of no elements, for the agent to read from the layout. Widths are numbers,
 * because BCC's layout description trips over a sizeof in an array bound. */
#define WIDTH_u8 1
#define WIDTH_u16 2
#define WIDTH_u32 4
#define WIDTH_s32 4
#define WIDTH_u64 8
#define WIDTH_s64 8

#ifndef FLAGS /* what else a row may say of itself in `quality`: FLAG(name) … */
#define FLAGS(FLAG)
#endif
#define NOTHING(...)
#define FLAG_INDEX(name) FLAG_##name,
#define FLAG_MEMBER(name) char name##__flag[0];
#define FIXED_TYPE(type, name) typedef type name##_column;
#define TEXT_INDEX(name, max, mean) TEXT_##name,
#define TEXT_SIZES(name, max, mean) name##_max = max, name##_heap_size = SLOTS * mean > 4 * max ? SLOTS * mean : 4 * max,
#define FIXED_ARRAY(type, name)                                                                                                \
  type name##__type[0];                                                                                                        \
  char name[SLOTS * WIDTH_##type];
#define CHARS_ARRAY(name, width) char name[SLOTS * width];
#define TEXT_ARRAYS(name, max, mean)                                                                                           \
  char name##__end[SLOTS * 4];                                                                                                 \
  char name##__heap[name##_heap_size + 2 * max + 8]; /* a string may run past the end, so that it never wraps */

HEADER_COLUMNS(FIXED_TYPE, NOTHING)
COLUMNS(FIXED_TYPE, NOTHING, NOTHING)
enum text { COLUMNS(NOTHING, NOTHING, TEXT_INDEX) TEXTS };
enum flag { FLAGS(FLAG_INDEX) FLAG_COUNT };
enum sizes { COLUMNS(NOTHING, NOTHING, TEXT_SIZES) };

/* A walk from a file to the root (path.bpf.h): where it is, what it has read, and the path so far, from the end of the first
 * PATH_BYTES on. It lies in a map: in the block, or in a map of a program that may not write blocks. */
struct walk {
  u64 dentry, mount, root, outer, mountpoint, at, is_deleted, spare[9];
  u64 near[NEAR_BYTES / 8]; /* members of a kernel struct that are read at once */
  char scratch[PATH_BYTES + 512];
};
#define WALK_BYTES 5248
_Static_assert(sizeof(struct walk) == WALK_BYTES, "a block holds a walk");

/* A CPU's block. What is being written of the event at `_head` stands in the block too (its quality, the length of each text, a
 * walk's position), not on the stack: to the verifier, what it loads from a map is any number, so that it checks the rounds of
 * a loop once each and not every way through all of them. */
struct block {
  u64 _head, _heap_head[15]; /* moved by the program */
  u64 _tail, _heap_tail[15]; /* moved by the agent, on cache lines of their own */
  u64 _seen, _filtered, _block_full, _heap_full, _submitted, _entries_full, _untraced, _counters[9]; /* read at once */
  u64 _quality, _length[15];
  u64 _filters, _prefix[33];                /* what filter.bpf.h keeps of the event */
  char _walk[WALK_BYTES];                   /* a `struct walk` */
  u64 _exe_place, _exe_length, _exe_number; /* what exe.bpf.h keeps from event to event */
  char _exe[256];
  HEADER_COLUMNS(FIXED_ARRAY, CHARS_ARRAY)
  COLUMNS(FIXED_ARRAY, CHARS_ARRAY, TEXT_ARRAYS)
  FLAGS(FLAG_MEMBER)
};

BPF_F_TABLE("array", int, struct block, blocks, CPUS, BPF_F_MMAPABLE);

/* What a row says of itself: bit 0, then three bits for each TEXT column, then one for each of the probe's own flags. */
#define ENTRY_MISSING 1ULL
#define TEXT_FLAGS(name, bits) ((u64)(bits) << (1 + 3 * TEXT_##name))
#define TEXT_CUT(name) TEXT_FLAGS(name, 1)
#define TEXT_MISSING(name) TEXT_FLAGS(name, 2)
#define TEXT_USER_MEMORY(name) TEXT_FLAGS(name, 4)
#define FLAG(name) (1ULL << (1 + 3 * TEXTS + FLAG_##name))

static inline struct block *this_block(void) {
  int cpu = bpf_get_smp_processor_id();
  return blocks.lookup(&cpu);
}

#include "task.bpf.h"

#include "filter.bpf.h"

#include "entry.bpf.h"

#define HEAP_ROOM(name, max, mean)                                                                                             \
  if (b->_heap_head[TEXT_##name] - b->_heap_tail[TEXT_##name] + max > name##_heap_size) {                                      \
    b->_heap_full++;                                                                                                           \
    return NULL;                                                                                                               \
  }
#define NO_TEXT(name, max, mean) b->_length[TEXT_##name] = 0;

/* Takes the next slot of a block; NULL, and counted why, where there is none. */
static inline struct block *next_slot(struct block *b) {
  if (b->_head - b->_tail >= SLOTS) {
    b->_block_full++;
    return NULL;
  }
  COLUMNS(NOTHING, NOTHING, HEAP_ROOM)
  COLUMNS(NOTHING, NOTHING, NO_TEXT)
  b->_quality = 0;
  ((struct walk *)b->_walk)->mount = 0; /* none has been read for this event */
  return b;
}

/* Takes the next slot of this CPU's block; NULL, and counted why, where there is none or the event is filtered. */
static inline struct block *begin(void) {
  struct block *b = this_block();
  if (!b) return NULL;
  b->_seen++;
  if (task_is_filtered(b)) {
    b->_filtered++;
    return NULL;
  }
  return next_slot(b);
}

/* The same for an event that is not the current task's: whether it is wanted has been decided before. */
static inline struct block *begin_for_other(void) {
  struct block *b = this_block();
  if (!b) return NULL;
  b->_seen++;
  b->_filters = 0;
  return next_slot(b);
}

#define SLOT(b) ((b)->_head & (SLOTS - 1))
#define SET(b, name, value) (((name##_column *)(b)->name)[SLOT(b)] = (value))
#define GET(b, name) (((name##_column *)(b)->name)[SLOT(b)])
#define CHARS_AT(b, name, width) (&(b)->name[SLOT(b) * width])

/* Makes the compiler forget what it knows of a number, so that the check that follows is of the very register that is used:
 * the verifier does not see that a check of one number bounds another that was computed from it. */
#define OPAQUE(number) asm volatile("" : "+r"(number))

/* Fills the header's columns, of the current task; what began at an unknown time, 0, begins now. */
static inline void header(struct block *b, u64 time, int return_code, enum via via) {
  u64 now = bpf_ktime_get_boot_ns(), began = time ? time : now, ids = bpf_get_current_pid_tgid();
  u64 user = bpf_get_current_uid_gid();
  u64 task = CURRENT_TASK, parent = MEMBER(u64, task, task_struct__real_parent);
  u32 ppid = MEMBER(u32, parent, task_struct__tgid);
  SET(b, time, began);
  SET(b, duration_ns, now - began);
  SET(b, pid, ids >> 32);
  SET(b, tid, ids);
  SET(b, ppid, ppid);
  FILTER_PARENT(b, ppid);
  SET(b, process_key, process_key(task, ids >> 32));
  SET(b, parent_process_key, process_key(parent, ppid));
  SET(b, grandparent_process_key, key_of(MEMBER(u64, parent, task_struct__real_parent)));
  SET(b, uid, user);
  SET(b, gid, user >> 32);
  SET(b, cgroup_id, cgroup_of(task));
  SET(b, return_code, return_code);
  SET(b, via, via);
  bpf_get_current_comm(CHARS_AT(b, comm, 16), 16);
}

/* The same, of a call. */
static inline void common(struct block *b, struct entry *entry, int return_code) {
  if (!entry) b->_quality |= ENTRY_MISSING;
  header(b, entry ? entry->time : 0, return_code, in_compat_call() ? VIA_COMPAT : VIA_SYSCALL);
}

/* Which process loads this program's loader: the agent, as the kernel numbers it, whatever its pid namespace says. Run once, by
 * the loader; hung nowhere. */
int agent_process(void *context) {
  void *parent = FIELD(void *, bpf_get_current_task(), task_struct__real_parent);
  return FIELD(u32, parent, task_struct__tgid);
}

#include "text.bpf.h"
#include "path.bpf.h"
/* It needs the former. */
#include "exe.bpf.h"

#define COMMIT_TEXT(name, max, mean)                                                                                           \
  b->_heap_head[TEXT_##name] += TEXT_LENGTH(b, name);                                                                          \
  ((u32 *)b->name##__end)[SLOT(b)] = b->_heap_head[TEXT_##name];

/* Publishes the event, unless it is filtered. The fetching form of the addition is fully ordered on every architecture: whoever
 * sees the new head sees all that was written before it. */
static inline void commit(struct block *b) {
  if (event_is_filtered(b)) {
    b->_filtered++;
    return;
  }
  SET(b, quality, b->_quality);
  COLUMNS(NOTHING, NOTHING, COMMIT_TEXT)
  b->_submitted++;
  if (__sync_fetch_and_add(&b->_head, 1) == ~0ULL) b->_seen++;
}
