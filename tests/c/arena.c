/* The arena: alignment, limits, memory of one vthread never seen by another, and memory that stays flat while at
 * least one old vthread always overlaps the new ones. */
#include "check.h"

static swn_runtime_t *rt;

static void *alignment_and_limits(void *arg) {
  for (size_t align = 1; align <= 4096; align *= 2) {
    char *memory = (char *)swn_arena_alloc(3 * align, align);
    CHECK(memory != NULL);
    CHECK_EQ((uintptr_t)memory % align, 0);
    memset(memory, 1, 3 * align);
  }
  CHECK(swn_arena_alloc(16, 3) == NULL);
  CHECK(swn_arena_alloc(16, 8192) == NULL);
  CHECK((uintptr_t)swn_arena_alloc(1, 0) % 16 == 0);
  CHECK(swn_arena_alloc(SIZE_MAX, 8) == NULL);
  CHECK(swn_arena_alloc(SIZE_MAX - 64, 4096) == NULL);
  CHECK(swn_arena_alloc((size_t)1 << 60, 8) == NULL);
  /* Larger than one arena is possible. */
  char *large = (char *)swn_arena_alloc(3 << 20, 64);
  CHECK(large != NULL);
  memset(large, 2, 3 << 20);
  return arg;
}

static void *fill_and_look_again(void *arg) {
  enum { N = 8, BYTES = 4000 };
  unsigned char *parts[N], mark = (unsigned char)(uintptr_t)arg;
  for (int i = 0; i < N; i++) {
    parts[i] = (unsigned char *)swn_arena_alloc(BYTES, 16);
    CHECK(parts[i] != NULL);
    memset(parts[i], mark + i, BYTES);
    CHECK_OK(i % 2 ? swn_yield() : swn_sleep_for(MS / 20));
  }
  for (int i = 0; i < N; i++)
    for (int k = 0; k < BYTES; k++) CHECK_EQ(parts[i][k], (unsigned char)(mark + i));
  return NULL;
}

static uint64_t resident_bytes(void) {
  unsigned long pages = 0, resident = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  CHECK(file != NULL);
  CHECK_EQ(fscanf(file, "%lu %lu", &pages, &resident), 2);
  fclose(file);
  return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* Each of a chain starts the next before it ends: at every moment an old one lives. */
static void *overlap(void *left) {
  char *memory = (char *)swn_arena_alloc(64 << 10, 16);
  CHECK(memory != NULL);
  memset(memory, 3, 64 << 10);
  if ((uintptr_t)left == 0) return NULL;
  swn_vthread_t next = spawn(NULL, overlap, (void *)0);
  CHECK_OK(swn_yield());
  join(next);
  return NULL;
}

static void *chain(void *arg) {
  uint32_t rounds = *(uint32_t *)arg;
  swn_vthread_t old = spawn(NULL, overlap, (void *)1);
  for (uint32_t i = 0; i < rounds; i++) {
    swn_vthread_t fresh = spawn(NULL, overlap, (void *)1);
    join(old);
    old = fresh;
  }
  join(old);
  return NULL;
}

int main(void) {
  CHECK(swn_arena_alloc(16, 16) == NULL); /* outside a vthread */
  rt = start(2);
  run_in(rt, alignment_and_limits, NULL);
  swn_vthread_t vts[64];
  for (int round = 0; round < 10; round++) {
    for (size_t i = 0; i < COUNT(vts); i++) vts[i] = spawn(rt, fill_and_look_again, (void *)(uintptr_t)(i * 3));
    for (size_t i = 0; i < COUNT(vts); i++) join(vts[i]);
  }
  uint32_t warm = scaled(500), rounds = scaled(10000);
  run_in(rt, chain, &warm);
  uint64_t before = resident_bytes();
  run_in(rt, chain, &rounds);
  /* 64 KiB for each of 20,000 vthreads would be 1.3 GB. */
  if (in_mode("plain")) CHECK(resident_bytes() < before + (32 << 20));
  swn_stats_t stats;
  CHECK_OK(swn_stats_read(rt, &stats, sizeof stats));
  CHECK(stats.arena_bytes < (256u << 20));
  finish(rt);
  return 0;
}
