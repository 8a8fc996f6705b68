package sandbox

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

const (
	hostsFile    = "/etc/hosts"
	maxHostsFile = 1 << 20 // bytes of it that are kept
)

// hostName is what the hosts of a fabric call one of them.
func hostName(host int) string { return "host" + strconv.Itoa(host) }

// hostsContent is a host's /etc/hosts: what the options or else its root have,
// and the names of all hosts, which come first, for the first answer holds.
func hostsContent(o Options, hosts int) []byte {
	var b strings.Builder
	for i := range hosts {
		for _, a := range addressesOf(i) {
			fmt.Fprintf(&b, "%s\t%s\n", a.Addr(), hostName(i))
		}
	}
	given, ok := o.Files[hostsFile]
	if !ok {
		given = rootsHosts(o.Layers)
	}
	if len(given) == 0 {
		given = []byte("127.0.0.1\tlocalhost\n::1\tlocalhost\n")
	}
	return append([]byte(b.String()), given...)
}

// rootsHosts reads the file of the topmost layer that has it.
func rootsHosts(layers []string) []byte {
	if len(layers) == 0 {
		layers = []string{"/"}
	}
	for _, l := range layers {
		root, err := os.OpenRoot(l)
		if err != nil {
			continue
		}
		b := readRegular(root, hostsFile[1:])
		_ = root.Close()
		if b != nil {
			return b
		}
	}
	return nil
}

func readRegular(root *os.Root, name string) []byte {
	if st, err := root.Stat(name); err != nil || !st.Mode().IsRegular() {
		return nil // opening a pipe would wait
	}
	f, err := root.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxHostsFile))
	if err != nil {
		return nil
	}
	return b
}
