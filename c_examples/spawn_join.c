/* Spawning many vthreads, from outside and from within, and collecting what they return: counts the primes below
 * 200,000 in 200 parts, then adds the parts up in a tree of vthreads. */
#include <inttypes.h>
#include <stdio.h>
#include <swiftnet.h>

enum { PARTS = 200, PART = 1000 };

static int is_prime(uintptr_t n) {
  for (uintptr_t d = 2; d * d <= n; d++)
    if (n % d == 0) return 0;
  return n >= 2;
}

/* One part. Small results fit into the pointer that a vthread returns. */
static void *count_part(void *arg) {
  uintptr_t first = (uintptr_t)arg * PART, primes = 0;
  for (uintptr_t n = first; n < first + PART; n++) primes += (uintptr_t)is_prime(n);
  return (void *)primes;
}

struct range {
  const uintptr_t *values;
  size_t len;
};

/* Splits its range between two vthreads until it is short. A vthread may lend its own stack to those it joins. */
static void *sum(void *arg) {
  const struct range *range = (const struct range *)arg;
  if (range->len <= 8) {
    uintptr_t total = 0;
    for (size_t i = 0; i < range->len; i++) total += range->values[i];
    return (void *)total;
  }
  size_t half = range->len / 2;
  struct range parts[2] = {{range->values, half}, {range->values + half, range->len - half}};
  uintptr_t total = 0;
  for (int i = 0; i < 2; i++) {
    swn_vthread_t vt;
    void *result = NULL;
    /* NULL: the runtime of the calling vthread. */
    if (swn_spawn(NULL, sum, &parts[i], NULL, &vt) != 0 || swn_join(vt, &result, SWN_FOREVER) != 0) return NULL;
    total += (uintptr_t)result;
  }
  return (void *)total;
}

int main(void) {
  swn_runtime_t *rt;
  swn_vthread_t vts[PARTS], root;
  void *args[PARTS], *result = NULL;
  uintptr_t counts[PARTS];
  int status = swn_runtime_start(NULL, &rt);
  if (status != 0) {
    fprintf(stderr, "start: %s\n", swn_strerror(status));
    return 1;
  }
  for (uintptr_t i = 0; i < PARTS; i++) args[i] = (void *)i;
  int64_t spawned = swn_spawn_batch(rt, count_part, args, PARTS, NULL, vts);
  for (int64_t i = 0; i < spawned; i++) {
    if (swn_join(vts[i], &result, SWN_FOREVER) != 0) return 1;
    counts[i] = (uintptr_t)result;
  }
  struct range all = {counts, PARTS};
  if (spawned != PARTS || swn_spawn(rt, sum, &all, NULL, &root) != 0) return 1;
  if (swn_join(root, &result, SWN_FOREVER) != 0) return 1;
  printf("%" PRIuPTR " primes below %d\n", (uintptr_t)result, PARTS * PART);
  swn_runtime_stop(rt, SWN_FOREVER);
  return swn_runtime_destroy(rt);
}
