/*
 * The workload of the benchmarks: memory that changes at a set rate, and a UDP service that shows
 * from outside how long it was away.
 *
 *     heart MIB MB_PER_SECOND random|text [forks]        answers on UDP port 7000
 *
 * C, because a page of new random bytes costs Python 6 us and this one a tenth of it; static, so
 * that the container is nothing but this memory. Each page is filled from a generator with a seed
 * of its own (no two are alike), `text` so that zstd makes it a fifth. The seeds are noted in a
 * table, so that every byte can be checked later.
 * `forks`: ten times a second a child is forked, changes 16 pages of its copy, lives for 250 ms.
 *
 * All numbers are 64 bits, little endian. Requests and answers:
 *     'P' SEQUENCE -> 'P' SEQUENCE ANSWERS BYTES_WRITTEN CHILDREN     (ANSWERS: 1, 2, 3 ...)
 *     'V'          -> 'V' WRONG_PAGES PAGES DIGEST                    (reads all memory)
 * When nobody has asked for 3 ms it says 'H' to those who asked last, as servers do that speak
 * first; so the neighbour tables of a new host learn the address at once.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, WORDS = PAGE / 8, PORT = 7000, PEERS = 4 };

static uint64_t (*memory)[WORDS], *seeds, pages, state = 88172645463325252u;
static int text;

static uint64_t next(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Of 16 words of a text page 3 are random. */
static uint64_t word(uint64_t *x, int at)
{
    return text && at % 16 >= 3 ? 0x20656d6f73206e69u + (uint64_t)(at % 16) : next(x);
}

/* The seed is mixed: bare, page N + 1 would be page N moved by a word. */
static void fill(uint64_t page)
{
    uint64_t x = next(&state) * 0x9e3779b97f4a7c15u;
    x ^= x >> 29;
    x |= 1; /* the generator stays at 0 for ever */
    seeds[page] = x;
    for (int i = 0; i < WORDS; i++)
        memory[page][i] = word(&x, i);
}

static uint64_t wrong_pages(uint64_t *digest)
{
    uint64_t wrong = 0;
    *digest = 14695981039346656037u;
    for (uint64_t page = 0; page < pages; page++) {
        uint64_t x = seeds[page], bad = 0;
        for (int i = 0; i < WORDS; i++) {
            bad |= memory[page][i] ^ word(&x, i);
            *digest = (*digest ^ memory[page][i]) * 1099511628211u;
        }
        wrong += bad != 0;
    }
    return wrong;
}

static void child(void)
{
    for (int i = 0; i < 16 && pages; i++)
        fill(next(&state) % pages);
    struct timespec nap = {0, 250 * 1000 * 1000};
    nanosleep(&nap, NULL);
    _exit(0);
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: heart MIB MB_PER_SECOND random|text [forks]\n");
        return 2;
    }
    pages = strtoull(argv[1], NULL, 10) * 256;
    double rate = strtod(argv[2], NULL) * 1e6;
    text = !strcmp(argv[3], "text");
    int forks = argc > 4;
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    state ^= (uint64_t)t.tv_nsec << 20 ^ (uint64_t)t.tv_sec;

    int private = MAP_PRIVATE | MAP_ANONYMOUS, both = PROT_READ | PROT_WRITE;
    memory = mmap(NULL, (pages + 1) * PAGE, both, private, -1, 0);
    seeds = mmap(NULL, (pages + 1) * 8, both, private, -1, 0);
    if (memory == MAP_FAILED || seeds == MAP_FAILED) {
        perror("heart");
        return 1;
    }
    for (uint64_t page = 0; page < pages; page++)
        fill(page);

    int sock = socket(AF_INET, SOCK_DGRAM, 0), big = 1 << 20;
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &big, sizeof big);
    if (bind(sock, (struct sockaddr *)&here, sizeof here)) {
        perror("heart");
        return 1;
    }
    struct sockaddr_in peers[PEERS] = {0};
    uint64_t answers = 0, written = 0, children = 0, known_peers = 0, hellos = 0;
    double last = now(), heard = last, forked = last, credit = 0;
    puts("ready");
    fflush(stdout);

    for (;;) {
        struct pollfd ready = {sock, POLLIN, 0};
        poll(&ready, 1, 1);
        double at = now(), passed = at - last;
        last = at;
        /* What was missed while frozen is not caught up. */
        credit += rate * (passed > 0.05 ? 0.05 : passed);
        for (; credit >= PAGE && pages; credit -= PAGE, written += PAGE)
            fill(next(&state) % pages);
        if (forks && at - forked > 0.1) {
            forked = at;
            pid_t pid = fork();
            if (!pid)
                child();
            children += pid > 0;
        }
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        unsigned char in[64], out[64];
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        struct sockaddr *sender = (struct sockaddr *)&from;
        ssize_t got;
        while ((got = recvfrom(sock, in, sizeof in, MSG_DONTWAIT, sender, &length)) > 0) {
            uint64_t value = 0, said[4] = {0};
            int count = 0;
            if (got >= 9)
                memcpy(&value, in + 1, 8);
            if (in[0] == 'P') {
                heard = at;
                hellos = 0;
                int known = 0;
                for (int i = 0; i < PEERS; i++)
                    known |= !memcmp(&peers[i], &from, sizeof from);
                if (!known)
                    peers[known_peers++ % PEERS] = from;
                said[0] = value, said[1] = ++answers, said[2] = written, said[3] = children;
                count = 4;
            } else if (in[0] == 'V') {
                said[0] = wrong_pages(&said[2]), said[1] = pages;
                count = 3;
            }
            out[0] = in[0];
            memcpy(out + 1, said, sizeof said);
            if (count)
                sendto(sock, out, 1 + 8 * (size_t)count, 0, sender, length);
            length = sizeof from;
        }
        if (at - heard > 0.003 && hellos < 2000) {
            hellos++;
            for (int i = 0; i < PEERS; i++)
                if (peers[i].sin_port)
                    sendto(sock, "H", 1, 0, (struct sockaddr *)&peers[i], sizeof peers[i]);
        }
    }
}
