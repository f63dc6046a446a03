/* Writes a rising 64-bit number at offset 0 first of disk A, then of disk B, for ever, past every cache.
 * At any point in time B <= A <= B + 1. The rest of the first sector is kept.
 * Arguments: A, B, microseconds to rest between two numbers. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SECTOR_BYTES = 512 };

static int open_disk(const char *path, unsigned char **sector)
{
    int disk = open(path, O_RDWR | O_DIRECT | O_SYNC);
    if (disk < 0 || posix_memalign((void **)sector, 4096, SECTOR_BYTES) || pread(disk, *sector, SECTOR_BYTES, 0) < 0) {
        perror(path);
        exit(1);
    }
    return disk;
}

static void put(int disk, unsigned char *sector, uint64_t number)
{
    memcpy(sector, &number, sizeof number);
    if (pwrite(disk, sector, SECTOR_BYTES, 0) != SECTOR_BYTES) {
        perror("sequence");
        exit(1);
    }
}

int main(int count, char **arguments)
{
    if (count != 4) {
        fprintf(stderr, "usage: sequence A B MICROSECONDS\n");
        return 2;
    }
    unsigned char *sector_a, *sector_b;
    int a = open_disk(arguments[1], &sector_a), b = open_disk(arguments[2], &sector_b);
    useconds_t rest = strtoul(arguments[3], NULL, 10);
    uint64_t number;
    memcpy(&number, sector_a, sizeof number);
    put(b, sector_b, number); /* the guest may have ended between A and B */
    for (;;) {
        number++;
        put(a, sector_a, number);
        put(b, sector_b, number);
        if (rest)
            usleep(rest);
    }
}
