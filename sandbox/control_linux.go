package sandbox

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// message is what the supervisor and the vacuum's first process send each other
// over a socket pair, one JSON object per packet. A request has one of the
// pointers set; its answer has the same ID and an Error or a result.
type message struct {
	ID     int      `json:"id"`
	Setup  *setup   `json:"setup,omitempty"`
	Start  *start   `json:"start,omitempty"`
	Listen *Place   `json:"listen,omitempty"`
	Rules  *ruleset `json:"rules,omitempty"`
	Join   *join    `json:"join,omitempty"` // to the process that holds a segment

	Exited   *int     `json:"exited,omitempty"` // the wait status of what Start with this ID started
	Error    string   `json:"error,omitempty"`
	Errno    int      `json:"errno,omitempty"`
	Warnings []string `json:"warnings,omitempty"`
	PID      int      `json:"pid,omitempty"` // of what Join started
}

// setup is what the first process needs to build the world.
type setup struct {
	Layers   []string          `json:"layers"` // empty: the host's root
	Fresh    []string          `json:"fresh"`  // directories that start empty, if they exist
	Work     []string          `json:"work"`   // directories that the user must be able to write below
	Binds    []string          `json:"binds"`
	Files    map[string][]byte `json:"files"`
	Hostname string            `json:"hostname"`
	Groups   bool              `json:"groups"` // more ids than the user's own are mapped
	Address4 netip.Prefix      `json:"address4"`
	Address6 netip.Prefix      `json:"address6"`
	Rules    ruleset           `json:"rules"`
	Record   bool              `json:"record"`
	Listen   []Place           `json:"listen"`
	Segment  bool              `json:"segment"` // eth0 is there, and leads to the hosts of Rules.Peers
}

// start is a command to run.
type start struct {
	Args []string `json:"args"`
	Env  []string `json:"env"`
	Dir  string   `json:"dir"`
	TTY  bool     `json:"tty"`
	Rows uint16   `json:"rows"`
	Cols uint16   `json:"cols"`
}

// Place is what net.Listen takes: see [World.Listen].
type Place struct {
	Network string `json:"network"`
	Address string `json:"address"`
}

const (
	maxInline  = 32 << 10 // bytes of JSON in the packet itself; more travels in a memory file
	maxMessage = 16 << 20
	maxFiles   = 2 + maxHosts + maxListen // descriptors with one message
)

// control is one end of the socket pair.
type control struct{ conn *net.UnixConn }

// newControl owns f.
func newControl(f *os.File) (control, error) {
	c, err := net.FileConn(f)
	_ = f.Close()
	if err != nil {
		return control{}, fmt.Errorf("opening the control socket: %w", err)
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return control{}, fmt.Errorf("opening the control socket: it is a %T", c)
	}
	return control{conn}, nil
}

// send writes a message with descriptors, which stay the caller's.
func (c control) send(m message, fds ...int) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encoding a control message: %w", err)
	}
	if len(b) > maxInline {
		if len(b) > maxMessage {
			return fmt.Errorf("sending a control message: longer than %d bytes", maxMessage)
		}
		fd, err := unix.MemfdCreate("control", unix.MFD_CLOEXEC)
		if err != nil {
			return fmt.Errorf("sending a control message: %w", err)
		}
		f := os.NewFile(uintptr(fd), "control message")
		defer f.Close()
		if _, err := f.WriteAt(b, 0); err != nil {
			return fmt.Errorf("sending a control message: %w", err)
		}
		b, fds = []byte{0}, append([]int{fd}, fds...)
	}
	if _, _, err := c.conn.WriteMsgUnix(b, unix.UnixRights(fds...), nil); err != nil {
		return fmt.Errorf("sending a control message: %w", err)
	}
	return nil
}

// receive reads a message; its descriptors are the caller's then. The end is
// io.EOF.
func (c control) receive() (m message, fds []int, err error) {
	b := make([]byte, maxInline)
	oob := make([]byte, unix.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := c.conn.ReadMsgUnix(b, oob)
	if err != nil {
		return message{}, nil, err
	}
	if n == 0 {
		return message{}, nil, io.EOF
	}
	if cm, err := unix.ParseSocketControlMessage(oob[:oobn]); err == nil {
		for _, m := range cm {
			if got, err := unix.ParseUnixRights(&m); err == nil {
				fds = append(fds, got...)
			}
		}
	}
	defer func() {
		if err != nil {
			closeAll(fds)
			fds = nil
		}
	}()
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		return message{}, fds, fmt.Errorf("receiving a control message: it was cut short")
	}
	b = b[:n]
	if n == 1 && b[0] == 0 && len(fds) > 0 {
		f := os.NewFile(uintptr(fds[0]), "control message")
		fds = fds[1:]
		b, err = io.ReadAll(io.LimitReader(io.NewSectionReader(f, 0, maxMessage), maxMessage))
		_ = f.Close()
		if err != nil {
			return message{}, fds, fmt.Errorf("receiving a control message: %w", err)
		}
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return message{}, fds, fmt.Errorf("decoding a control message: %w", err)
	}
	return m, fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = unix.Close(fd)
	}
}
