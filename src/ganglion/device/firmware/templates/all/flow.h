/* Ganglion: what devices of flow @flow@ compute and send. Generated; do not edit.
 *
 * A frame is @frame@@unit@, one every @period_ns@ ns: @frame_bytes@ bytes, little-endian, the last dimension fastest.
 * The device runs @stages@
 * and sends @streams@.
 *
 * You write the hooks of @prefix@_port and call, with memory that may be anywhere and is 8-byte aligned:
 *
 *   static @prefix@_firmware firmware;
 *   if (@prefix@_firmware_begin(&firmware, &port, user, origin, &gateway, present, chance)) @prefix@_firmware_run(&firmware);
 *
 * Or call @prefix@_firmware_turn from a loop of your own. No function waits, allocates or recurses, none has memory of
 * its own; one @prefix@_firmware must not be used from two threads at once. */
#ifndef @PREFIX@_H
#define @PREFIX@_H
#include "@prefix@/loop.h"
#include "@prefix@/slip.h"

#define @PREFIX@_PERIOD_NS INT64_C(@period_ns@)
#define @PREFIX@_FLOW_DIGEST "@digest@"
@actuators@
#endif
