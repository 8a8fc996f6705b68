package sandbox

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// cutOptions splits at the first comma that is followed by a word and an equals
// sign.
func cutOptions(s string) (endpoint, options string) {
	for i := range len(s) {
		if s[i] != ',' {
			continue
		}
		word, _, ok := strings.Cut(s[i+1:], "=")
		if ok && word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyz_") == "" {
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

const optionForms = "name=, mode=, dark=, latency=, loss=, rate=, at= or pin="

func (c *Capability) parseOptions(s string) error {
	if s == "" {
		return nil
	}
	seen := map[string]bool{}
	for o := range strings.SplitSeq(s, ",") {
		k, v, ok := strings.Cut(o, "=")
		if !ok {
			return fmt.Errorf("%q is no option; options are %s", o, optionForms)
		}
		if seen[k] {
			return fmt.Errorf("%s= stands twice", k)
		}
		seen[k] = true
		if err := c.option(k, v); err != nil {
			return err
		}
	}
	if seen["mode"] && !seen["dark"] && c.Mode != ModeAllow {
		c.Dark = c.Mode
	}
	return nil
}

func (c *Capability) option(k, v string) (err error) {
	switch k {
	case "name":
		if !validCapabilityName(v) {
			return fmt.Errorf("name %q may hold letters, digits and . _ - and one colon, as package-store:read", v)
		}
		c.Name = v
	case "mode":
		c.Mode = Mode(v)
		if !slices.Contains([]Mode{ModeAllow, ModeDrop, ModeRefuse, ModeWedge}, c.Mode) {
			return fmt.Errorf("mode %q is not allow, drop, refuse or wedge", v)
		}
	case "dark":
		c.Dark, err = ParseDark(v)
	case "latency":
		if c.Latency, err = time.ParseDuration(v); err != nil || c.Latency < 0 || c.Latency > maxLatency {
			return fmt.Errorf("latency %q is not a duration like 20ms, at most %s", v, maxLatency)
		}
	case "loss":
		n, percent := strings.CutSuffix(v, "%")
		if c.Loss, err = strconv.ParseFloat(n, 64); err != nil || !percent || !(c.Loss >= 0 && c.Loss <= 100) {
			return fmt.Errorf("loss %q is not a percentage like 1%% or 0.5%%", v)
		}
	case "rate":
		c.Bandwidth, err = parseRate(v)
	case "at":
		return c.parseAt(v)
	case "pin":
		b, isHash := strings.CutPrefix(v, "sha256:")
		if raw, err := hex.DecodeString(b); err != nil || !isHash || len(raw) != 32 || c.Kind != KindHTTP || !c.TLS {
			return fmt.Errorf("pin %q is not sha256: and 64 hex digits, for an https URL", v)
		}
		c.Pin = strings.ToLower(b)
	default:
		return fmt.Errorf("%s= is no option; options are %s", k, optionForms)
	}
	return err
}

func (c *Capability) parseAt(v string) error {
	if c.Kind != KindDNS && c.Kind != KindHTTP {
		return fmt.Errorf("at= gives the address of a name, for dns and http only")
	}
	for s := range strings.SplitSeq(v, "+") {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" || a.Is4In6() || len(c.At) == 16 {
			return fmt.Errorf("at %q is not a list of at most 16 addresses joined by +", v)
		}
		c.At = append(c.At, a)
	}
	return nil
}

// ParseDark reads drop, refuse or wedge.
func ParseDark(s string) (Mode, error) {
	switch m := Mode(s); m {
	case ModeDrop, ModeRefuse, ModeWedge:
		return m, nil
	case ModeAllow:
	}
	return "", fmt.Errorf("%w: dark %q is not drop, refuse or wedge", ErrBadCapability, s)
}

// rateUnits from the largest down, so that rateText finds the shortest form.
var rateUnits = [...]struct {
	suffix string
	bytes  int64
}{{"GiB", 1 << 30}, {"GB", 1e9}, {"MiB", 1 << 20}, {"MB", 1e6}, {"KiB", 1 << 10}, {"kB", 1e3}, {"B", 1}}

func parseRate(s string) (int64, error) {
	for _, u := range rateUnits {
		if digits, ok := strings.CutSuffix(s, u.suffix); ok {
			n, err := strconv.ParseInt(digits, 10, 64)
			if err == nil && n > 0 && n <= (1<<50)/u.bytes {
				return n * u.bytes, nil
			}
			break
		}
	}
	return 0, fmt.Errorf("rate %q is not a number of bytes a second like 500kB, 1MB or 1MiB", s)
}

func rateText(n int64) string {
	for _, u := range rateUnits {
		if n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.suffix
		}
	}
	return ""
}

func (c Capability) optionsText() string {
	var b strings.Builder
	add := func(k, v string) { b.WriteString("," + k + "=" + v) }
	if c.Name != "" {
		add("name", c.Name)
	}
	if c.Mode != ModeAllow {
		add("mode", string(c.Mode))
	}
	if c.Dark != ModeDrop || c.Mode != ModeAllow {
		add("dark", string(c.Dark))
	}
	if c.Latency > 0 {
		add("latency", c.Latency.String())
	}
	if c.Loss > 0 {
		add("loss", strconv.FormatFloat(c.Loss, 'f', -1, 64)+"%")
	}
	if c.Bandwidth > 0 {
		add("rate", rateText(c.Bandwidth))
	}
	var at []string
	for _, a := range c.At {
		at = append(at, a.String())
	}
	if len(at) > 0 {
		add("at", strings.Join(at, "+"))
	}
	if c.Pin != "" {
		add("pin", "sha256:"+c.Pin)
	}
	return b.String()
}

func validCapabilityName(s string) bool {
	if s == "" || len(s) > 100 || strings.Count(s, ":") > 1 || strings.HasPrefix(s, ":") || strings.HasSuffix(s, ":") {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:") == ""
}
