// One attempt to reach an address, by an unusual way: attempt WAY ADDRESS PORT TOKEN.
// What is sent holds the token. It says "silent", "answer ...", or the error.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <net/if.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef MSG_FASTOPEN
#define MSG_FASTOPEN 0x20000000
#endif
#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0x4000000
#endif
#ifndef SO_ZEROCOPY
#define SO_ZEROCOPY 60
#endif

static const int patience = 300; // milliseconds

static const char *token;
static size_t size;
static struct sockaddr_storage to;
static socklen_t tolen;

static void fail(const char *doing) {
	printf("%s: %s\n", doing, strerror(errno));
	exit(0);
}

static void must(long r, const char *doing) {
	if (r < 0)
		fail(doing);
}

static void address(const char *a, int port) {
	char plain[64];
	snprintf(plain, sizeof plain, "%s", a);
	char *scope = strchr(plain, '%');
	if (scope)
		*scope++ = 0;
	struct sockaddr_in6 *s6 = (void *)&to;
	struct sockaddr_in *s4 = (void *)&to;
	if (inet_pton(AF_INET6, plain, &s6->sin6_addr) == 1) {
		s6->sin6_family = AF_INET6;
		s6->sin6_port = htons(port);
		s6->sin6_scope_id = scope ? if_nametoindex(scope) : 0;
		tolen = sizeof *s6;
	} else if (inet_pton(AF_INET, plain, &s4->sin_addr) == 1) {
		s4->sin_family = AF_INET;
		s4->sin_port = htons(port);
		tolen = sizeof *s4;
	}
}

// answer waits for one.
static void answer(int fd) {
	char b[256];
	struct pollfd p = {.fd = fd, .events = POLLIN};
	if (poll(&p, 1, patience) == 0) {
		puts("silent");
		exit(0);
	}
	ssize_t n = recv(fd, b, sizeof b - 1, MSG_DONTWAIT);
	if (n < 0 && errno == EAGAIN) { // news about a sent buffer
		puts("silent");
		exit(0);
	}
	must(n, "reading");
	b[n] = 0;
	printf("answer %s\n", b);
	exit(0);
}

// connected waits for the connection of a non-blocking socket, and speaks.
static void connected(int fd, int r, const char *doing) {
	if (r < 0 && errno != EINPROGRESS)
		fail(doing);
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	if (poll(&p, 1, patience) == 0) {
		puts("silent");
		exit(0);
	}
	int e = 0;
	socklen_t n = sizeof e;
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n);
	if (e) {
		errno = e;
		fail(doing);
	}
	must(send(fd, token, size, MSG_NOSIGNAL), "sending");
	answer(fd);
}

static int sock(int type, int proto) {
	int fd = socket(to.ss_family, type | SOCK_NONBLOCK, proto);
	must(fd, "socket");
	int one = 1, ttl = 1, lo = if_nametoindex("lo");
	setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &one, sizeof one);
	struct ip_mreqn via = {.imr_ifindex = lo};
	setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &via, sizeof via);
	setsockopt(fd, IPPROTO_IPV6, IPV6_MULTICAST_IF, &lo, sizeof lo);
	setsockopt(fd, IPPROTO_IP, IP_MULTICAST_TTL, &ttl, sizeof ttl);
	return fd;
}

static void set(int fd, int level, int name, int value, const char *doing) {
	must(setsockopt(fd, level, name, &value, sizeof value), doing);
}

static struct iovec iov;

static struct msghdr message(void) {
	iov = (struct iovec){(void *)token, size};
	return (struct msghdr){.msg_name = &to, .msg_namelen = tolen, .msg_iov = &iov, .msg_iovlen = 1};
}

static void tcp(const char *way) {
	if (!strcmp(way, "mptcp")) {
		int fd = sock(SOCK_STREAM, 262);
		connected(fd, connect(fd, (void *)&to, tolen), "connect");
	}
	int fd = sock(SOCK_STREAM, 0);
	if (!strcmp(way, "tcp"))
		connected(fd, connect(fd, (void *)&to, tolen), "connect");
	if (!strcmp(way, "tcp-marked")) {
		setsockopt(fd, SOL_SOCKET, SO_MARK, &(int){7}, sizeof(int));
		connected(fd, connect(fd, (void *)&to, tolen), "connect");
	}
	if (!strcmp(way, "tcp-bound")) { // from an address that is another's
		set(fd, IPPROTO_IP, IP_FREEBIND, 1, "IP_FREEBIND");
		struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f070707)};
		must(bind(fd, (void *)&from, sizeof from), "bind");
		connected(fd, connect(fd, (void *)&to, tolen), "connect");
	}
	if (!strcmp(way, "tcp-oob")) {
		int r = connect(fd, (void *)&to, tolen);
		struct pollfd p = {.fd = fd, .events = POLLOUT};
		if (r < 0 && errno == EINPROGRESS && poll(&p, 1, patience) == 1)
			send(fd, "!", 1, MSG_OOB | MSG_NOSIGNAL);
		connected(fd, r, "connect");
	}
	if (!strcmp(way, "tfo-sendto"))
		connected(fd, sendto(fd, token, size, MSG_FASTOPEN, (void *)&to, tolen), "sendto");
	if (!strcmp(way, "tfo-sendmsg")) {
		struct msghdr m = message();
		connected(fd, sendmsg(fd, &m, MSG_FASTOPEN), "sendmsg");
	}
	if (!strcmp(way, "tfo-sendmmsg")) {
		struct mmsghdr m = {.msg_hdr = message()};
		connected(fd, sendmmsg(fd, &m, 1, MSG_FASTOPEN), "sendmmsg");
	}
	if (!strcmp(way, "tfo-option")) {
		set(fd, IPPROTO_TCP, 30, 1, "TCP_FASTOPEN_CONNECT");
		int r = connect(fd, (void *)&to, tolen); // it waits for a SYN only with a cookie
		connected(fd, r == 0 ? send(fd, token, size, 0) : r, "connect");
	}
}

static void udp(const char *way) {
	int flags = 0, r = 0;
	int fd = sock(SOCK_DGRAM, !strcmp(way, "udp-lite") ? 136 : 0);
	if (!strcmp(way, "udp-oob"))
		flags = MSG_OOB;
	else if (!strcmp(way, "udp-confirm"))
		flags = MSG_CONFIRM;
	else if (!strcmp(way, "udp-dontroute"))
		flags = MSG_DONTROUTE;
	else if (!strcmp(way, "udp-eor"))
		flags = MSG_EOR | MSG_NOSIGNAL;
	else if (!strcmp(way, "udp-zerocopy")) {
		set(fd, SOL_SOCKET, SO_ZEROCOPY, 1, "SO_ZEROCOPY");
		flags = MSG_ZEROCOPY;
	}
	if (!strcmp(way, "udp-empty")) {
		r = sendto(fd, NULL, 0, 0, (void *)&to, tolen);
	} else if (!strcmp(way, "udp-more")) {
		must(sendto(fd, token, 3, MSG_MORE, (void *)&to, tolen), "sendto");
		r = sendto(fd, token + 3, size - 3, 0, (void *)&to, tolen);
	} else if (!strcmp(way, "udp-cork")) {
		must(connect(fd, (void *)&to, tolen), "connect");
		set(fd, IPPROTO_UDP, UDP_CORK, 1, "UDP_CORK");
		must(write(fd, token, size), "write");
		r = setsockopt(fd, IPPROTO_UDP, UDP_CORK, &(int){0}, sizeof(int));
	} else if (!strcmp(way, "udp-segment")) {
		set(fd, IPPROTO_UDP, 103, 20, "UDP_SEGMENT");
		char b[200];
		for (size_t i = 0; i < sizeof b; i++)
			b[i] = token[i % size];
		r = sendto(fd, b, sizeof b, 0, (void *)&to, tolen);
	} else if (!strcmp(way, "udp-mmsg")) {
		struct mmsghdr m[3] = {{.msg_hdr = message()}, {.msg_hdr = message()}, {.msg_hdr = message()}};
		r = sendmmsg(fd, m, 3, 0);
	} else if (!strcmp(way, "udp-unspec")) { // to a datagram the kernel takes it as IPv4
		to.ss_family = AF_UNSPEC;
		r = sendto(fd, token, size, 0, (void *)&to, tolen);
	} else if (!strcmp(way, "udp-write")) {
		must(connect(fd, (void *)&to, tolen), "connect");
		r = write(fd, token, size);
	} else if (!strcmp(way, "udp-splice")) {
		int p[2];
		must(connect(fd, (void *)&to, tolen), "connect");
		must(pipe(p), "pipe");
		must(write(p[1], token, size), "write");
		r = splice(p[0], NULL, fd, NULL, size, 0);
	} else if (!strcmp(way, "udp-route")) { // a loose source route by another address
		uint8_t o[8] = {131, 7, 4};
		memcpy(o + 3, &((struct sockaddr_in *)&to)->sin_addr, 4);
		must(setsockopt(fd, IPPROTO_IP, IP_OPTIONS, o, sizeof o), "IP_OPTIONS");
		((struct sockaddr_in *)&to)->sin_addr.s_addr = htonl(0x7f010101);
		r = sendto(fd, token, size, 0, (void *)&to, tolen);
	} else {
		r = sendto(fd, token, size, flags, (void *)&to, tolen);
	}
	must(r, "sending");
	answer(fd);
}

static uint16_t sum(const void *p, size_t n) {
	const uint8_t *b = p;
	uint32_t s = 0;
	for (size_t i = 0; i + 1 < n; i += 2)
		s += b[i] << 8 | b[i + 1];
	if (n & 1)
		s += b[n - 1] << 8;
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return htons(~s);
}

// datagram writes an IPv4 packet with a UDP datagram.
static size_t datagram(uint8_t *b, uint32_t dst, uint16_t port) {
	struct iphdr *ip = (void *)b;
	struct udphdr *u = (void *)(b + 20);
	*ip = (struct iphdr){.version = 4, .ihl = 5, .ttl = 64, .protocol = 17, .saddr = htonl(0x7f000001), .daddr = dst, .tot_len = htons(28 + size)};
	ip->check = sum(ip, 20);
	*u = (struct udphdr){.source = htons(9), .dest = port, .len = htons(8 + size)};
	memcpy(b + 28, token, size);
	return 28 + size;
}

static void raw(const char *way) {
	uint8_t b[256];
	struct sockaddr_in *s4 = (void *)&to;
	struct sockaddr_in6 *s6 = (void *)&to;
	uint32_t dst = s4->sin_addr.s_addr;
	uint16_t port = s4->sin_port;
	int fd;
	if (!strcmp(way, "raw-udp") || !strcmp(way, "raw-lies")) {
		fd = sock(SOCK_RAW, IPPROTO_RAW);
		if (!strcmp(way, "raw-lies")) // the header goes elsewhere than the call
			s4->sin_addr.s_addr = htonl(0x7f090909);
		must(sendto(fd, b, datagram(b, dst, port), 0, (void *)&to, tolen), "sendto");
	} else if (!strcmp(way, "raw-tcp")) {
		fd = sock(SOCK_RAW, IPPROTO_TCP);
		struct tcphdr *h = (void *)b;
		*h = (struct tcphdr){.source = htons(9), .dest = port, .doff = 5, .syn = 1, .window = htons(99)};
		memcpy(b + 20, token, size);
		s4->sin_port = 0;
		must(sendto(fd, b, 20 + size, 0, (void *)&to, tolen), "sendto");
	} else if (!strcmp(way, "raw-udp6")) {
		fd = sock(SOCK_RAW, IPPROTO_UDP);
		set(fd, IPPROTO_IPV6, IPV6_CHECKSUM, 6, "IPV6_CHECKSUM");
		struct udphdr *u = (void *)b;
		*u = (struct udphdr){.source = htons(9), .dest = port, .len = htons(8 + size)};
		memcpy(b + 8, token, size);
		s6->sin6_port = 0;
		must(sendto(fd, b, 8 + size, 0, (void *)&to, tolen), "sendto");
	} else { // icmp, ping
		int v6 = to.ss_family == AF_INET6;
		fd = sock(!strcmp(way, "ping") ? SOCK_DGRAM : SOCK_RAW, v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP);
		memset(b, 0, 8);
		b[0] = v6 ? 128 : 8;
		memcpy(b + 8, token, size);
		if (!v6)
			*(uint16_t *)(b + 2) = sum(b, 8 + size);
		s4->sin_port = 0;
		must(sendto(fd, b, 8 + size, 0, (void *)&to, tolen), "sendto");
		for (int i = 0; i < 5; i++) { // a raw socket hears the question too
			struct pollfd p = {.fd = fd, .events = POLLIN};
			if (poll(&p, 1, patience) == 0)
				break;
			uint8_t r[256];
			ssize_t n = recv(fd, r, sizeof r, MSG_DONTWAIT);
			must(n, "reading");
			uint8_t *h = !strcmp(way, "icmp") && !v6 ? r + 20 : r;
			if (*h == (v6 ? 129 : 0)) {
				puts("answer echo");
				return;
			}
		}
		puts("silent");
		return;
	}
	puts("silent");
	usleep(patience * 1000);
}

// packet injects a frame: attempt packet INTERFACE PORT TOKEN
static void packet(const char *dev, int port) {
	uint8_t b[256] = {0};
	int fd = socket(AF_PACKET, SOCK_RAW, htons(3));
	must(fd, "socket");
	b[12] = 8;
	size_t n = 14 + datagram(b + 14, htonl(0x7f000001), htons(port));
	struct sockaddr_ll l = {.sll_family = AF_PACKET, .sll_protocol = htons(0x800), .sll_ifindex = if_nametoindex(dev), .sll_halen = 6};
	must(sendto(fd, b, n, 0, (void *)&l, sizeof l), "sendto");
	puts("sent");
	usleep(patience * 1000);
}

#ifdef __x86_64__
// old calls by the 32-bit convention.
static long old(long nr, long a, long b, long c, long d, long e, long f) {
	long r;
	register long bp __asm__("r8") = f;
	__asm__ volatile("push %%rbp; mov %%r8, %%rbp; int $0x80; pop %%rbp"
			 : "=a"(r)
			 : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e), "r"(bp)
			 : "memory", "r9", "r10", "r11");
	int32_t v = r;
	if (v < 0 && v > -4096) {
		errno = -v;
		return -1;
	}
	return v;
}

static void conventions(const char *way) {
	// What it is given must lie below 4 GiB.
	struct low {
		struct sockaddr_storage to;
		char token[64];
		uint32_t args[6];
	} *l = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	l->to = to;
	memcpy(l->token, token, size);
	long fd, at = (long)&l->to, text = (long)l->token;
	uint32_t *a = l->args;
	if (!strncmp(way, "x32-", 4)) {
		fd = syscall(0x40000000 + SYS_socket, to.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0);
		must(fd, "socket");
		connected(fd, syscall(0x40000000 + SYS_connect, fd, &l->to, tolen), "connect");
	}
	if (!strcmp(way, "int80-tcp")) {
		fd = old(359, to.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0, 0, 0, 0);
		must(fd, "socket");
		connected(fd, old(362, fd, at, tolen, 0, 0, 0), "connect");
	}
	if (!strcmp(way, "int80-udp")) {
		fd = old(359, to.ss_family, SOCK_DGRAM, 0, 0, 0, 0);
		must(fd, "socket");
		must(old(369, fd, text, size, 0, at, tolen), "sendto");
		answer(fd);
	}
	if (!strcmp(way, "socketcall-socket")) {
		memcpy(a, (uint32_t[]){to.ss_family, SOCK_STREAM | SOCK_NONBLOCK, 0}, 12);
		fd = old(102, 1, (long)a, 0, 0, 0, 0);
		must(fd, "socket");
		memcpy(a, (uint32_t[]){fd, at, tolen}, 12);
		connected(fd, old(102, 3, (long)a, 0, 0, 0, 0), "connect");
	}
	if (!strcmp(way, "socketcall-tcp")) {
		fd = sock(SOCK_STREAM, 0);
		memcpy(a, (uint32_t[]){fd, at, tolen}, 12);
		connected(fd, old(102, 3, (long)a, 0, 0, 0, 0), "connect");
	}
	if (!strcmp(way, "socketcall-udp")) {
		fd = sock(SOCK_DGRAM, 0);
		memcpy(a, (uint32_t[]){fd, text, size, 0, at, tolen}, 24);
		must(old(102, 11, (long)a, 0, 0, 0, 0), "sendto");
		answer(fd);
	}
}
#endif

// uring connects, or sends, by a ring.
static void uring(const char *way, int legacy) {
	struct io_uring_params p = {0};
	int ring = -1;
#ifdef __x86_64__
	if (legacy)
		ring = old(425, 4, (long)mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0), 0, 0, 0, 0);
	else
#endif
		ring = syscall(SYS_io_uring_setup, 4, &p);
	must(ring, "io_uring_setup");
	if (legacy) {
		puts("a ring by the 32-bit convention");
		return;
	}
	uint8_t *sq = mmap(NULL, p.sq_off.array + p.sq_entries * 4 + p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe), PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	struct io_uring_sqe *e = mmap(NULL, p.sq_entries * sizeof *e, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
	int fd = socket(to.ss_family, SOCK_STREAM, 0);
	must(fd, "socket");
	memset(e, 0, sizeof *e);
	e->opcode = IORING_OP_CONNECT;
	e->fd = fd;
	e->addr = (uintptr_t)&to;
	e->off = tolen;
	*(uint32_t *)(sq + p.sq_off.array) = 0;
	__atomic_store_n((uint32_t *)(sq + p.sq_off.tail), 1, __ATOMIC_RELEASE);
	must(syscall(SYS_io_uring_enter, ring, 1, 0, 0, NULL, 0), "io_uring_enter");
	usleep(patience * 1000);
	must(send(fd, token, size, MSG_DONTWAIT | MSG_NOSIGNAL), "sending");
	answer(fd);
}

static void family(const char *way, const char *name) {
	struct sockaddr_un u = {.sun_family = AF_UNIX};
	socklen_t n = sizeof u;
	int type = !strcmp(way, "unix-packet") ? SOCK_SEQPACKET : SOCK_STREAM;
	snprintf(u.sun_path, sizeof u.sun_path, "%s", name);
	if (*name == '@') {
		u.sun_path[0] = 0;
		n = offsetof(struct sockaddr_un, sun_path) + strlen(name);
	}
	int fd = socket(AF_UNIX, type, 0);
	must(fd, "socket");
	must(connect(fd, (void *)&u, n), "connect");
	must(write(fd, token, size), "write");
	answer(fd);
}

// families says which kinds of sockets can be made at all.
static void families(void) {
	for (int f = 0; f < 64; f++)
		for (int type = 1; type < 6; type++) {
			int fd = socket(f, type, 0);
			if (fd < 0 && errno != EPROTONOSUPPORT && errno != ESOCKTNOSUPPORT && errno != EPROTOTYPE && errno != EINVAL && errno != EPERM && errno != EACCES)
				continue;
			printf("%d ", f);
			if (fd >= 0)
				close(fd);
			break;
		}
	puts("");
}

// descriptors writes to whatever else is open, and asks sockets for their
// network namespace.
static void descriptors(void) {
	int found = 0;
	for (int fd = 0; fd < 1024; fd++) {
		char link[64], where[256] = {0};
		snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
		if (readlink(link, where, sizeof where - 1) < 0)
			continue;
		int ns = ioctl(fd, 0x894C); // SIOCGSKNS
		if (ns >= 0 && setns(ns, CLONE_NEWNET) == 0)
			printf("descriptor %d gave a network namespace\n", fd);
		if (strncmp(where, "pipe:", 5) && strcmp(where, "/dev/null")) {
			found++;
			printf("descriptor %d is %s\n", fd, where);
			(void)!write(fd, token, size);
		}
	}
	if (!found)
		puts("no descriptors");
}

// enter goes to a network namespace, by its file or by a process, then connects.
static void enter(const char *way, const char *what, int port) {
	int fd = !strcmp(way, "setns") ? open(what, O_RDONLY) : syscall(SYS_pidfd_open, atoi(what), 0);
	must(fd, !strcmp(way, "setns") ? "open" : "pidfd_open");
	int r = setns(fd, CLONE_NEWNET);
	if (r < 0)
		printf("setns: %s; ", strerror(errno));
	address("127.0.0.1", port);
	tcp("tcp");
}

#define OTHER 0x0a000063 // 10.0.0.99

static void *flip(void *arg) {
	volatile in_addr_t *a = &((struct sockaddr_in *)&to)->sin_addr.s_addr;
	in_addr_t one = *a, other = htonl(OTHER);
	for (;;) {
		*a = other;
		*a = one;
	}
	return arg;
}

// race changes the address while the kernel, and who watches, are reading it.
static void race(void) {
	pthread_t t;
	volatile in_addr_t *a = &((struct sockaddr_in *)&to)->sin_addr.s_addr;
	pthread_create(&t, NULL, flip, NULL);
	for (int i = 0; i < 300; i++) {
		while ((*a == htonl(OTHER)) == i % 2) // both are tried on a busy machine too
			sched_yield();
		int fd = sock(SOCK_STREAM, 0);
		if (connect(fd, (void *)&to, tolen) < 0 && errno != EINPROGRESS)
			fail("connect");
		close(fd);
	}
	puts("silent");
	exit(0);
}

int main(int argc, char **argv) {
	setvbuf(stdout, NULL, _IONBF, 0);
	if (argc != 5) {
		fprintf(stderr, "usage: attempt WAY ADDRESS PORT TOKEN\n");
		return 2;
	}
	const char *way = argv[1];
	int port = atoi(argv[3]);
	token = argv[4];
	size = strlen(token);
	address(argv[2], port);
	if (!strncmp(way, "udp", 3))
		udp(way);
	else if (!strncmp(way, "raw", 3) || !strcmp(way, "icmp") || !strcmp(way, "ping"))
		raw(way);
	else if (!strcmp(way, "packet"))
		packet(argv[2], port);
	else if (!strncmp(way, "uring", 5))
		uring(way, !strcmp(way, "uring-int80"));
	else if (!strncmp(way, "unix", 4))
		family(way, argv[2]);
	else if (!strcmp(way, "families"))
		families();
	else if (!strcmp(way, "descriptors"))
		descriptors();
	else if (!strcmp(way, "setns") || !strcmp(way, "pidfd"))
		enter(way, argv[2], port);
#ifdef __x86_64__
	else if (!strncmp(way, "int80", 5) || !strncmp(way, "x32", 3) || !strncmp(way, "socketcall", 10))
		conventions(way);
#endif
	else if (!strcmp(way, "race"))
		race();
	else if (!strcmp(way, "undumpable")) { // hides from who has no privilege over it
		must(prctl(PR_SET_DUMPABLE, 0), "prctl");
		tcp("tcp");
	} else
		tcp(way);
	return 0;
}
