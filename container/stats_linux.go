package container

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/runc/libcontainer"
)

// Stats is what a container uses now.
type Stats struct {
	Name        string        `json:"name"`
	CPU         float64       `json:"cpu"`          // processors' worth, over the sampling time
	CPUTotal    time.Duration `json:"cpu_total_ns"` // since the start
	Throttled   time.Duration `json:"throttled_ns"` // time it wanted to run and its limit kept it from it
	Memory      uint64        `json:"memory"`       // bytes
	MemoryLimit uint64        `json:"memory_limit,omitempty"`
	PIDs        uint64        `json:"pids"`
	PIDsLimit   uint64        `json:"pids_limit,omitempty"`
	ReadBytes   uint64        `json:"read_bytes"`
	WriteBytes  uint64        `json:"write_bytes"`
}

// unlimited is where cgroup v1 starts to mean "no limit".
const unlimited = 1 << 60

// Stats reads the container's cgroup twice, sample apart.
func (c *Container) Stats(ctx context.Context, sample time.Duration) (Stats, error) {
	lib, err := libcontainer.Load(c.host.State, c.name)
	if errors.Is(err, libcontainer.ErrNotExist) {
		return Stats{}, fmt.Errorf("%w: %s", ErrNotRunning, c.name)
	}
	if err != nil {
		return Stats{}, fmt.Errorf("loading state of %s: %w", c.name, err)
	}
	before, err := lib.Stats()
	if err != nil {
		return Stats{}, fmt.Errorf("reading cgroup of %s: %w", c.name, err)
	}
	began := time.Now()
	if err := pause(ctx, sample); err != nil {
		return Stats{}, err
	}
	after, err := lib.Stats()
	if err != nil {
		return Stats{}, fmt.Errorf("reading cgroup of %s: %w", c.name, err)
	}
	cg := after.CgroupStats
	s := Stats{
		Name: c.name, CPUTotal: time.Duration(cg.CpuStats.CpuUsage.TotalUsage), Throttled: time.Duration(cg.CpuStats.ThrottlingData.ThrottledTime),
		Memory: cg.MemoryStats.Usage.Usage, PIDs: cg.PidsStats.Current, PIDsLimit: cg.PidsStats.Limit,
	}
	used := cg.CpuStats.CpuUsage.TotalUsage - before.CgroupStats.CpuStats.CpuUsage.TotalUsage
	s.CPU = float64(used) / float64(time.Since(began))
	if l := cg.MemoryStats.Usage.Limit; l < unlimited {
		s.MemoryLimit = l
	}
	for _, e := range cg.BlkioStats.IoServiceBytesRecursive {
		switch e.Op {
		case "Read", "read":
			s.ReadBytes += e.Value
		case "Write", "write":
			s.WriteBytes += e.Value
		}
	}
	return s, nil
}
