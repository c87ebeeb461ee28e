/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * The socket of a request of io_uring. A header that says REQUEST_MEMBERS includes this one in place of uring.bpf.h.
 */
#include "uring.bpf.h"

#define FIXED_FILE 1 /* IOSQE_FIXED_FILE: the number is the ring's own, of a file that was registered */

/* The descriptor that a request names, -1 for one of the ring's own; when it is submitted, and not later. */
static inline int uring_fd(char *req) {
  return FIELD(u32, req, io_kiocb__flags) & FIXED_FILE ? -1 : FIELD(int, req, io_kiocb__cqe__fd);
}

/* The kernel's `struct sock` that a request works on; NULL before it has been begun, and where there is none. */
static inline char *uring_sock(char *req) {
  return req ? sock_of(FIELD(char *, req, io_kiocb__file)) : NULL;
}
