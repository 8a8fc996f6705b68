// flood THREADS ATTEMPTS [BURST]: from each thread so many attempts, as fast as
// it can, to where nothing is: datagrams and connections in turn to a hundred
// destinations, or datagrams to one, so many with one system call.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST 1024 // messages that sendmmsg takes
#define THREADS 64

static int attempts, burst;

static void die(const char *doing) {
	perror(doing);
	exit(1);
}

static struct sockaddr_in destination(long self, int i) {
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(1000 + self)};
	to.sin_addr.s_addr = htonl(0x0a010000 + i % 100);
	return to;
}

static void send_bursts(long self, int udp) {
	struct iovec byte = {"x", 1};
	struct mmsghdr all[MOST];
	struct sockaddr_in to[MOST];
	for (int i = 0; i < burst; i++) {
		to[i] = destination(self, 0);
		all[i] = (struct mmsghdr){.msg_hdr = {.msg_name = &to[i], .msg_namelen = sizeof to[i], .msg_iov = &byte, .msg_iovlen = 1}};
	}
	for (int i = 0; i < attempts; i += burst)
		if (sendmmsg(udp, all, burst, 0) != burst) die("sendmmsg");
}

static void *flood(void *arg) {
	long self = (long)arg;
	int udp = socket(AF_INET, SOCK_DGRAM, 0);
	if (udp < 0) die("socket");
	if (burst > 0) {
		send_bursts(self, udp);
		return NULL;
	}
	for (int i = 0; i < attempts; i++) {
		struct sockaddr_in to = destination(self, i / 2);
		if (i % 2 == 0) {
			if (sendto(udp, "x", 1, 0, (struct sockaddr *)&to, sizeof to) != 1) die("sendto");
			continue;
		}
		int tcp = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
		if (tcp < 0) die("socket");
		if (connect(tcp, (struct sockaddr *)&to, sizeof to) == 0 || errno != EINPROGRESS) die("connect");
		close(tcp);
	}
	return NULL;
}

int main(int argc, char **argv) {
	if (argc < 3) return 2;
	int threads = atoi(argv[1]);
	attempts = atoi(argv[2]);
	burst = argc > 3 ? atoi(argv[3]) : 0;
	pthread_t all[THREADS];
	if (threads > THREADS || burst > MOST) return 2;
	for (long i = 0; i < threads; i++)
		if (pthread_create(&all[i], NULL, flood, (void *)i)) die("pthread_create");
	for (int i = 0; i < threads; i++) pthread_join(all[i], NULL);
	return 0;
}
