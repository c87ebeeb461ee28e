/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Sockets as the kernel has them. A probe includes this file behind infrasight.bpf.h; the offsets that it needs come with it.
 * SET_SOCKET and SET_TUPLE fill columns of these names, which the probe lists:
 *
 *   FIXED(u32, family) FIXED(u32, socket_type) FIXED(u32, protocol)
 *   CHARS(local_address, 16) CHARS(remote_address, 16) FIXED(u32, local_port) FIXED(u32, remote_port)
 */
#define AF_UNIX 1
#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_RAW 3

/* The two ends of a connection: addresses as IPv6 in network order, IPv4 as ::ffff:a.b.c.d, none as zeros; ports as numbers. */
struct tuple {
  u32 local[4], remote[4], local_port, remote_port;
};

/* The kernel's `struct sock` behind a `struct file`; NULL where it is no socket. A Unix socket's name in a file system, opened
 * with O_PATH, has the same mode and no `struct socket`. */
static inline char *sock_of(char *file) {
  u16 mode = FIELD(u16, FIELD(char *, file, file__f_inode), inode__i_mode);
  char *socket = FIELD(char *, file, file__private_data);
  if (!file || (mode & 0170000) != 0140000 || FIELD(char *, socket, socket__file) != file) return NULL;
  return FIELD(char *, socket, socket__sk);
}

static inline void map_ipv4(u32 *to, u32 address) {
  to[0] = to[1] = 0;
  to[2] = address ? __builtin_bswap32(0xffff) : 0;
  to[3] = address;
}

static inline void read_tuple(struct tuple *tuple, char *sk) {
  u16 family = FIELD(u16, sk, sock_common__skc_family);
  if (family == AF_INET) {
    map_ipv4(tuple->local, FIELD(u32, sk, sock_common__skc_rcv_saddr));
    map_ipv4(tuple->remote, FIELD(u32, sk, sock_common__skc_daddr));
  } else if (family == AF_INET6) {
    bpf_probe_read_kernel(tuple->local, 16, sk + OFFSET_sock_common__skc_v6_rcv_saddr);
    bpf_probe_read_kernel(tuple->remote, 16, sk + OFFSET_sock_common__skc_v6_daddr);
  }
  if ((family != AF_INET && family != AF_INET6) || FIELD(u16, sk, sock__sk_type) == SOCK_RAW) return;
  tuple->local_port = __builtin_bswap16(FIELD(u16, sk, inet_sock__inet_sport)); /* stays when the kernel gives the port up */
  tuple->remote_port = __builtin_bswap16(FIELD(u16, sk, sock_common__skc_dport));
  if (!tuple->remote_port && FIELD(u16, sk, sock__sk_type) == SOCK_STREAM) map_ipv4(tuple->remote, 0); /* of one that is over */
}

#define SET_TUPLE(b, pair)                                                                                                     \
  ({                                                                                                                           \
    struct tuple *from_ = (pair);                                                                                              \
    __builtin_memcpy(CHARS_AT(b, local_address, 16), from_->local, 16);                                                        \
    __builtin_memcpy(CHARS_AT(b, remote_address, 16), from_->remote, 16);                                                      \
    SET(b, local_port, from_->local_port);                                                                                     \
    SET(b, remote_port, from_->remote_port);                                                                                   \
  })

/* What kind of socket it is; zeros for none. */
#define SET_SOCKET(b, sk)                                                                                                      \
  ({                                                                                                                           \
    char *sk_ = (sk);                                                                                                          \
    SET(b, family, FIELD(u16, sk_, sock_common__skc_family));                                                                  \
    SET(b, socket_type, FIELD(u16, sk_, sock__sk_type));                                                                       \
    SET(b, protocol, FIELD(u16, sk_, sock__sk_protocol));                                                                      \
  })

/* The name of a Unix socket: a path without the NUL that ends it, or an abstract name's bytes, whose first is NUL; nothing where
 * it has none. */
#define SET_UNIX_PATH(b, name, sk)                                                                                             \
  ({                                                                                                                           \
    char *address_ = FIELD(char *, sk, unix_sock__addr);                                                                       \
    u64 bytes_ = address_ ? FIELD(u32, address_, unix_address__len) - 2 : 0;                                                   \
    SET_UNIX_NAME(b, name, bpf_probe_read_kernel, address_ + OFFSET_unix_address__name + 2, bytes_);                           \
  })

/* Bytes of `sockaddr_un.sun_path`, 108 and perhaps the kernel's own NUL; behind the one that ends a path may be anything. */
#define SET_UNIX_NAME(b, name, read, pointer, bytes)                                                                           \
  ({                                                                                                                           \
    char *path_ = (pointer), first_ = 0;                                                                                       \
    u64 wanted_ = (bytes);                                                                                                     \
    long failed_ = wanted_ ? read(&first_, 1, path_) : 0;                                                                      \
    if (wanted_ > 109) failed_ = -1;                                                                                           \
    OPAQUE(wanted_); /* so that the mask stays, from which 6.12 knows the bound */                                             \
    wanted_ &= 127;                                                                                                            \
    if (failed_)                                                                                                               \
      (b)->_quality |= TEXT_MISSING(name);                                                                                     \
    else if (first_)                                                                                                           \
      TAKE_STRING(b, name, read##_str(TEXT_AT(b, name), wanted_ + 1, path_));                                                  \
    else if (wanted_ && read(TEXT_AT(b, name), wanted_, path_))                                                                \
      (b)->_quality |= TEXT_MISSING(name);                                                                                     \
    else                                                                                                                       \
      TEXT_LENGTH(b, name) = wanted_;                                                                                          \
  })

struct user_address {
  u16 family, port;
  u32 ipv4, ipv6[4];
};

/* The remote address as the caller's memory has it, a `struct sockaddr` of so many bytes: into remote_address and remote_port or
 * unix_path. The probe has the flags remote_address_missing and remote_address_user_memory. */
#define SET_USER_ADDRESS(b, pointer, size) SET_ADDRESS(b, bpf_probe_read_user, pointer, size)

/* The same, read by another helper: of an address that was copied from the caller's memory before. */
#define SET_ADDRESS(b, read, pointer, size)                                                                                    \
  ({                                                                                                                           \
    const char *user_ = (pointer);                                                                                             \
    s64 size_ = (size);                                                                                                        \
    struct user_address read_ = {};                                                                                            \
    u32 mapped_[4];                                                                                                            \
    u64 quality_ = FLAG(remote_address_user_memory);                                                                           \
    if (size_ < 2 || size_ > 128 || read(&read_.family, 2, user_)) size_ = 0;                                                  \
    if (size_ && read_.family == AF_UNIX) {                                                                                    \
      quality_ = TEXT_USER_MEMORY(unix_path);                                                                                  \
      SET_UNIX_NAME(b, unix_path, read, (char *)user_ + 2, size_ - 2);                                                         \
    } else if (read_.family == AF_INET && size_ >= 8 && !read(&read_, 8, user_)) {                                             \
      map_ipv4(mapped_, read_.ipv4);                                                                                           \
      __builtin_memcpy(CHARS_AT(b, remote_address, 16), mapped_, 16);                                                          \
    } else if (read_.family == AF_INET6 && size_ >= 24 && !read(&read_, 24, user_))                                            \
      __builtin_memcpy(CHARS_AT(b, remote_address, 16), read_.ipv6, 16);                                                       \
    else                                                                                                                       \
      quality_ = GET(b, family) == AF_UNIX ? TEXT_MISSING(unix_path) : FLAG(remote_address_missing);                           \
    SET(b, remote_port, __builtin_bswap16(read_.port));                                                                        \
    (b)->_quality |= quality_;                                                                                                 \
  })
