/* path_race PATH COUNT: opens PATH COUNT times while another thread changes the last byte of the
 * path, and prints for each call the file that was opened.
 *
 * The last byte alternates between `a` and `b`. */
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile char *last;
static volatile int done;

static void *change(void *unused) {
  while (!done)
    *last = *last == 'a' ? 'b' : 'a';
  return unused;
}

int main(int count, char **arguments) {
  char path[PATH_MAX], link[64], opened[PATH_MAX];
  pthread_t thread;
  if (count != 3 || !*arguments[1]) return 2;
  snprintf(path, sizeof(path), "%s", arguments[1]);
  last = path + strlen(path) - 1;
  if (pthread_create(&thread, NULL, change, NULL)) return 1;
  for (long left = atol(arguments[2]); left; left--) {
    int fd = open(path, O_RDONLY);
    snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, opened, sizeof(opened) - 1);
    if (fd < 0 || length < 0) return 1;
    opened[length] = 0;
    puts(opened);
    close(fd);
  }
  done = 1;
  return pthread_join(thread, NULL);
}
