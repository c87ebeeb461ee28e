/* uring_calls SETUP_FLAGS CQ_ENTRIES < REQUESTS > RESULTS: submits requests to an io_uring, 32 at a
 * time, and waits for each batch.
 *
 * REQUESTS is copied to the address AREA: the number of requests in 64 bytes, their `struct
 * io_uring_sqe`, and the data that these point to. RESULTS has the result of each request, or
 * NOT_COMPLETED if it had no completion: because it asked for none, or because SETUP_FLAGS has
 * NEVER_TAKE, so that the ring's completions are never read. */
#include <linux/io_uring.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AREA ((char *)0x20000000)
#define AREA_BYTES (16 << 20)
#define BATCH 32
#define NEVER_TAKE (1U << 31)
#define NOT_COMPLETED 0x7fffffff
#define AT(memory, offset) ((unsigned *)((char *)(memory) + (offset)))

static void *map(int ring, size_t size, off_t what) {
  return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, what);
}

static void read_requests(void) {
  ssize_t at = 0;
  ssize_t got;
  mmap(AREA, AREA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  while ((got = read(0, AREA + at, AREA_BYTES - at)) > 0)
    at += got;
}

int main(int argc, char **argv) {
  unsigned setup = argc > 1 ? strtoul(argv[1], NULL, 0) : 0;
  unsigned completions = argc > 2 ? atoi(argv[2]) : 0;
  int never_take = !!(setup & NEVER_TAKE);
  struct io_uring_params p = {.flags = (setup & ~NEVER_TAKE) | IORING_SETUP_SUBMIT_ALL,
                              .sq_thread_idle = 50,
                              .cq_entries = completions};
  read_requests();
  if (completions) p.flags |= IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
  int ring = syscall(SYS_io_uring_setup, completions ? 1 : BATCH, &p);
  if (ring < 0) return 1;
  size_t cq_size = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
  char *sq = map(ring, p.sq_off.array + p.sq_entries * 4, IORING_OFF_SQ_RING);
  char *cq = map(ring, cq_size, IORING_OFF_CQ_RING);
  struct io_uring_sqe *sqes = map(ring, p.sq_entries * sizeof(*sqes), IORING_OFF_SQES);
  struct io_uring_cqe *cqes = (void *)(cq + p.cq_off.cqes);
  unsigned sq_mask = *AT(sq, p.sq_off.ring_mask);
  unsigned cq_mask = *AT(cq, p.cq_off.ring_mask);
  unsigned *cq_head = AT(cq, p.cq_off.head);
  unsigned count = *(unsigned *)AREA;
  struct io_uring_sqe *given = (struct io_uring_sqe *)AREA + 1;
  int32_t *results = malloc(count * sizeof(*results));
  int files[8] = {-1, -1, -1, -1, -1, -1, -1, -1};
  syscall(SYS_io_uring_register, ring, IORING_REGISTER_FILES, files, 8);
  for (unsigned done = 0, batch; done < count; done += batch) {
    unsigned tail = *AT(sq, p.sq_off.tail);
    unsigned wait = 0;
    unsigned flags = never_take ? 0 : IORING_ENTER_GETEVENTS;
    batch = count - done < p.sq_entries ? count - done : p.sq_entries;
    for (unsigned i = 0; i < batch; i++) {
      unsigned slot = (tail + i) & sq_mask;
      sqes[slot] = given[done + i];
      sqes[slot].user_data = done + i;
      AT(sq, p.sq_off.array)[slot] = slot;
      results[done + i] = NOT_COMPLETED;
      wait += !(given[done + i].flags & IOSQE_CQE_SKIP_SUCCESS);
    }
    __atomic_store_n(AT(sq, p.sq_off.tail), tail + batch, __ATOMIC_SEQ_CST);
    unsigned state = __atomic_load_n(AT(sq, p.sq_off.flags), __ATOMIC_SEQ_CST);
    if (state & IORING_SQ_NEED_WAKEUP) flags |= IORING_ENTER_SQ_WAKEUP;
    syscall(SYS_io_uring_enter, ring, batch, never_take ? 0 : wait, flags, NULL, 0);
    if (never_take) continue;
    while (*cq_head != __atomic_load_n(AT(cq, p.cq_off.tail), __ATOMIC_SEQ_CST)) {
      struct io_uring_cqe *cqe = &cqes[*cq_head & cq_mask];
      results[cqe->user_data] = cqe->res;
      if (cqe->res > 2) close(cqe->res);
      __atomic_fetch_add(cq_head, 1, __ATOMIC_SEQ_CST);
    }
  }
  if (never_take) sleep(1); /* the program's end must not cancel the requests of a worker */
  return write(1, results, count * sizeof(*results)) < 0;
}
