/* chmod_race PATH COUNT: changes the mode of PATH COUNT times while another thread changes the last
 * byte of the path, and prints for each call the file that has the new mode.
 *
 * The last byte alternates between `a` and `b`. The modes are COUNT, COUNT - 1 …, all different. */
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static volatile char *last;
static volatile int done;

static void *change(void *unused) {
  while (!done)
    *last = *last == 'a' ? 'b' : 'a';
  return unused;
}

int main(int count, char **arguments) {
  char path[PATH_MAX], file[PATH_MAX];
  pthread_t thread;
  struct stat status;
  if (count != 3 || !*arguments[1]) return 2;
  snprintf(path, sizeof(path), "%s", arguments[1]);
  snprintf(file, sizeof(file), "%s", arguments[1]);
  last = path + strlen(path) - 1;
  if (pthread_create(&thread, NULL, change, NULL)) return 1;
  for (mode_t mode = atol(arguments[2]); mode; mode--) {
    char *name = file + strlen(file) - 1;
    if (chmod(path, mode)) return 1;
    for (*name = 'a'; *name <= 'b'; (*name)++)
      if (!stat(file, &status) && (status.st_mode & 07777) == mode) puts(file);
  }
  done = 1;
  return pthread_join(thread, NULL);
}
