# Pushes a command into the terminal on standard input, as if it had been typed:
# push.py TOKEN.
import fcntl, os, sys, termios

said = []


def push(fd):
    try:
        for c in sys.argv[1] + "\n":
            fcntl.ioctl(fd, termios.TIOCSTI, c.encode())
        said.append("pushed")
    except OSError as e:
        said.append(os.strerror(e.errno))


push(0)
for force in (0, 1):
    try:
        fcntl.ioctl(0, termios.TIOCSCTTY, force)
        said.append("controls")
    except OSError:
        pass
push(0)
try:
    push(os.open("/proc/self/fd/0", os.O_RDWR))
except OSError as e:
    said.append(os.strerror(e.errno))
print("; ".join(said))
