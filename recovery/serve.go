package recovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/blackstart-project/blackstart/fetch"
)

// ServeOptions says what is handed to other hosts, and where.
type ServeOptions struct {
	Listen         string   // IP:PORT
	Kit            string   // directory of the kit; "" stands for DATA/kit
	Dirs           []string // more layouts
	BytesPerSecond int64    // of all readers together; 0: no limit
	Connections    int      // at once
}

// Serving is where a server is found.
type Serving struct {
	URLs   []string      `json:"urls"` // with the pin, as a source for others
	Pin    digest.Digest `json:"pin"`
	Stores []string      `json:"stores"`
}

// Serve hands out blobs until ctx ends. It calls ready once it listens.
func (s Site) Serve(ctx context.Context, o ServeOptions, ready func(Serving) error) error {
	var v Serving
	var stores []*fetch.Store
	empty := true
	for i, dir := range append([]string{s.kitDir(o.Kit), filepath.Join(s.Host.Data, "fetch")}, o.Dirs...) {
		fi, err := os.Stat(filepath.Join(dir, "blobs"))
		if named := i > 1 || i == 0 && o.Kit != ""; err != nil && named {
			return fmt.Errorf("%w: %s is no OCI layout: %w", ErrUsage, dir, err)
		}
		empty = empty && (err != nil || !fi.IsDir())
		stores = append(stores, fetch.ViewStore(dir))
		v.Stores = append(v.Stores, dir)
	}
	if empty {
		s.Log.Warn("this host has no kit and has fetched nothing: there is nothing to serve yet")
	}
	cert, pin, err := fetch.ServerIdentity(s.Host.Data, s.now())
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", o.Listen)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	v.Pin = pin
	v.URLs = urlsOf(l.Addr(), pin)
	if err := ready(v); err != nil {
		return errors.Join(err, l.Close())
	}
	return fetch.Serve(ctx, l, cert, fetch.NewHandler(fetch.ServeOptions{
		Blobs: fetch.Checked(stores...), BytesPerSecond: o.BytesPerSecond, Connections: o.Connections,
	}))
}

// urlsOf names a listener by every address of this host that others may reach.
func urlsOf(a net.Addr, pin digest.Digest) []string {
	at := func(host netip.Addr, port uint16) string {
		return "https://" + netip.AddrPortFrom(host, port).String() + "#pin=" + pin.String()
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil || !ap.Addr().IsUnspecified() {
		return []string{at(ap.Addr().Unmap(), ap.Port())}
	}
	var urls []string
	addrs, _ := net.InterfaceAddrs() // without them, the wildcard is all there is to say
	for _, n := range addrs {
		p, err := netip.ParsePrefix(n.String())
		if err != nil || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() || (ap.Addr().Is4() && !p.Addr().Is4()) {
			continue
		}
		urls = append(urls, at(p.Addr(), ap.Port()))
	}
	if urls == nil {
		urls = []string{at(ap.Addr().Unmap(), ap.Port())}
	}
	return urls
}
