/* The MPS2 board from reset: a clock, sleep, and between them whatever the link brought (see mps2.h). */
#include "mps2.h"

#define TIMER_CLOCK 0x40000000u /* CMSDK timer 0: counts down, 25 MHz, never stops */
#define TIMER_WAKE 0x40001000u  /* CMSDK timer 1: its interrupt ends a sleep */
#define TIMER_WAKE_INTERRUPT 9u
#define TICK_NS 40
#define SLEEP_NS_MAX INT64_C(1000000000) /* the clock wraps after 171 s and has to be read before */

gd_flow board_flow;
gd_box board_box;
static uint64_t board_stack[GD_STACK_BYTES / 8] __attribute__((aligned(8), used));
static _Alignas(8) uint8_t board_message[MPS2_HEAD_BYTES + GD_IN_BYTES];
static uint32_t board_clock_last, board_started;
static int64_t board_clock_ns;

static int64_t board_clock(void) {
  uint32_t now = MPS2_REGISTER(TIMER_CLOCK + 4);
  board_clock_ns += (int64_t)(uint32_t)(board_clock_last - now) * TICK_NS;
  board_clock_last = now;
  return board_clock_ns;
}

/* A record for the bus that says how it stands: done, when it wants to be called. */
static void board_status(void) {
  struct {
    uint32_t kind, bytes, done, started;
    int64_t next_ns;
  } status = {5, 0, board_box.done, board_started, board_box.next_ns};
  mps2_link_send(0, (const uint8_t *)&status, sizeof status);
}

/* What the device did goes where it belongs. Rows go one by one: a message of many has no room in a packet. */
static void board_give(void) {
  uint32_t at = 0, head[4];
  while (at < board_box.out_bytes) {
    uint8_t *record = board_box.out + at, *content = record + 24;
    gd_copy(head, record, 16);
    at += 24 + ((head[1] + 7) & ~7u);
    if (head[0] == 1) {
      gd_peer to = {head[2], {0}};
      gd_copy(to.at, content, GD_PEER_BYTES);
      mps2_link_send(&to, content + GD_PEER_BYTES, head[1] - GD_PEER_BYTES);
    } else if (head[0] == 3) {
      uint32_t rows = head[3], stride;
      if (rows == 0) continue;
      stride = board_flow.device.streams[head[2]].stride;
      head[1] = stride;
      head[3] = 1;
      for (uint32_t i = 0; i < rows; i++) { /* its head takes the place of what was sent before */
        uint8_t *start = content + i * stride - 24;
        gd_copy(start, head, 16);
        mps2_link_send(0, start, 24 + stride);
      }
    } else
      mps2_link_send(0, record, 24 + head[1]);
  }
}

static void board_turn(void) {
  board_box.now_ns = board_clock();
  gd_box_run(&board_flow, &board_box);
  board_give();
}

/* A box from the bus: only a START is obeyed before the first one, and none after it. */
static void board_bus(uint32_t bytes) {
  uint32_t op, in_bytes;
  if (bytes < MPS2_HEAD_BYTES) return;
  gd_copy(&op, board_message, 4);
  gd_copy(&in_bytes, board_message + 4, 4);
  if (in_bytes != bytes - MPS2_HEAD_BYTES || in_bytes > GD_IN_BYTES || op < GD_OP_START || op > GD_OP_REPORT) return;
  if ((op == GD_OP_START) != !board_started) {
    board_status();
    return;
  }
  gd_copy(&board_box, board_message, bytes);
  board_started = 1;
  board_turn();
  if (op != GD_OP_FRAME) board_status();
}

static void board_datagram(const gd_peer *from, uint32_t bytes) {
  uint32_t was_done = board_box.done;
  if (!board_started) return;
  board_box.op = GD_OP_RECEIVE;
  board_box.in_bytes = bytes;
  gd_copy(&board_box.peer, from, sizeof *from);
  gd_copy(board_box.in, board_message, bytes);
  board_turn();
  if (board_box.done != was_done) board_status();
}

static void board_poll(void) {
  board_box.op = GD_OP_POLL;
  board_box.in_bytes = 0;
  board_turn();
}

static void board_quiet(void) {
  MPS2_REGISTER(TIMER_WAKE) = 0;
  MPS2_REGISTER(TIMER_WAKE + 12) = 1;
}

/* Interrupts end the sleep also while they are masked, as they are here: nothing comes between looking and sleeping. */
static void board_sleep(void) {
  uint32_t masked;
  int64_t left = board_started ? board_box.next_ns - board_clock() : SLEEP_NS_MAX;
  if (left <= 0) return;
  if (left > SLEEP_NS_MAX) left = SLEEP_NS_MAX;
  MPS2_REGISTER(TIMER_WAKE + 8) = MPS2_REGISTER(TIMER_WAKE + 4) = (uint32_t)left / TICK_NS + 1;
  MPS2_REGISTER(TIMER_WAKE) = 9; /* runs, with its interrupt */
  __asm__ volatile("mrs %0, primask\n cpsid i" : "=r"(masked)::"memory");
  if (!mps2_link_waits()) __asm__ volatile("dsb\n wfi" ::: "memory");
  board_quiet();
  MPS2_REGISTER(0xE000E280u) = 0xFFFFFFFFu; /* what is still there will be pending again */
  __asm__ volatile("msr primask, %0" ::"r"(masked) : "memory");
}

void Reset(void) {
  gd_peer from;
  uint32_t bytes;
  __asm__ volatile("cpsid i");
#if defined(__ARM_FP)
  MPS2_REGISTER(0xE000ED88u) |= 0xFu << 20; /* CPACR: the floating-point unit on */
  __asm__ volatile("dsb\n isb");
#endif
  for (uint32_t i = 0; i < sizeof board_flow; i++) ((volatile uint8_t *)&board_flow)[i] = 0;
  for (uint32_t i = 0; i < sizeof board_box; i++) ((volatile uint8_t *)&board_box)[i] = 0;
  MPS2_REGISTER(TIMER_CLOCK + 4) = board_clock_last = 0xFFFFFFFFu;
  MPS2_REGISTER(TIMER_CLOCK + 8) = 0xFFFFFFFFu;
  MPS2_REGISTER(TIMER_CLOCK) = 1;
  board_clock_ns = board_started = 0;
  MPS2_INTERRUPT_ON(TIMER_WAKE_INTERRUPT);
  mps2_link_start();
  for (;;) {
    while ((bytes = mps2_link_receive(&from, board_message, sizeof board_message)) > 0) {
      if (from.bytes == 0) board_bus(bytes);
      else if (bytes <= GD_IN_BYTES) board_datagram(&from, bytes);
    }
    if (board_started && board_box.next_ns <= board_clock()) board_poll();
    board_sleep();
  }
}

static void Halt(void) {
  for (;;) __asm__ volatile("wfi" ::: "memory");
}

__attribute__((section(".vectors"), used)) const void *const board_vectors[32] = {
    (uint8_t *)board_stack + GD_STACK_BYTES, (void *)Reset, (void *)Halt, (void *)Halt, (void *)Halt, (void *)Halt, (void *)Halt, 0,
    0, 0, 0, (void *)Halt, (void *)Halt, 0, (void *)Halt, (void *)Halt,
    (void *)mps2_link_interrupt, (void *)Halt, (void *)Halt, (void *)Halt, (void *)Halt, (void *)Halt, (void *)Halt, (void *)Halt,
    (void *)Halt, (void *)board_quiet, (void *)Halt, (void *)Halt, (void *)Halt, (void *)Halt, (void *)Halt, (void *)Halt};
