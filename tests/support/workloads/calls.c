/* calls KIND COUNT [PATH]: makes COUNT operations of one kind: getppid, pread, open (with close),
 * exec (of /bin/true, with fork and wait) or connect (with accept and close). Prints the CPU time
 * of one operation, of this process and of its children, in nanoseconds. */
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *path;
static int file;
static int listener;
static struct sockaddr_in address;

static void make_getppid(void) {
  syscall(SYS_getppid);
}

static void make_pread(void) {
  char byte;
  if (pread(file, &byte, 1, 0) < 0) err(1, "pread");
}

static void make_open(void) {
  int opened = open(path, O_RDONLY);
  if (opened < 0) err(1, "%s", path);
  close(opened);
}

static void make_exec(void) {
  char *arguments[] = {"true", NULL};
  char *environment[] = {NULL};
  pid_t child;
  if (posix_spawn(&child, "/bin/true", NULL, NULL, arguments, environment)) errx(1, "posix_spawn");
  if (waitpid(child, NULL, 0) < 0) err(1, "waitpid");
}

static void make_connect(void) {
  struct linger at_once = {1, 0}; /* a reset instead of a port in TIME_WAIT */
  int client = socket(AF_INET, SOCK_STREAM, 0);
  setsockopt(client, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  if (connect(client, (struct sockaddr *)&address, sizeof(address))) err(1, "connect");
  int accepted = accept(listener, NULL, NULL);
  if (accepted < 0) err(1, "accept");
  close(client);
  close(accepted);
}

static const struct kind {
  const char *name;
  void (*make)(void);
} kinds[] = {{"getppid", make_getppid},
             {"pread", make_pread},
             {"open", make_open},
             {"exec", make_exec},
             {"connect", make_connect}};

static void prepare(void) {
  socklen_t size = sizeof(address);
  file = open("/dev/zero", O_RDONLY);
  listener = socket(AF_INET, SOCK_STREAM, 0);
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 16)) err(1, "listen");
  if (getsockname(listener, (struct sockaddr *)&address, &size)) err(1, "getsockname");
}

static double cpu_ns(int who) {
  struct rusage used;
  getrusage(who, &used);
  return (used.ru_utime.tv_sec + used.ru_stime.tv_sec) * 1e9 +
         (used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e3;
}

int main(int argc, char **argv) {
  if (argc < 3) errx(2, "usage: calls KIND COUNT [PATH]");
  long count = atol(argv[2]);
  path = argc > 3 ? argv[3] : "/dev/null";
  prepare();
  for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
    if (strcmp(argv[1], kinds[i].name)) continue;
    double before = cpu_ns(RUSAGE_SELF) + cpu_ns(RUSAGE_CHILDREN);
    for (long made = 0; made < count; made++)
      kinds[i].make();
    double after = cpu_ns(RUSAGE_SELF) + cpu_ns(RUSAGE_CHILDREN);
    printf("%.1f\n", (after - before) / count);
    return 0;
  }
  errx(2, "no such kind: %s", argv[1]);
}
