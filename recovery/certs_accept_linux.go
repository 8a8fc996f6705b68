package recovery

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"

	"github.com/blackstart-project/blackstart/certs"
	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/container/image"
)

// CheckServices looks for an authority in the root filesystem of every service of the kit, as it would be started.
func (s Site) CheckServices(ctx context.Context, ca *x509.Certificate) ([]Accepting, error) {
	known, err := s.Known()
	if err != nil {
		return nil, err
	}
	all := []Accepting{}
	for _, name := range known.Services {
		a := Accepting{What: name, Verdict: certs.Unknown}
		spec, err := s.KitService(name)
		if err == nil {
			a.Bundles, err = s.bundlesOf(ctx, spec, ca)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			// One service that cannot be looked at says nothing about the others.
			a.Why = err.Error()
		} else {
			a.Verdict, a.Why = certs.Accepts(a.Bundles)
		}
		all = append(all, a)
	}
	return all, nil
}

func (s Site) bundlesOf(ctx context.Context, spec container.Spec, ca *x509.Certificate) (_ []certs.Bundle, err error) {
	if spec.Rootfs != "" {
		return certs.CheckTrust(spec.Rootfs, ca)
	}
	im, closeImage, err := s.openImage(ctx, spec.Image)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeImage()) }()
	u, err := s.unpack(ctx, im)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, u.Close()) }()
	if len(u.Layers) == 1 { // an overlay takes two
		return certs.CheckTrust(u.Layers[0], ca)
	}
	if err := os.MkdirAll(s.Host.State, 0o711); err != nil {
		return nil, fmt.Errorf("looking into an image: %w", err)
	}
	dir, err := os.MkdirTemp(s.Host.State, ".look-*")
	if err != nil {
		return nil, fmt.Errorf("looking into an image: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	if err := image.Mount(u.Layers, "", "", dir, true); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, image.Unmount(dir)) }()
	return certs.CheckTrust(dir, ca)
}
