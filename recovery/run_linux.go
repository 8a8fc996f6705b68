package recovery

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/container/image"
)

// RunOptions is one container to start.
type RunOptions struct {
	Spec   container.Spec
	Edit   Edit
	Detach bool
	Strict bool // what this host cannot give is an error, not a warning
	Twin   bool // start even beside what looks like a live twin
	// Identities are mounted, and renewed while the container runs.
	Identities []Identity

	Stdin, Stdout, Stderr *os.File
}

// Edit changes the command line that the image or specification gives.
type Edit struct {
	Command     []string // in place of all of it
	ReplaceArgs []string // OLD=NEW
	DropArgs    []string
	Args        []string // added at the end
}

func (e Edit) apply(args []string) (_ []string, err error) {
	if len(e.Command) > 0 {
		args = e.Command
	}
	for _, r := range e.ReplaceArgs {
		if args, err = container.ReplaceArg(args, r); err != nil {
			return nil, err
		}
	}
	for _, d := range e.DropArgs {
		if args, err = container.DropArg(args, d); err != nil {
			return nil, err
		}
	}
	return slices.Concat(args, e.Args), nil
}

// Result is what became of a start.
type Result struct {
	Name string          `json:"name"`
	PID  int             `json:"pid,omitempty"`
	Exit *container.Exit `json:"exit,omitempty"` // of a foreground run
	Log  string          `json:"log,omitempty"`
}

// Run starts a container: it unpacks the image, looks for a live twin, mounts
// the root filesystem and runs the command, in the foreground or detached.
// Whatever fails on the way leaves the host as it was.
func (s Site) Run(ctx context.Context, o RunOptions) (_ Result, err error) {
	defer container.Warm()()
	spec := o.Spec
	if spec.Name == "" {
		spec.Name = s.freeName(nameOf(firstOf(spec.Image, spec.Rootfs)))
	}
	if o.Detach && spec.Terminal {
		return Result{}, fmt.Errorf("%w: a terminal (-t) needs somebody in front of it: it does not go with --detach", ErrUsage)
	}
	if !o.Detach && (spec.Health != nil || (spec.Restart != "" && spec.Restart != container.RestartNo)) {
		return Result{}, fmt.Errorf("%w: restart policies and health checks need a supervisor: add --detach", ErrUsage)
	}
	if spec.Rootfs != "" {
		if spec.Rootfs, err = filepath.Abs(spec.Rootfs); err != nil {
			return Result{}, err
		}
		fi, err := os.Stat(spec.Rootfs)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return Result{}, fmt.Errorf("looking at rootfs: %w", err)
		}
		if err != nil || !fi.IsDir() {
			return Result{}, fmt.Errorf("%w: rootfs %s is not a directory", container.ErrBadSpec, spec.Rootfs)
		}
	}
	c, err := s.Host.Reserve(spec, o.Detach)
	if err != nil {
		return Result{}, err
	}
	handed := false
	defer func() {
		if !handed {
			err = errors.Join(err, c.Discard())
		}
	}()
	if err := mountIdentities(c, &spec, o.Identities); err != nil {
		return Result{}, err
	}
	if err := s.build(ctx, c, spec, o); err != nil {
		return Result{}, err
	}
	issued, err := issueIdentities(ctx, c, o.Identities)
	if err != nil {
		return Result{}, err
	}
	if !o.Detach {
		defer s.keepIdentities(context.WithoutCancel(ctx), c, o.Identities, issued)()
		exit, err := c.Run(context.WithoutCancel(ctx), o.Stdin, o.Stdout, o.Stderr)
		return Result{Name: spec.Name, Exit: &exit}, err
	}
	pid, err := c.Detach(ctx)
	if err != nil {
		return Result{}, err
	}
	handed = true
	return Result{Name: spec.Name, PID: pid, Log: c.LogPath()}, nil
}

// build gives a reserved container its root filesystem and configuration.
func (s Site) build(ctx context.Context, c *container.Container, spec container.Spec, o RunOptions) error {
	var lower []string
	var img container.ImageConfig
	if spec.Image != "" {
		im, closeImage, err := s.openImage(ctx, spec.Image)
		if err != nil {
			return err
		}
		defer func() { _ = closeImage() }() // only read from
		u, err := s.unpack(ctx, im)
		if err != nil {
			return err
		}
		defer func() { _ = u.Close() }() // the record names the layers by then
		lower, img = u.Layers, imageConfig(u)
	}
	lower = slices.Concat(lower, spec.Layers)
	spec.Fill(img)
	var err error
	if spec.Args, err = o.Edit.apply(spec.Args); err != nil {
		return err
	}
	if err := c.Layers(lower); err != nil {
		return err
	}
	if len(lower) > 0 {
		if err := image.Mount(lower, c.Upper(), c.Work(), c.Rootfs(), false); err != nil {
			return fmt.Errorf("mounting the root filesystem: %w", err)
		}
	}
	lost, err := c.Prepare(spec, o.Strict)
	for _, l := range lost {
		s.Log.Warn(l)
	}
	if err != nil {
		return err
	}
	return s.refuseTwin(ctx, c, o.Twin)
}

// refuseTwin looks for a live instance of what is about to start.
func (s Site) refuseTwin(ctx context.Context, c *container.Container, anyway bool) error {
	found, err := s.twins(ctx, c, nil)
	if err != nil {
		if anyway {
			s.Log.Warn("could not look for a live twin", "error", err)
			return nil
		}
		return fmt.Errorf("looking for a live twin: %w", err)
	}
	var sure []string
	for _, f := range found {
		switch {
		case f.Certain && !anyway:
			sure = append(sure, f.String())
		default:
			s.Log.Warn("possible twin", "sign", f.String())
		}
	}
	if len(sure) > 0 {
		return fmt.Errorf("%w:\n  %s", ErrTwin, strings.Join(sure, "\n  "))
	}
	return nil
}

// twins asks who else uses what the container uses.
func (s Site) twins(ctx context.Context, c *container.Container, ignore func(int) bool) ([]container.Conflict, error) {
	conf, err := c.OCI()
	if err != nil {
		return nil, err
	}
	q := container.TwinQuery{Args: conf.Process.Args, Data: container.DataDirs(conf), Ignore: ignore}
	if container.HostNet(conf) {
		exposed := map[string]struct{}{}
		for _, p := range c.Spec().Ports {
			exposed[p] = struct{}{}
		}
		q.Ports = container.PortsOf(conf.Process.Args, conf.Process.Env, exposed)
	}
	if len(q.Data)+len(q.Ports) == 0 {
		return nil, nil // two of what shares nothing do no harm
	}
	return container.Twins(ctx, q)
}

// freeName is base, or base-2 and so on where the name is taken.
func (s Site) freeName(base string) string {
	if base == "" {
		base = "container"
	}
	name := base
	for i := 2; ; i++ {
		if _, err := s.Host.Load(name); err != nil {
			return name
		}
		name = fmt.Sprintf("%s-%d", base, i)
	}
}

func firstOf(a ...string) string {
	for _, s := range a {
		if s != "" {
			return s
		}
	}
	return ""
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Wait polls until ok says so, or ctx ends.
func poll(ctx context.Context, every time.Duration, ok func() bool) error {
	for !ok() {
		t := time.NewTimer(every)
		select {
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		case <-t.C:
		}
	}
	return nil
}
