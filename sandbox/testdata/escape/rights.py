# Takes descriptors from a unix socket and connects by them: rights.py PATH TOKEN.
import array, socket, sys

s = socket.socket(socket.AF_UNIX)
s.settimeout(2)
s.connect(sys.argv[1])
fds = array.array("i")
text, more, _, _ = s.recvmsg(100, socket.CMSG_SPACE(8 * fds.itemsize))
for level, kind, data in more:
    if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
        fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
host, port = text.decode().split(":")
for fd in fds:
    c = socket.socket(fileno=fd)
    c.settimeout(2)
    c.connect((host, int(port)))
    c.send(sys.argv[2].encode())
print(len(fds), "descriptors")
