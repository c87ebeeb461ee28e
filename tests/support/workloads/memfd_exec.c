/* memfd_exec PROGRAM: copies PROGRAM into a memfd named "hidden" and executes it by execveat(2)
 * with an empty path. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv, char **environment) {
  char *arguments[] = {"innocent", "in memory", 0};
  struct stat file;
  if (argc != 2) return 1;
  int from = open(argv[1], O_RDONLY);
  int to = memfd_create("hidden", MFD_CLOEXEC);
  if (from < 0 || to < 0 || fstat(from, &file)) return 1;
  if (sendfile(to, from, 0, file.st_size) != file.st_size) return 1;
  syscall(SYS_execveat, to, "", arguments, environment, AT_EMPTY_PATH);
  return 1;
}
