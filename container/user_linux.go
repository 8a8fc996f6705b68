package container

import (
	"fmt"
	"io"
	"os"

	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxPasswd bounds what is read of a root filesystem's passwd and group files.
const maxPasswd = 4 << 20

// setUser resolves user[:group] in the passwd and group files of rootfs, and
// never in the host's. A number needs no entry there.
func setUser(c *specs.Spec, rootfs, spec string) error {
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return fmt.Errorf("opening root filesystem: %w", err)
	}
	defer root.Close()
	open := func(name string) (io.Reader, func()) {
		f, err := root.Open(name)
		if err != nil {
			return nil, func() {}
		}
		return io.LimitReader(f, maxPasswd), func() { f.Close() }
	}
	passwd, closePasswd := open("etc/passwd")
	defer closePasswd()
	group, closeGroup := open("etc/group")
	defer closeGroup()
	u, err := user.GetExecUser(spec, nil, passwd, group)
	if err != nil {
		return fmt.Errorf("%w: user %q: %w", ErrBadSpec, spec, err)
	}
	c.Process.User.UID, c.Process.User.GID = uint32(u.Uid), uint32(u.Gid)
	c.Process.User.AdditionalGids = nil
	for _, g := range u.Sgids {
		c.Process.User.AdditionalGids = append(c.Process.User.AdditionalGids, uint32(g))
	}
	return nil
}
