/* A stand-in for tests, see ../../../README.md. */
#ifndef STUB_ZEPHYR_SOCKET_H
#define STUB_ZEPHYR_SOCKET_H
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
typedef size_t socklen_t;
typedef unsigned short sa_family_t;
struct in_addr {
  uint32_t s_addr;
};
struct sockaddr {
  sa_family_t sa_family;
  char data[22];
};
struct sockaddr_in {
  sa_family_t sin_family;
  uint16_t sin_port;
  struct in_addr sin_addr;
};
struct zsock_pollfd {
  int fd;
  short events, revents;
};
#define AF_INET 1
#define SOCK_DGRAM 2
#define IPPROTO_UDP 17
#define ZSOCK_MSG_DONTWAIT 0x40
#define ZSOCK_POLLIN 1
#define htons(x) ((uint16_t)((((x)&0xffu) << 8) | (((x) >> 8) & 0xffu)))
int zsock_socket(int family, int type, int proto);
ssize_t zsock_sendto(int sock, const void *buf, size_t len, int flags, const struct sockaddr *to, socklen_t tolen);
ssize_t zsock_recvfrom(int sock, void *buf, size_t len, int flags, struct sockaddr *from, socklen_t *fromlen);
int zsock_poll(struct zsock_pollfd *fds, int nfds, int timeout);
int zsock_inet_pton(sa_family_t family, const char *src, void *dst);
#endif
