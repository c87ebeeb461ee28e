/* moving_exe OPERATION…: opens files and moves files and mounts, one operation after the other in
 * one process, which opens nothing else. Operations: `open PATH`, `rename FROM TO`, `move FROM TO`
 * (a mount), `unlink PATH`. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

int main(int count, char **words) {
  for (int i = 1; i < count; i++) {
    int failed = 0;
    if (!strcmp(words[i], "open"))
      open(words[++i], O_RDONLY);
    else if (!strcmp(words[i], "unlink"))
      failed = unlink(words[++i]);
    else if (!strcmp(words[i], "rename"))
      failed = rename(words[i + 1], words[i + 2]), i += 2;
    else if (!strcmp(words[i], "move"))
      failed = mount(words[i + 1], words[i + 2], NULL, MS_MOVE, NULL), i += 2;
    if (failed) {
      perror(words[i]);
      return 1;
    }
  }
  return 0;
}
