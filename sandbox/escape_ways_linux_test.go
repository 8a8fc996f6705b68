package sandbox

import "runtime"

func tcpEscapes() []escape {
	l := []escape{
		{name: "mapped unspecified", line: "attempt tcp ::ffff:0.0.0.0 $TCP $TOKEN", proto: "tcp"},
		{name: "link-local", line: "attempt tcp fe80::1%eth0 $TCP $TOKEN", proto: "tcp"},
		{name: "elsewhere", line: "attempt tcp 10.0.0.1 $TCP $TOKEN", proto: "tcp"},
		{name: "metadata", line: "attempt tcp 169.254.169.254 80 $TOKEN", proto: "tcp"},
		{name: "elsewhere, IPv6", line: "attempt tcp 2001:db8::1 $TCP $TOKEN", proto: "tcp"},
		{name: "synthetic address of no name", line: "attempt tcp 198.18.0.1 $TCP $TOKEN", proto: "tcp"},
		{name: "musl", line: "attempt-musl tcp 127.0.0.1 $TCP $TOKEN", control: "tcp", proto: "tcp"},
		{name: "proxy of the operator's environment", line: "curl -sm0.4 http://10.0.0.1/$TOKEN && echo reached; echo ${http_proxy-none}", control: "tcp", says: "^none$", proto: "tcp"},
		{name: "curl by a proxy of the environment", line: "http_proxy=http://127.0.0.1:$TCP all_proxy=socks5h://127.0.0.1:$TCP curl -sm0.4 http://$TOKEN.example/ && echo reached || echo silent", control: "tcp", proto: "tcp"},
		{name: "python by a proxy of the environment", line: "https_proxy=http://127.0.0.1:$TCP python3 -c 'import urllib.request,sys\ntry: urllib.request.urlopen(\"https://10.0.0.1/\"+sys.argv[1], timeout=0.4)\nexcept TimeoutError: print(\"silent\")\nexcept Exception as e: print(\"silent\" if \"timed out\" in str(e) else e)' $TOKEN", control: "tcp", proto: "tcp"},
	}
	for _, a := range []string{"127.0.0.1", "127.0.0.2", "127.255.255.254", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"} {
		l = append(l, escape{name: "loopback as " + a, line: "attempt tcp " + a + " $TCP $TOKEN", control: "tcp", proto: "tcp"})
	}
	for _, way := range []string{"tcp-marked", "tcp-bound", "tcp-oob", "tfo-sendto", "tfo-sendmsg", "tfo-sendmmsg", "tfo-option", "mptcp", "undumpable"} {
		l = append(l, escape{name: way, line: "attempt " + way + " 127.0.0.1 $TCP $TOKEN", control: "tcp", proto: "tcp"})
	}
	return append(l,
		escape{name: "fast open, IPv6", line: "attempt tfo-sendto ::1 $TCP $TOKEN", control: "tcp", proto: "tcp"},
		escape{name: "mptcp, IPv6", line: "attempt mptcp ::1 $TCP $TOKEN", control: "tcp", proto: "tcp"},
	)
}

func udpEscapes() []escape {
	l := []escape{
		// The kernel knows no urgent datagrams.
		{name: "udp-oob", line: "attempt udp-oob 127.0.0.1 $UDP $TOKEN", says: "not supported", proto: "udp", verdict: Inside},
		{name: "udp-lite", line: "attempt udp-lite 127.0.0.1 $UDP $TOKEN", control: "sniffer", root: true, proto: "udplite"},
		{name: "udp-lite, IPv6", line: "attempt udp-lite ::1 $UDP $TOKEN", control: "sniffer", root: true, proto: "udplite"},
		{name: "multicast", line: "attempt udp " + group4 + " $UDP $TOKEN", control: "udp", proto: "udp"},
		{name: "multicast, IPv6", line: "attempt udp " + group6 + "%lo $UDP $TOKEN", proto: "udp"},
		{name: "multicast on eth0", line: "attempt udp ff02::fb%eth0 5353 $TOKEN", proto: "udp"},
		{name: "broadcast", line: "attempt udp 255.255.255.255 $UDP $TOKEN", proto: "udp"},
		{name: "broadcast of lo", line: "attempt udp 127.255.255.255 $UDP $TOKEN", proto: "udp"},
		{name: "udp, link-local", line: "attempt udp fe80::1%eth0 $UDP $TOKEN", proto: "udp"},
		{name: "udp, musl", line: "attempt-musl udp-mmsg ::1 $UDP $TOKEN", control: "udp", proto: "udp"},
	}
	for _, a := range []string{"127.0.0.1", "127.0.0.2", "0.0.0.0", "::1", "::ffff:127.0.0.1"} {
		l = append(l, escape{name: "udp to loopback as " + a, line: "attempt udp " + a + " $UDP $TOKEN", control: "udp", proto: "udp"})
	}
	for _, way := range []string{"confirm", "dontroute", "eor", "zerocopy", "empty", "more", "cork", "segment", "mmsg", "unspec", "write", "splice"} {
		l = append(l, escape{name: "udp-" + way, line: "attempt udp-" + way + " 127.0.0.1 $UDP $TOKEN", control: "udp", proto: "udp"})
	}
	return l
}

func rawEscapes() []escape {
	return []escape{
		{name: "raw UDP", line: "attempt raw-udp 127.0.0.1 $UDP $TOKEN", control: "udp", root: true, proto: "raw"},
		{name: "raw UDP, IPv6", line: "attempt raw-udp6 ::1 $UDP $TOKEN", control: "udp", root: true, proto: "raw"},
		{name: "raw TCP", line: "attempt raw-tcp 127.0.0.1 $TCP $TOKEN", control: "sniffer", root: true, proto: "raw"},
		{name: "ICMP", line: "attempt icmp 127.0.0.1 0 $TOKEN", control: "sniffer", root: true, proto: "icmp"},
		{name: "ICMP, IPv6", line: "attempt icmp ::1 0 $TOKEN", control: "sniffer", root: true, proto: "icmp"},
		{name: "ICMP elsewhere", line: "attempt icmp 10.0.0.1 0 $TOKEN", proto: "icmp"},
		// The host says who may; in the vacuum nobody may.
		{name: "ping socket", line: "attempt ping 127.0.0.1 0 $TOKEN", says: "denied"},
		{name: "frame to lo", line: "attempt packet lo $UDP $TOKEN", says: "sent", control: "sniffer", root: true, proto: "packet"},
		{name: "frame to eth0", line: "attempt packet eth0 $UDP $TOKEN", says: "sent", proto: "packet"},
		// Only unix, IPv4, IPv6, netlink and packet: not vsock, SMC, XDP, Bluetooth, alg.
		{name: "families", line: "attempt families 0 0 $TOKEN", says: "^1 2 10 16 17$"},
		{name: "vsock", line: "python3 -c 'import socket,sys\ntry: socket.socket(40, 1).connect((2, 22))\nexcept OSError as e: print(e)' $TOKEN", says: "not supported", proto: "vsock"},
	}
}

func callEscapes() []escape {
	l := []escape{
		{name: "ring", line: "attempt uring 127.0.0.1 $TCP $TOKEN", control: "tcp", says: "io_uring_setup: Function not implemented"},
	}
	if runtime.GOARCH != "amd64" {
		return l
	}
	return append(l,
		escape{name: "ring, 32 bits", line: "attempt uring-int80 127.0.0.1 $TCP $TOKEN", says: "io_uring_setup: Function not implemented"},
		escape{name: "TCP, 32 bits", line: "attempt int80-tcp 127.0.0.1 $TCP $TOKEN", control: "tcp", proto: "tcp"},
		escape{name: "TCP to IPv6, 32 bits", line: "attempt int80-tcp ::1 $TCP $TOKEN", control: "tcp", proto: "tcp"},
		escape{name: "UDP, 32 bits", line: "attempt int80-udp 127.0.0.1 $UDP $TOKEN", control: "udp", proto: "udp"},
		escape{name: "socketcall: socket", line: "attempt socketcall-socket 127.0.0.1 $TCP $TOKEN", control: "tcp", says: "socket: Function not implemented", proto: "family-2"},
		escape{name: "socketcall: connect", line: "attempt socketcall-tcp 127.0.0.1 $TCP $TOKEN", control: "tcp", proto: "tcp"},
		escape{name: "socketcall: sendto", line: "attempt socketcall-udp 127.0.0.1 $UDP $TOKEN", control: "udp", proto: "udp"},
		// Debian's kernels know x32 only when told at boot.
		escape{name: "x32", line: "attempt x32-tcp 127.0.0.1 $TCP $TOKEN", says: "socket: Function not implemented"},
	)
}

func socketEscapes() []escape {
	refused := "Connection refused"
	return []escape{
		{name: "unix path", line: "attempt unix $UNIX 0 $TOKEN", control: "unix", says: refused, proto: "unix"},
		{name: "unix path, packets", line: "attempt unix-packet $UNIX 0 $TOKEN", says: refused, proto: "unix"},
		{name: "unix path of a root", line: "attempt unix /proc/self/root$UNIX 0 $TOKEN", control: "unix", says: refused, proto: "unix"},
		{name: "unix path of every root", line: "for p in /proc/[0-9]*; do attempt unix $p/root$UNIX 0 $TOKEN; done", control: "unix", says: "^(connect: (Connection refused|Permission denied|No such file or directory)\n?)+$", proto: "unix"},
		{name: "unix path of the host's process", line: "attempt unix /proc/$HOSTPID/root$UNIX 0 $TOKEN", control: "unix", says: "connect: (No such file|Connection refused)", proto: "unix"},
		{name: "unix path bound elsewhere", line: "unshare -Urm sh -c 'mount --bind ${UNIX%/*} /mnt && attempt unix /mnt/${UNIX##*/} 0 $TOKEN'", control: "unix", says: refused, proto: "unix"},
		{name: "unix path, file bound elsewhere", line: "unshare -Urm sh -c 'touch /dev/shm/$TOKEN; mount --bind $UNIX /dev/shm/$TOKEN && attempt unix /dev/shm/$TOKEN 0 $TOKEN; rm -f /dev/shm/$TOKEN'", control: "unix", says: refused, proto: "unix"},
		{name: "unix path behind an overlay", line: "unshare -Urm sh -c 'mount -t tmpfs x /mnt && mkdir /mnt/u /mnt/w /mnt/o && mount -t overlay -o userxattr,lowerdir=${UNIX%/*},upperdir=/mnt/u,workdir=/mnt/w x /mnt/o && attempt unix /mnt/o/${UNIX##*/} 0 $TOKEN'", says: refused, proto: "unix"},
		{name: "unix path, linked", line: "ln -s $UNIX /tmp/$TOKEN; attempt unix /tmp/$TOKEN 0 $TOKEN; rm -f /tmp/$TOKEN", control: "unix", says: refused, proto: "unix"},
		{name: "abstract", line: "attempt unix @$ABSTRACT 0 $TOKEN", control: "abstract", says: refused, proto: "abstract"},
		{name: "abstract, new network", line: "unshare -Urn attempt unix @$ABSTRACT 0 $TOKEN", says: refused, proto: "abstract"},
		// A pipe of the host is no network: nothing is recorded, and nothing arrives.
		{name: "named pipe", line: "timeout 0.3 sh -c 'echo $TOKEN >$FIFO' || echo nobody reads", control: "fifo", says: "nobody reads"},
	}
}

func namespaceEscapes() []escape {
	return []escape{
		{name: "new user", line: "unshare -Ur attempt tcp 127.0.0.1 $TCP $TOKEN", control: "tcp", proto: "tcp"},
		{name: "new user in a new user", line: "unshare -Ur unshare -Ur attempt udp 127.0.0.1 $UDP $TOKEN", control: "udp", proto: "udp"},
		{name: "new network", line: "unshare -Urn attempt tcp 127.0.0.1 $TCP $TOKEN", says: "unreachable", proto: "tcp", verdict: Inside},
		{name: "new network with a pair into the first", line: "unshare -Urn sh -c 'ip link add a type veth peer name b netns 1; ip link set lo up; ip route add default dev lo; attempt tcp 10.0.0.1 $TCP $TOKEN'", says: "silent|refused|unreachable", proto: "tcp", verdict: Inside},
		{name: "new process namespace with its own /proc", line: "unshare -Urpfm sh -c 'mount -t proc proc /proc; attempt unix /proc/1/root$UNIX 0 $TOKEN'", says: "^mount: .*denied", proto: "unix"},
		{name: "first process's network", line: "attempt setns /proc/1/ns/net $TCP $TOKEN", says: "^(open|setns): .*(denied|not permitted)"},
		{name: "first process's network as a new user", line: "unshare -Ur attempt setns /proc/1/ns/net $TCP $TOKEN", says: "^(open|setns): .*(denied|not permitted)"},
		{name: "own network, again", line: "attempt setns /proc/self/ns/net $TCP $TOKEN", control: "tcp", says: "^setns: Operation not permitted; silent$", proto: "tcp"},
		{name: "host's process", line: "attempt pidfd $HOSTPID $TCP $TOKEN", control: "tcp", says: "pidfd_open: No such process|setns: .*not permitted; silent"},
		{name: "network of the host's process", line: "attempt setns /proc/$HOSTPID/ns/net $TCP $TOKEN", control: "tcp", says: "^open: No such file"},
		{name: "nsenter", line: "nsenter -t 1 -n attempt tcp 127.0.0.1 $TCP $TOKEN", says: "nsenter: .*(denied|not permitted)"},
		{name: "nsenter to the host's process", line: "nsenter -t $HOSTPID -n attempt tcp 127.0.0.1 $TCP $TOKEN", control: "tcp", root: true, says: "nsenter: .*No such file"},
		{name: "parents of namespaces", line: "python3 $PROGRAMS/parents.py 127.0.0.1 $TCP $TOKEN", says: "^nothing; silent$", proto: "tcp"},
		{name: "without rules", line: "nft flush ruleset 2>/dev/null && echo flushed; attempt tcp 127.0.0.1 $TCP $TOKEN", proto: "tcp"},
		{name: "other routes", line: "ip route flush table local 2>/dev/null && echo flushed; ip link set lo down 2>/dev/null && echo down; ip link add v type veth peer name w netns 1 2>/dev/null && echo pair; ip link set eth0 netns 1 2>/dev/null && echo moved; attempt tcp 127.0.0.1 $TCP $TOKEN", proto: "tcp"},
		{name: "mounts", line: "for k in proc sysfs tmpfs devtmpfs cgroup2 debugfs bpf; do mount -t $k x /mnt 2>/dev/null && echo $k; unshare -Urm mount -t $k x /mnt 2>/dev/null && test $k != tmpfs && echo nested $k; done; mount -o remount,rw,bind /proc/sys 2>/dev/null && echo sysctls; attempt unix $UNIX 0 $TOKEN", says: "^connect: Connection refused$", proto: "unix"},
		{name: "file handles", line: "python3 $PROGRAMS/handles.py $UNIX $TOKEN", says: "^Operation not permitted; Connection refused$", proto: "unix"},
	}
}
