package salvage

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// cpuPeriod is the kubelet's, in microseconds.
const cpuPeriod = 100_000

func (c *kubeletPodContainer) limits() (*specs.LinuxResources, []error) {
	resources := &specs.LinuxResources{}
	var problems []error
	quantity := func(from map[string]any, name string) (float64, bool) {
		raw, ok := from[name]
		if !ok {
			return 0, false
		}
		value, err := parseQuantity(raw)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", name, err))
		}
		return value, err == nil && value > 0
	}
	if bytes, ok := quantity(c.Resources.Limits, "memory"); ok {
		limit := int64(bytes)
		resources.Memory = &specs.LinuxMemory{Limit: &limit}
	}
	limit, limited := quantity(c.Resources.Limits, "cpu")
	request, requested := quantity(c.Resources.Requests, "cpu")
	if limited || requested {
		resources.CPU = &specs.LinuxCPU{}
	}
	if limited {
		quota, period := int64(max(min(limit, 1e6)*cpuPeriod, 1000)), uint64(cpuPeriod)
		resources.CPU.Quota, resources.CPU.Period = &quota, &period
	}
	if requested {
		shares := uint64(min(max(request*1024, 2), 262144)) // the kernel's range
		resources.CPU.Shares = &shares
	}
	return resources, problems
}

// parseQuantity reads a Kubernetes resource quantity, such as 512Mi, 100m or 1e3.
func parseQuantity(raw any) (float64, error) {
	text := fmt.Sprint(raw)
	number, factor := text, 1.0
	for _, unit := range []struct {
		suffix string
		factor float64
	}{
		{"Ki", 1 << 10},
		{"Mi", 1 << 20},
		{"Gi", 1 << 30},
		{"Ti", 1 << 40},
		{"Pi", 1 << 50},
		{"Ei", 1 << 60},
		{"m", 1e-3},
		{"k", 1e3},
		{"M", 1e6},
		{"G", 1e9},
		{"T", 1e12},
		{"P", 1e15},
		{"E", 1e18},
	} {
		if strings.HasSuffix(text, unit.suffix) {
			number, factor = strings.TrimSuffix(text, unit.suffix), unit.factor
			break
		}
	}
	value, err := strconv.ParseFloat(number, 64)
	value *= factor
	if err != nil || math.IsNaN(value) || value < 0 || value >= math.MaxInt64 {
		return 0, fmt.Errorf("quantity %q is not one", text)
	}
	return value, nil
}
