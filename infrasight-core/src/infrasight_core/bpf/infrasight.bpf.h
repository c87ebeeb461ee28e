/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The header that a probe's C includes. The probe first lists its columns and declares what it
 * stores from a call's entry to its exit:
 *
 *   #define COLUMNS(FIXED, CHARS, TEXT) FIXED(u32, flags) TEXT(path, 4096, 64)
 *   struct entry { u64 time; const char *path; u32 flags; };
 *   #include "infrasight.bpf.h"
 *
 * FIXED is a number, CHARS a string in an array of fixed width, TEXT a string of variable length:
 * at most the first number of bytes (a power of two), about the second on average.
 *
 * Each CPU has a block: an array for each column, and for each TEXT column a heap and an array of
 * ends. A program writes an event into the slot at `_head`, column by column, and moves `_head`
 * last. The agent maps the blocks, copies the columns up to `_head` (kernel/block.py), and moves
 * `_tail`. Names that begin with an underscore or contain two in a row belong to this header.
 *
 * Functions for system calls and on tracepoints may write to a block: they have it to themselves
 * while they run (handler.bpf.h). A program on a kernel function (KernelFunction) is compiled
 * `#ifdef HAVE_<its name>`; it takes `u64 *arguments`, returns 0, and writes to a map of its probe,
 * from which the function at the call's exit fills the row.
 *
 * The agent compiles with warnings enabled and logs each with its file and line.
 */
#define PATH_BYTES 4096
#define PATH_DEPTH 128 /* the most components and mounts of a path */
#define NEAR_BYTES 512
#define EXE_CACHE_BYTES 256
#define CURRENT_DIRECTORY (-100)

#include "task.bpf.h"
#include "call.bpf.h"

/* The header: the columns that every event has. Each entry also gets the list's own further
 * arguments, for macros that need more than the column. */
#define HEADER_COLUMNS(FIXED, CHARS, ...)                                                          \
  FIXED(u64, time, __VA_ARGS__)                                                                    \
  FIXED(u64, duration_ns, __VA_ARGS__)                                                             \
  FIXED(u64, process_key, __VA_ARGS__)                                                             \
  FIXED(u64, parent_process_key, __VA_ARGS__)                                                      \
  FIXED(u64, grandparent_process_key, __VA_ARGS__)                                                 \
  FIXED(u64, cgroup_id, __VA_ARGS__)                                                               \
  FIXED(u64, quality, __VA_ARGS__)                                                                 \
  FIXED(u32, pid, __VA_ARGS__)                                                                     \
  FIXED(u32, tid, __VA_ARGS__)                                                                     \
  FIXED(u32, ppid, __VA_ARGS__)                                                                    \
  FIXED(u32, uid, __VA_ARGS__)                                                                     \
  FIXED(u32, gid, __VA_ARGS__)                                                                     \
  FIXED(s32, return_code, __VA_ARGS__)                                                             \
  FIXED(u8, via, __VA_ARGS__)                                                                      \
  CHARS(comm, 16, __VA_ARGS__)

#ifndef FLAGS /* the probe's own flags in the column `quality`: FLAG(name) … */
#define FLAGS(FLAG)
#endif

/* The declarations that are made from the lists. A column's array is of bytes, because LLVM writes
 * an array of u64 element by element (0.5 s for 16,384) and an array of char at once. The column's
 * type stands before it as an array without elements, for the agent to read from the layout. The
 * widths are literals, because BCC's layout description fails on a sizeof in an array's bound. */
#define WIDTH_u8 1
#define WIDTH_u16 2
#define WIDTH_u32 4
#define WIDTH_s32 4
#define WIDTH_u64 8
#define WIDTH_s64 8

#define NOTHING(...)
#define FLAG_INDEX(name) FLAG_##name,
#define FLAG_MEMBER(name) char name##__flag[0];
#define COLUMN_TYPE(type, name, ...) typedef type name##_column;
#define HEADER_MEMBER(type, name, ...) type name;
#define TEXT_INDEX(name, max, mean) TEXT_##name,
#define TEXT_SIZES(name, max, mean)                                                                \
  name##_max = (max), name##_heap_size = SLOTS * (mean) > 4 * (max) ? SLOTS * (mean) : 4 * (max),
#define FIXED_ARRAY(type, name, ...)                                                               \
  type name##__type[0];                                                                            \
  char name[SLOTS * WIDTH_##type];
#define CHARS_ARRAY(name, width, ...) char name[SLOTS * (width)];
/* A heap has a guard behind it, so that a string that runs past the end does not wrap. */
#define TEXT_ARRAYS(name, max, mean)                                                               \
  char name##__end[SLOTS * 4];                                                                     \
  char name##__heap[name##_heap_size + 2 * (max) + 8];

HEADER_COLUMNS(COLUMN_TYPE, NOTHING)
COLUMNS(COLUMN_TYPE, NOTHING, NOTHING)
enum text { COLUMNS(NOTHING, NOTHING, TEXT_INDEX) TEXTS };
enum flag { FLAGS(FLAG_INDEX) FLAG_COUNT };
enum sizes { COLUMNS(NOTHING, NOTHING, TEXT_SIZES) };

/* The FIXED columns of the header, of one event. */
struct header {
  HEADER_COLUMNS(HEADER_MEMBER, NOTHING)
};

/* The state of a walk from a file to the root (path.bpf.h): its position, what it has read, and the
 * path so far, which ends at PATH_BYTES in `scratch`. It lies in a map: in the block, or in a map
 * of a program that may not write to blocks. */
struct walk {
  u64 dentry, mount, root, outer, mountpoint, at, is_deleted, spare[9];
  u64 near[NEAR_BYTES / 8]; /* members of a kernel struct, read at once */
  char scratch[PATH_BYTES + 512];
};
#define WALK_BYTES 5248
_Static_assert(sizeof(struct walk) == WALK_BYTES, "a block holds a walk");

/* The block of one CPU. The state of the event at `_head` (its quality, the length of each text,
 * the position of a walk) lies in the block, not on the stack: the verifier takes a value that is
 * loaded from a map for an unknown number, so that it checks a round of a loop once and not on
 * every path through all rounds. */
struct block {
  u64 _head, _heap_head[15]; /* moved by the program */
  u64 _tail, _heap_tail[15]; /* moved by the agent; on separate cache lines */
  u64 _seen, _filtered, _block_full, _heap_full, _submitted; /* the agent reads these at once */
  u64 _entries_full, _untraced;
  u64 _skipped, _held, _spare[7]; /* handler.bpf.h */
  u64 _quality, _length[15];
  u64 _filters, _prefix[33];                /* filter.bpf.h: state of the event */
  char _walk[WALK_BYTES];                   /* a `struct walk` */
  u64 _exe_place, _exe_length, _exe_number; /* exe.bpf.h: cached from event to event */
  char _exe[EXE_CACHE_BYTES];
  HEADER_COLUMNS(FIXED_ARRAY, CHARS_ARRAY)
  COLUMNS(FIXED_ARRAY, CHARS_ARRAY, TEXT_ARRAYS)
  FLAGS(FLAG_MEMBER)
};

BPF_F_TABLE("array", int, struct block, blocks, CPUS, BPF_F_MMAPABLE);

/* The sizes of the TEXT columns, and where their ends lie in the block. */
struct text_column {
  u32 max, heap_size, ends;
};
#define TEXT_COLUMN(name, max, mean)                                                               \
  {name##_max, name##_heap_size, __builtin_offsetof(struct block, name##__end)},
static const struct text_column text_columns[] = {COLUMNS(NOTHING, NOTHING, TEXT_COLUMN)};

/* The bits of the column `quality`: bit 0, then three bits for each TEXT column, then one bit for
 * each flag of the probe. flag_names in plugin/quality.py names them. */
#define ENTRY_MISSING 1ULL
#define TEXT_FLAGS(name, bits) ((u64)(bits) << (1 + 3 * TEXT_##name))
#define TEXT_CUT(name) TEXT_FLAGS(name, 1)
#define TEXT_MISSING(name) TEXT_FLAGS(name, 2)
#define TEXT_USER_MEMORY(name) TEXT_FLAGS(name, 4)
#define FLAG(name) (1ULL << (1 + 3 * TEXTS + FLAG_##name))
#define QUALITY_CANARY (1ULL << 63) /* an event of the canary; the agent takes it out */
_Static_assert(1 + 3 * TEXTS + FLAG_COUNT < 64, "too many TEXT columns and flags");

/* The event's slot, and its place in a column. */
#define SLOT(b) ((b)->_head & (SLOTS - 1))
#define SET(b, name, value) (((name##_column *)(b)->name)[SLOT(b)] = (value))
#define GET(b, name) (((name##_column *)(b)->name)[SLOT(b)])
#define CHARS_AT(b, name, width) (&(b)->name[SLOT(b) * (width)])

static inline struct block *this_block(void) {
  int cpu = bpf_get_smp_processor_id();
  return blocks.lookup(&cpu);
}

#include "text.bpf.h"
#include "filter.bpf.h"
#include "entry.bpf.h"

/* Prepares the next slot of a block. Returns NULL, and counts the reason, if there is none. */
static inline struct block *next_slot(struct block *b) {
  if (b->_head - b->_tail >= SLOTS) {
    b->_block_full++;
    return NULL;
  }
#pragma unroll
  for (int text = 0; text < TEXTS; text++) {
    u64 used = b->_heap_head[text] - b->_heap_tail[text];
    if (used + text_columns[text].max > text_columns[text].heap_size) {
      b->_heap_full++;
      return NULL;
    }
    b->_length[text] = 0;
  }
  b->_quality = 0;
  ((struct walk *)b->_walk)->mount = 0; /* no mount has been read for this event */
  return b;
}

/* Begins an event of the current task. Returns NULL, and counts the reason, if the event is
 * filtered or the block has no room. */
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

/* Begins an event of another task, which has passed the filters before. */
static inline struct block *begin_for_other(void) {
  struct block *b = this_block();
  if (!b) return NULL;
  b->_seen++;
  b->_filters = 0;
  return next_slot(b);
}

/* Fills the members of a header that identify the current task. */
static inline void read_task(struct header *header) {
  u64 ids = bpf_get_current_pid_tgid();
  u64 user = bpf_get_current_uid_gid();
  u64 task = CURRENT_TASK;
  u64 parent = MEMBER(u64, task, task_struct__real_parent);
  u64 grandparent = MEMBER(u64, parent, task_struct__real_parent);
  header->pid = ids >> 32;
  header->tid = ids;
  header->ppid = MEMBER(u32, parent, task_struct__tgid);
  header->process_key = process_key_of(task, header->pid);
  header->parent_process_key = process_key_of(parent, header->ppid);
  header->grandparent_process_key =
      process_key_of(grandparent, MEMBER(u32, grandparent, task_struct__tgid));
  header->uid = user;
  header->gid = user >> 32;
  header->cgroup_id = cgroup_of(task);
}

/* Fills the FIXED columns of the header. */
#define SET_FROM(type, name, b, header) SET(b, name, (header)->name);
static inline void set_header(struct block *b, struct header *header) {
  HEADER_COLUMNS(SET_FROM, NOTHING, b, header)
}

/* Fills all columns of the header for an event of the current task, which ends now. If `began` is 0
 * the event's beginning is unknown; it then begins now. */
static inline void fill_header(struct block *b, u64 began, int result, enum via way) {
  u64 now = bpf_ktime_get_boot_ns();
  struct header header = {.time = began ? began : now, .return_code = result, .via = way};
  header.duration_ns = now - header.time;
  read_task(&header);
  drop_if_started_by_agent(b, header.ppid);
  set_header(b, &header);
  bpf_get_current_comm(CHARS_AT(b, comm, 16), 16);
}

/* The same for a system call. `entry` may be NULL: the row is then flagged ENTRY_MISSING. */
static inline void common(struct block *b, struct entry *entry, int result) {
  if (!entry) b->_quality |= ENTRY_MISSING;
  fill_header(b, entry ? entry->time : 0, result, in_compat_call() ? VIA_COMPAT : VIA_SYSCALL);
}

#include "path.bpf.h"
#include "exe.bpf.h"
#include "handler.bpf.h"

/* Publishes the event, unless the filters reject it. An event of the canary is published, too, but
 * counts as filtered, because it never becomes a row. The atomic addition is fully ordered on every
 * architecture because its result is used: a reader that sees the new head also sees all that was
 * written before it. */
static inline void commit(struct block *b) {
  if (event_is_filtered(b)) {
    b->_filtered++;
    return;
  }
  bool is_canary_event = b->_filters & FILTER_CANARY;
  SET(b, quality, b->_quality | (is_canary_event ? QUALITY_CANARY : 0));
#pragma unroll
  for (int text = 0; text < TEXTS; text++) {
    u32 *ends = (u32 *)((char *)b + text_columns[text].ends);
    b->_heap_head[text] += b->_length[text];
    ends[SLOT(b)] = b->_heap_head[text];
  }
  if (is_canary_event)
    b->_filtered++;
  else
    b->_submitted++;
  if (__sync_fetch_and_add(&b->_head, 1) == ~0ULL) b->_seen++;
}
