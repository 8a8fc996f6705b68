package runbooks

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// MaxDuration bounds every duration in a document.
const MaxDuration = 365 * 24 * time.Hour

// Duration is a time.Duration that is also read and written in days, 30d.
type Duration time.Duration

// String writes the shortest form: 90s stays 1m30s, 3600s becomes 1h.
func (d Duration) String() string {
	if v := time.Duration(d); v >= 48*time.Hour && v%(24*time.Hour) == 0 {
		return strconv.FormatInt(int64(v/(24*time.Hour)), 10) + "d"
	}
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// MarshalText writes what String writes.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads 30d, or what time.ParseDuration reads: above zero, and at most MaxDuration.
func (d *Duration) UnmarshalText(b []byte) error {
	var v time.Duration
	var err error
	if days, ok := strings.CutSuffix(string(b), "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		v = time.Duration(n) * 24 * time.Hour
	} else {
		v, err = time.ParseDuration(string(b))
	}
	if err != nil {
		return fmt.Errorf("%.40q is not a duration: write it like 90s, 5m, 1h30m or 30d", b)
	}
	if v <= 0 || v > MaxDuration {
		return fmt.Errorf("%.40q is not above zero and at most 365d", b)
	}
	*d = Duration(v)
	return nil
}

// Bytes is a size in bytes, read and written with KiB, MiB, GiB or TiB where it fits.
type Bytes int64

func units() []string { return []string{"KiB", "MiB", "GiB", "TiB"} }

// String writes the largest unit that fits.
func (b Bytes) String() string {
	unit, n := "", int64(b)
	for _, u := range units() {
		if n == 0 || n%1024 != 0 {
			break
		}
		n, unit = n/1024, u
	}
	return strconv.FormatInt(n, 10) + unit
}

// MarshalText writes what String writes.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads a whole number, with a unit or without: above zero.
func (b *Bytes) UnmarshalText(t []byte) error {
	s, shift := string(t), 0
	for i, u := range units() {
		if n, ok := strings.CutSuffix(s, u); ok {
			s, shift = n, 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return fmt.Errorf("%.40q is not a size: write it like 512MiB", t)
	}
	if n <= 0 || n > math.MaxInt64>>shift {
		return errors.New("a size is above zero and below 8388608TiB")
	}
	*b = Bytes(n << shift)
	return nil
}
