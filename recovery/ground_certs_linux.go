package recovery

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"

	"github.com/blackstart-project/blackstart/certs"
	"github.com/blackstart-project/blackstart/runbooks"
)

// issue asks the session that is open on this host for what a cert step wants.
func (s Site) issue(ctx context.Context, step runbooks.Step) (certs.Issued, error) {
	w := step.With
	if w == nil || w.To == "" {
		return certs.Issued{}, fmt.Errorf("%w: a cert step says with to: which directory the certificate goes to", ErrUsage)
	}
	r := certs.Request{Service: step.Cert, DNS: w.Names, URI: w.URIs, For: time.Duration(w.For), Key: certs.P256}
	for _, a := range w.Addresses {
		ip, err := netip.ParseAddr(a)
		if err != nil {
			return certs.Issued{}, fmt.Errorf("%w: addresses: %w", ErrUsage, err)
		}
		r.IP = append(r.IP, ip)
	}
	return certs.Session{Path: s.SessionPath()}.Issue(ctx, r)
}

// keepIssued writes what was given out where the step says.
func keepIssued(step runbooks.Step, out certs.Issued, to io.Writer) error {
	if step.With == nil || step.With.To == "" {
		return fmt.Errorf("%w: a certificate without a directory", ErrUsage)
	}
	if err := (certs.Identity{Dir: step.With.To, UID: os.Getuid(), GID: os.Getgid()}).Write(out); err != nil {
		return err
	}
	_, err := fmt.Fprintf(to, "%s: serial %s, until %s\n", step.With.To, out.Serial, out.NotAfter.Format(time.RFC3339))
	return err
}

func (g hostGround) cert(ctx context.Context, step runbooks.Step, out io.Writer) error {
	issued, err := g.site.issue(ctx, step)
	if err != nil {
		return err
	}
	return keepIssued(step, issued, out)
}
