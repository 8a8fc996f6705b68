# Goes up from namespace to namespace by ioctl_ns(2) and by file handle, enters
# what it gets, and connects: parents.py ADDRESS PORT TOKEN.
import ctypes, fcntl, os, socket, struct, sys

NS_GET_USERNS, NS_GET_PARENT, NS_MNT_GET_NEXT, SIOCGSKNS = 0xB701, 0xB702, 0x8010B70B, 0x894C
libc = ctypes.CDLL(None, use_errno=True)
got = []


def enter(name, fd):
    if libc.setns(fd, 0) == 0:
        got.append(name)


for kind in ("user", "pid", "net", "mnt", "ipc", "uts", "cgroup"):
    fd = os.open("/proc/self/ns/" + kind, os.O_RDONLY)
    for name, call in (("owner", NS_GET_USERNS), ("parent", NS_GET_PARENT)):
        if kind == "user" and name == "owner":
            continue  # of the vacuum's own user namespace: the host's
        try:
            enter("%s of %s" % (name, kind), fcntl.ioctl(fd, call))
        except OSError:
            pass
try:
    enter("socket", fcntl.ioctl(socket.socket().fileno(), SIOCGSKNS))
except OSError:
    pass
# The host's first namespaces have fixed inode numbers (linux/proc_ns.h); a file
# handle of nsfs names one by its number.
for kind, inode in (("user", 0xEFFFFFFD), ("pid", 0xEFFFFFFC), ("net", 0xEFFFFFF9), ("mnt", 0xEFFFFFF8)):
    handle = struct.pack("IiQII", 16, 0xF1, 0, 0, inode)
    fd = libc.syscall(304, -10003, handle, 0)
    if fd >= 0:
        enter("handle of " + kind, fd)
s = socket.socket()
s.settimeout(0.3)
try:
    s.connect((sys.argv[1], int(sys.argv[2])))
    what = "answer"
except socket.timeout:
    what = "silent"
except OSError as e:
    what = str(e)
print("; ".join((", ".join(got) or "nothing", what)))
