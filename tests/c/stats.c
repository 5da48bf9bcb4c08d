/* Statistics: counters that add up, per core and in total; JSON and Prometheus text that parse; the list of vthreads
 * with what each waits for. */
#include "check.h"
#include <ctype.h>

static swn_runtime_t *rt;
static swn_sem_t gate;
static int pipes[2], blocked;

/* ---- a JSON reader that only says whether the text is JSON --------------------------------- */

static const char *json;

static void space(void) { while (*json && isspace((unsigned char)*json)) json++; }

static void json_string(void) {
  CHECK_EQ(*json++, '"');
  while (*json != '"') {
    CHECK((unsigned char)*json >= 0x20);
    if (*json == '\\') json++;
    json++;
  }
  json++;
}

static void json_value(void) {
  space();
  if (*json == '{' || *json == '[') {
    char close = *json == '{' ? '}' : ']';
    json++;
    space();
    if (*json == close) {
      json++;
      return;
    }
    for (;;) {
      space();
      if (close == '}') {
        json_string();
        space();
        CHECK_EQ(*json++, ':');
      }
      json_value();
      space();
      if (*json != ',') break;
      json++;
    }
    CHECK_EQ(*json++, close);
  } else if (*json == '"') {
    json_string();
  } else if (strncmp(json, "true", 4) == 0 || strncmp(json, "null", 4) == 0) {
    json += 4;
  } else if (strncmp(json, "false", 5) == 0) {
    json += 5;
  } else {
    char *end;
    CHECK(*json == '-' || isdigit((unsigned char)*json)); /* not NaN, not inf */
    strtod(json, &end);
    CHECK(end != json);
    json = end;
  }
}

struct text {
  size_t len;
  char bytes[1 << 17];
};

static void collect(void *arg, const char *text, size_t len) {
  struct text *t = (struct text *)arg;
  CHECK(t->len + len < sizeof t->bytes);
  memcpy(t->bytes + t->len, text, len);
  t->len += len;
  t->bytes[t->len] = 0;
}

static void texts_parse(void) {
  static struct text text;
  text.len = 0;
  CHECK_OK(swn_stats_json(rt, collect, &text));
  json = text.bytes;
  json_value();
  space();
  CHECK_EQ(*json, 0);
  CHECK(strstr(text.bytes, "\"spawned\"") != NULL);

  text.len = 0;
  CHECK_OK(swn_stats_prometheus(rt, collect, &text));
  CHECK(text.len > 0 && text.bytes[text.len - 1] == '\n');
  int samples = 0;
  for (char *line = strtok(text.bytes, "\n"); line; line = strtok(NULL, "\n")) {
    if (*line == '#') {
      CHECK(strncmp(line, "# HELP ", 7) == 0 || strncmp(line, "# TYPE ", 7) == 0);
      continue;
    }
    char *value, *at = line;
    CHECK(isalpha((unsigned char)*at));
    while (isalnum((unsigned char)*at) || *at == '_' || *at == ':') at++;
    if (*at == '{') at = strchr(at, '}') + 1;
    CHECK_EQ(*at, ' ');
    strtod(at + 1, &value);
    CHECK(value != at + 1 && *value == 0);
    samples++;
  }
  CHECK(samples > 20);
}

/* ---- counters ---------------------------------------------------------------------------- */

static void *some_of_all(void *arg) {
  CHECK_OK(swn_yield());
  CHECK_OK(swn_sleep_for(MS / 10));
  CHECK_OK(swn_sem_release(&gate, 1));
  CHECK_OK(swn_sem_acquire(&gate, soon()));
  return arg;
}

static void *parent(void *arg) {
  swn_vthread_t vts[50];
  for (size_t i = 0; i < COUNT(vts); i++) vts[i] = spawn(NULL, some_of_all, arg);
  for (size_t i = 0; i < COUNT(vts); i++) join(vts[i]);
  return arg;
}

static void counters_add_up(void) {
  swn_stats_t before, after, core;
  CHECK_OK(swn_stats_read(rt, &before, sizeof before));
  for (int i = 0; i < 10; i++) run_in(rt, parent, NULL);
  CHECK_OK(swn_stats_read(rt, &after, sizeof after)); /* what was joined has been counted */
  CHECK_EQ(after.completed - before.completed, 510);
  CHECK_EQ(after.size, sizeof after);
  CHECK_EQ(after.spawned - before.spawned, 510);
  CHECK_EQ(after.live, 0);
  CHECK_EQ(after.spawned, after.completed);
  CHECK(after.scheduled - before.scheduled >= 510 * 2);
  CHECK(after.scheduled >= after.resumed);
  CHECK(after.context_switches >= after.scheduled);
  CHECK(after.yields - before.yields >= 500);
  CHECK(after.suspended_timer - before.suspended_timer >= 400); /* a late one may not have had to wait */
  CHECK(after.suspended_join - before.suspended_join >= 10);
  CHECK(after.timers_fired > before.timers_fired);
  CHECK(after.uptime_ns > before.uptime_ns);
  CHECK(after.cpu_time_us > 0);
  CHECK_EQ(after.preempted, 0);
  CHECK_EQ(after.cores, 2);
  CHECK(after.run_delay.count > 0 && after.run_slice.count > 0);
  CHECK(after.run_delay.p50_ns <= after.run_delay.p90_ns && after.run_delay.p90_ns <= after.run_delay.p99_ns);
  CHECK(after.run_delay.p99_ns <= after.run_delay.p999_ns);
  CHECK(after.stacks_live_max >= after.stacks_live);

  /* Nothing runs now: the cores add up to the whole. */
  uint64_t scheduled = 0, completed = 0, yields = 0;
  for (uint32_t i = 0; i < 2; i++) {
    CHECK_OK(swn_stats_read_core(rt, i, &core, sizeof core));
    scheduled += core.scheduled;
    completed += core.completed;
    yields += core.yields;
  }
  CHECK_OK(swn_stats_read(rt, &after, sizeof after));
  CHECK_EQ(scheduled, after.scheduled);
  CHECK_EQ(completed, after.completed);
  CHECK_EQ(yields, after.yields);
}

static void *nothing(void *arg) { return arg; }

static void a_joined_vthread_is_counted(void) {
  swn_stats_t before, now;
  CHECK_OK(swn_stats_read(rt, &before, sizeof before));
  for (uint64_t i = 1; i <= (uint64_t)scaled(2000); i++) {
    join(spawn(rt, nothing, NULL));
    CHECK_OK(swn_stats_read(rt, &now, sizeof now));
    CHECK_EQ(now.completed, before.completed + i);
    CHECK_EQ(now.live, before.live);
  }
}

/* ---- the list ----------------------------------------------------------------------------- */

static swn_vthread_t joined;

static void *block(void *arg) {
  while (!__atomic_load_n(&blocked, __ATOMIC_SEQ_CST)) usleep(200);
  return arg;
}

static void *wait_by_kind(void *kind) {
  char byte;
  switch ((uintptr_t)kind) {
    case SWN_REASON_IO: swn_read(pipes[0], &byte, 1, soon()); break;
    case SWN_REASON_TIMER: swn_sleep_for(SWN_FOREVER); break;
    case SWN_REASON_LOCK: swn_sem_acquire(&gate, soon()); break;
    case SWN_REASON_JOIN: swn_join(joined, NULL, soon()); break;
    default: swn_offload(block, NULL, NULL, soon()); break;
  }
  return NULL;
}

static const struct {
  const char *name;
  uint32_t reason;
} kinds[] = {{"in-io", SWN_REASON_IO},
             {"in-timer", SWN_REASON_TIMER},
             {"in-lock", SWN_REASON_LOCK},
             {"in-join", SWN_REASON_JOIN},
             {"in-offload", SWN_REASON_OFFLOAD}};

static int find(void *arg, const swn_vthread_context_t *vt) {
  uint32_t *found = (uint32_t *)arg;
  CHECK_EQ(vt->size, sizeof *vt);
  CHECK(vt->id != 0);
  for (size_t i = 0; i < COUNT(kinds); i++)
    if (strcmp(vt->name, kinds[i].name) == 0 && vt->state == SWN_STATE_WAITING && vt->reason == kinds[i].reason) {
      *found |= 1u << i;
      CHECK_EQ(vt->mounted, 0);
      CHECK(vt->stack_bytes > 0);
      CHECK(vt->stack_high_water_bytes <= vt->stack_bytes);
      CHECK(vt->last_resume_ns > 0 && vt->last_resume_ns <= swn_now());
    }
  return 0;
}

static int first_only(void *arg, const swn_vthread_context_t *vt) {
  (void)vt;
  ++*(int *)arg;
  return 1;
}

static void *own_context(void *arg) {
  swn_vthread_context_t context;
  CHECK_OK(swn_vthread_context(swn_self(), &context, sizeof context));
  CHECK_EQ(context.id, swn_self());
  CHECK_EQ(context.state, SWN_STATE_RUNNING);
  CHECK_EQ(context.mounted, 1);
  CHECK(context.core < 2);
  CHECK(context.last_resume_ns <= swn_now());
  return arg;
}

static uint32_t states_seen(void) {
  uint32_t found = 0;
  CHECK(swn_vthread_foreach(rt, find, &found) >= (int64_t)COUNT(kinds));
  return found;
}

static void the_list_shows_every_wait(void) {
  swn_spawn_options_t options;
  swn_vthread_t vts[COUNT(kinds)];
  CHECK_OK(swn_pipe(pipes));
  run_in(rt, own_context, NULL);
  joined = spawn(rt, wait_by_kind, (void *)SWN_REASON_LOCK);
  for (size_t i = 0; i < COUNT(kinds); i++) {
    CHECK_OK(swn_spawn_options_init(&options, sizeof options));
    options.name = kinds[i].name;
    CHECK_OK(swn_spawn(rt, wait_by_kind, (void *)(uintptr_t)kinds[i].reason, &options, &vts[i]));
  }
  AWAIT(states_seen() == (1u << COUNT(kinds)) - 1);
  int visits = 0;
  CHECK_EQ(swn_vthread_foreach(rt, first_only, &visits), 1);
  CHECK_EQ(visits, 1);
  swn_stats_t stats;
  CHECK_OK(swn_stats_read(rt, &stats, sizeof stats));
  CHECK_EQ(stats.live, COUNT(kinds) + 1);
  CHECK(stats.stacks_live >= COUNT(kinds) + 1);
  CHECK(stats.timers_armed >= 1);
  texts_parse();

  /* An ended vthread that nobody joined is still there, as done. */
  swn_vthread_t ended = spawn(rt, own_context, NULL);
  swn_vthread_context_t context;
  AWAIT(swn_vthread_context(ended, &context, sizeof context) == 0 && context.state == SWN_STATE_DONE);
  join(ended);

  __atomic_store_n(&blocked, 1, __ATOMIC_SEQ_CST);
  CHECK_OK(swn_sem_release(&gate, 2));
  CHECK_EQ(swn_write(pipes[1], "x", 1, soon()), 1);
  for (size_t i = 0; i < COUNT(vts); i++)
    if (kinds[i].reason != SWN_REASON_TIMER) join(vts[i]);
  /* joined: by the vthread that waited in join. The sleeper ends when the runtime stops. */
  CHECK_OK(swn_close(pipes[0]));
  CHECK_OK(swn_close(pipes[1]));
}

int main(void) {
  rt = start(2);
  texts_parse(); /* of a runtime that did nothing yet */
  counters_add_up();
  a_joined_vthread_is_counted();
  the_list_shows_every_wait();
  CHECK_OK(swn_runtime_stop(rt, swn_deadline_after(SECOND)));
  swn_stats_t stats;
  CHECK_EQ(swn_stats_read(rt, &stats, sizeof stats), SWN_ESTOPPED);
  CHECK_OK(swn_runtime_destroy(rt));
  return 0;
}
