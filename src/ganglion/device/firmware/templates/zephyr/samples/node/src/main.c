/* A device on Zephyr: UDP by its sockets, the count of starts in its settings, sleep by its poll. */
#include <@prefix@.h>
#include <errno.h>
#include <string.h>
#include <zephyr/kernel.h>
#include <zephyr/net/sntp.h>
#include <zephyr/net/socket.h>
#include <zephyr/random/random.h>
#include <zephyr/settings/settings.h>
#include <zephyr/sys/printk.h>

#define SETTING "@prefix@/boot"
#define RETRY_S 5

struct node {
	int socket;
	int64_t next_frame_ns, epoch_ns; /* epoch: UTC when the uptime was 0 */
};

static @prefix@_firmware firmware;
static struct node node;
static uint64_t boots;

/* --- what is yours --- */

/* Your sensor: one frame, as it is stored. This one is a test signal. */
static void sensor_frame(uint8_t *stored)
{
	static uint8_t step;

	for (uint32_t i = 0; i < @PREFIX@_FRAME_BYTES; i++) {
		stored[i] = (uint8_t)(i & 1 ? 0 : step++);
	}
}

/* Your actuators: obey once. */
static void actuator_obeys(uint32_t actuator, @prefix@_text verb)
{
	printk("actuator %u: %.*s\n", (unsigned int)actuator, (int)verb.bytes, verb.text);
}

/* --- the port --- */

static int64_t node_now(void *user)
{
	(void)user;
	return (int64_t)k_ticks_to_ns_floor64(k_uptime_ticks());
}

static void node_send(void *user, const @prefix@_peer *to, const uint8_t *datagram, uint32_t bytes)
{
	struct sockaddr_in address;

	memcpy(&address, to->at, sizeof(address));
	/* What is not sent now is sent again in its time. */
	(void)zsock_sendto(((struct node *)user)->socket, datagram, bytes, 0, (struct sockaddr *)&address, sizeof(address));
}

static void make_peer(@prefix@_peer *peer, const struct sockaddr_in *from)
{
	struct sockaddr_in address;

	memset(&address, 0, sizeof(address));
	address.sin_family = AF_INET;
	address.sin_addr = from->sin_addr;
	address.sin_port = from->sin_port;
	memcpy(peer->at, &address, sizeof(address));
	peer->bytes = sizeof(address);
}

static uint32_t node_receive(void *user, @prefix@_peer *from, uint8_t *at, uint32_t room)
{
	struct sockaddr_in address;
	socklen_t size = sizeof(address);
	ssize_t n = zsock_recvfrom(((struct node *)user)->socket, at, room, ZSOCK_MSG_DONTWAIT, (struct sockaddr *)&address,
				   &size);

	if (n <= 0) {
		return 0;
	}
	make_peer(from, &address);
	return (uint32_t)n;
}

static uint32_t node_frame(void *user, uint8_t *stored, int64_t *time_ns)
{
	struct node *n = user;

	if (node_now(user) < n->next_frame_ns) {
		return 0;
	}
	sensor_frame(stored);
	*time_ns = n->epoch_ns + n->next_frame_ns;
	n->next_frame_ns += @PREFIX@_PERIOD_NS;
	return 1;
}

static void node_act(void *user, uint32_t actuator, @prefix@_text verb, @prefix@_text id, int64_t seq, uint32_t repeated)
{
	(void)user;
	(void)id;
	(void)seq;
	if (!repeated) {
		actuator_obeys(actuator, verb);
	}
}

static void node_sleep_until(void *user, int64_t when_ns)
{
	struct node *n = user;
	int64_t until_ns = when_ns < n->next_frame_ns ? when_ns : n->next_frame_ns, left_ns = until_ns - node_now(user);
	struct zsock_pollfd ready = {.fd = n->socket, .events = ZSOCK_POLLIN};

	if (left_ns > 0) {
		(void)zsock_poll(&ready, 1, (int)(left_ns / 1000000) + 1);
	}
}

static int load_boot(const char *name, size_t len, settings_read_cb read_cb, void *cb_arg)
{
	(void)name;
	if (len != sizeof(boots)) {
		return -EINVAL;
	}
	return read_cb(cb_arg, &boots, sizeof(boots)) == (ssize_t)sizeof(boots) ? 0 : -EIO;
}

SETTINGS_STATIC_HANDLER_DEFINE(@prefix@, "@prefix@", NULL, load_boot, NULL, NULL);

static uint64_t node_next_boot(void *user)
{
	(void)user;
	if (settings_subsys_init() || settings_load_subtree("@prefix@")) {
		return 0;
	}
	boots++;
	return settings_save_one(SETTING, &boots, sizeof(boots)) ? 0 : boots;
}

int main(void)
{
	static const @prefix@_port port = {
		.now = node_now,
		.send = node_send,
		.act = node_act,
		.receive = node_receive,
		.frame = node_frame,
		.sleep_until = node_sleep_until,
		.next_boot = node_next_boot,
	};
	const @prefix@_text origin = {CONFIG_@PREFIX@_ORIGIN, sizeof(CONFIG_@PREFIX@_ORIGIN) - 1};
	struct sockaddr_in gateway = {.sin_family = AF_INET, .sin_port = htons(CONFIG_@PREFIX@_GATEWAY_PORT)};
	@prefix@_peer peer = {0};
	struct sntp_time time;

	if (zsock_inet_pton(AF_INET, CONFIG_@PREFIX@_GATEWAY, &gateway.sin_addr) != 1) {
		printk("the gateway's address is not one: " CONFIG_@PREFIX@_GATEWAY "\n");
		return 0;
	}
	/* Event times are UTC: without a clock nothing is measured. */
	while (sntp_simple(CONFIG_@PREFIX@_SNTP, RETRY_S * 1000, &time)) {
		printk("no time from " CONFIG_@PREFIX@_SNTP " yet\n");
		k_sleep(K_SECONDS(RETRY_S));
	}
	node.epoch_ns = (int64_t)time.seconds * 1000000000 + (((int64_t)time.fraction * 1000000000) >> 32) - node_now(&node);
	node.socket = zsock_socket(AF_INET, SOCK_DGRAM, IPPROTO_UDP);
	make_peer(&peer, &gateway);
	node.next_frame_ns = node_now(&node) + @PREFIX@_PERIOD_NS;
	if (node.socket < 0 ||
	    !@prefix@_firmware_begin(&firmware, &port, &node, origin, &peer, 0xffffffffu, sys_rand32_get())) {
		printk("not started: no socket, the name is too long, or the starts cannot be counted in flash\n");
		return 0;
	}
	@prefix@_firmware_run(&firmware);
	return 0;
}
