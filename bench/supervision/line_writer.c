/* What the log measures run: line_writer LINES FIFO MARK
 * Waits until somebody opens FIFO for writing, then writes LINES lines of 100 bytes, each with its
 * pid and number, through stdio's own buffer (4,096 bytes on a pipe, so it cuts lines anywhere). */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LINE = 100, LAST_DIGIT = 17 };

int main(int argc, char **argv) {
    char line[LINE + 1];
    if (argc < 4 || open(argv[2], O_RDONLY) < 0)
        return 2;
    snprintf(line, sizeof line, "%08d %09d ", (int)getpid(), 0);
    memset(line + LAST_DIGIT + 2, 'x', LINE - LAST_DIGIT - 3);
    line[LINE - 1] = '\n';
    for (long left = atol(argv[1]); left > 0; left--) {
        fwrite(line, 1, LINE, stdout);
        char *digit = line + LAST_DIGIT; /* counting in place: this must cost the machine little */
        for (; *digit == '9'; digit--)
            *digit = '0';
        ++*digit;
    }
    fflush(stdout);
    for (;;)
        pause();
}
