/* memfd_exec PROGRAM: copies PROGRAM into a memfd called "hidden" and executes that by execveat(2) with an empty path. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv, char **environment) {
  char *arguments[] = {"innocent", "in memory", 0};
  int from = open(argv[1], O_RDONLY), to = memfd_create("hidden", MFD_CLOEXEC);
  struct stat file;
  if (argc != 2 || from < 0 || to < 0 || fstat(from, &file)) return 1;
  if (sendfile(to, from, 0, file.st_size) != file.st_size) return 1;
  syscall(SYS_execveat, to, "", arguments, environment, AT_EMPTY_PATH);
  return 1;
}
