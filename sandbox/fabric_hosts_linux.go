package sandbox

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

const hostsFile = "/etc/hosts"

// hostName is what the hosts of a fabric call one of them.
func hostName(host int) string { return "host" + strconv.Itoa(host) }

// hostsContent is a vacuum's /etc/hosts. Nothing in it is of the host's or the
// root's: a name that is in there by luck would hide that something depends on it.
// The names of a fabric's hosts come first, for the first answer holds; what
// follows is what the options have, or else localhost and the host's own name,
// which is at the address that Debian gives it (hosts(5)).
func hostsContent(o Options, hosts int) []byte {
	var b strings.Builder
	own := o.Hostname
	if own == "" {
		own, _ = os.Hostname() // which the vacuum begins with
	}
	listed := own == "localhost" || len(strings.Fields(own)) != 1
	for i := range hosts {
		for _, a := range addressesOf(i) {
			fmt.Fprintf(&b, "%s\t%s\n", a.Addr(), hostName(i))
		}
		listed = listed || own == hostName(i)
	}
	if given, ok := o.Files[hostsFile]; ok {
		return append([]byte(b.String()), given...)
	}
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost\n")
	if !listed {
		if short, _, long := strings.Cut(own, "."); long {
			own += " " + short
		}
		fmt.Fprintf(&b, "127.0.1.1\t%s\n", own)
	}
	return []byte(b.String())
}
