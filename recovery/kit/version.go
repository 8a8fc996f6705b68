package kit

import (
	"strconv"
	"strings"
)

// version reads vMAJOR.MINOR.PATCH, where what follows a "-" or "+" does not count.
func version(s string) (v [3]int, ok bool) {
	s, ok = strings.CutPrefix(s, "v")
	if i := strings.IndexAny(s, "-+"); i >= 0 {
		s = s[:i]
	}
	parts := strings.Split(s, ".")
	if !ok || len(parts) != len(v) {
		return v, false
	}
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			return v, false
		}
		v[i] = int(n)
	}
	return v, true
}

func validTool(s string) bool {
	_, ok := version(s)
	return ok
}

// newer says whether the version min is above tool. Where either is not a version, it is not.
func newer(min, tool string) bool {
	m, ok1 := version(min)
	t, ok2 := version(tool)
	for i := range m {
		if m[i] != t[i] {
			return ok1 && ok2 && m[i] > t[i]
		}
	}
	return false
}
