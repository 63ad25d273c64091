// A device as a sketch: UDP by the Ethernet library, the count of starts in EEPROM.
#include <@prefix@.h>
#include <EEPROM.h>
#include <Ethernet.h>
#include <EthernetUdp.h>

// --- what is yours ---

const char ORIGIN[] = "@origin@";
const IPAddress GATEWAY(192, 0, 2, 1);
const uint16_t GATEWAY_PORT = 5683;
const IPAddress TIME_SERVER(192, 0, 2, 1);  // an NTP server that this network reaches
byte mac[] = {0x02, 0x00, 0x00, 0x00, 0x00, 0x01};
const int BOOTS_AT = 0;  // where the count of starts lies in EEPROM: 8 bytes of it and 8 that check them

// Your sensor: one frame, as it is stored. This one is a test signal.
void sensorFrame(uint8_t *stored) {
  static uint8_t step = 0;
  for (uint32_t i = 0; i < @PREFIX@_FRAME_BYTES; i++) stored[i] = i & 1 ? 0 : step++;
}

// Your actuators: obey once.
void actuatorObeys(uint32_t actuator, @prefix@_text verb) {
  Serial.print("actuator ");
  Serial.print(actuator);
  Serial.print(": ");
  Serial.write(reinterpret_cast<const uint8_t *>(verb.text), verb.bytes);
  Serial.println();
}

// --- the port ---

static @prefix@_firmware firmware;
static EthernetUDP udp;
static int64_t nextFrameNs, epochNs;

static int64_t nodeNow(void *) {
  static uint32_t last = 0;
  static int64_t turns = 0;
  uint32_t us = micros();  // wraps after 71 minutes
  if (us < last) turns++;
  last = us;
  return ((turns << 32) + us) * 1000;
}

static void makePeer(@prefix@_peer *peer, const IPAddress &address, uint16_t port) {
  for (int i = 0; i < 4; i++) peer->at[i] = address[i];
  peer->at[4] = port >> 8;
  peer->at[5] = port & 255;
  peer->bytes = 6;
}

static void nodeSend(void *, const @prefix@_peer *to, const uint8_t *datagram, uint32_t bytes) {
  // What is not sent now is sent again in its time.
  if (!udp.beginPacket(IPAddress(to->at[0], to->at[1], to->at[2], to->at[3]), to->at[4] << 8 | to->at[5])) return;
  udp.write(datagram, bytes);
  udp.endPacket();
}

static uint32_t nodeReceive(void *, @prefix@_peer *from, uint8_t *at, uint32_t room) {
  int bytes = udp.parsePacket();
  if (bytes <= 0) return 0;
  bytes = udp.read(at, room);
  if (bytes <= 0) return 0;
  makePeer(from, udp.remoteIP(), udp.remotePort());
  return bytes;
}

static uint32_t nodeFrame(void *user, uint8_t *stored, int64_t *timeNs) {
  if (nodeNow(user) < nextFrameNs) return 0;
  sensorFrame(stored);
  *timeNs = epochNs + nextFrameNs;
  nextFrameNs += @PREFIX@_PERIOD_NS;
  return 1;
}

static void nodeAct(void *, uint32_t actuator, @prefix@_text verb, @prefix@_text, int64_t, uint32_t repeated) {
  if (!repeated) actuatorObeys(actuator, verb);
}

// `loop` calls again at once: a board that can sleep does so here.
static void nodeSleepUntil(void *, int64_t) {}

static uint64_t nodeNextBoot(void *) {
  uint64_t boot = 0, check = 0;
  EEPROM.get(BOOTS_AT, boot);
  EEPROM.get(BOOTS_AT + 8, check);
  if (boot == ~static_cast<uint64_t>(0) && check == boot) boot = 0;  // never written
  else if (check != ~boot) return 0;                                // a count that cannot be read must not begin anew
  boot++;
  check = ~boot;
  EEPROM.put(BOOTS_AT, boot);
  EEPROM.put(BOOTS_AT + 8, check);
  return boot;
}

// UTC in nanoseconds when nodeNow was 0, by NTP (RFC 5905); 0: no answer.
static int64_t askTime() {
  uint8_t packet[48] = {0x23};
  if (!udp.beginPacket(TIME_SERVER, 123)) return 0;
  udp.write(packet, sizeof packet);
  udp.endPacket();
  for (int tries = 0; tries < 100; tries++) {
    delay(10);
    if (udp.parsePacket() < 48) continue;
    if (udp.read(packet, sizeof packet) < 48 || (packet[0] & 7) != 4) continue;
    uint32_t seconds = 0, fraction = 0;
    for (int i = 0; i < 4; i++) {
      seconds = seconds << 8 | packet[40 + i];
      fraction = fraction << 8 | packet[44 + i];
    }
    int64_t utc = (static_cast<int64_t>(seconds) - 2208988800LL) * 1000000000LL;
    return utc + ((static_cast<int64_t>(fraction) * 1000000000LL) >> 32) - nodeNow(nullptr);
  }
  return 0;
}

void setup() {
  static @prefix@_port port;
  @prefix@_peer peer = @prefix@_peer();
  @prefix@_text origin = {ORIGIN, sizeof ORIGIN - 1};
  Serial.begin(115200);
  while (!Ethernet.begin(mac)) Serial.println("no address yet");
  udp.begin(5683);
  // Event times are UTC: without a clock nothing is measured.
  while ((epochNs = askTime()) == 0) Serial.println("no time yet");
  port.now = nodeNow;
  port.send = nodeSend;
  port.act = nodeAct;
  port.receive = nodeReceive;
  port.frame = nodeFrame;
  port.sleep_until = nodeSleepUntil;
  port.next_boot = nodeNextBoot;
  makePeer(&peer, GATEWAY, GATEWAY_PORT);
  nextFrameNs = nodeNow(nullptr) + @PREFIX@_PERIOD_NS;
  // Devices that are switched on together must not wait alike: what differs is the time to the microsecond, and the address.
  uint32_t chance = static_cast<uint32_t>(epochNs / 1000) ^ micros() ^ static_cast<uint32_t>(mac[5]) << 24;
  if (!@prefix@_firmware_begin(&firmware, &port, nullptr, origin, &peer, 0xffffffffu, chance)) {
    Serial.println("not started: the name is too long, or the starts cannot be counted in EEPROM");
    for (;;) delay(1000);
  }
}

void loop() { @prefix@_firmware_turn(&firmware); }
