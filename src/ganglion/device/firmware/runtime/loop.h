/* A device on a board of its own: it starts, does all that there is to do each time it wakes, and sleeps in between. */
#ifndef GANGLION_LOOP_H
#define GANGLION_LOOP_H
#include "flow.h"

/* All memory of one device. There may be several; none knows of another. */
typedef struct {
  gd_flow flow;
  GD_ALIGNED(8) uint8_t frame[GD_FRAME_BYTES];
  uint8_t received[GD_DATAGRAM_BYTES + 8]; /* more than it takes: what was cut is found too large, and answered so */
} gd_firmware;

#ifdef __cplusplus
extern "C" {
#endif

/* 1: started. `origin` names the device, `present` has a bit per actuator, `chance` is 32 random bits.
 * 0: a hook is missing, the name is empty or too long, or the starts cannot be counted: nothing may be sent then. */
uint32_t gd_firmware_begin(gd_firmware *m, const gd_port *port, void *user, gd_text origin, const gd_peer *gateway,
                           uint32_t present, uint32_t chance);

/* Does all that there is to do now: one wake-up. Gives when there will be more, if no frame and no datagram comes before. */
int64_t gd_firmware_turn(gd_firmware *m);

/* Turns and sleeps, until it was closed and the gateway has everything. */
void gd_firmware_run(gd_firmware *m);

/* No more frames will come: what is stored is sent, then that each stream has ended. */
void gd_firmware_close(gd_firmware *m);

/* 1: it was closed, and the gateway has everything. */
uint32_t gd_firmware_is_done(const gd_firmware *m);

#ifdef __cplusplus
}
#endif
#endif
