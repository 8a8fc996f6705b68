package salvage

import (
	"strings"
	"testing"

	"github.com/distribution/reference"
)

// FuzzNormalise compares with Docker's own reading wherever that accepts a name.
func FuzzNormalise(f *testing.F) {
	digest := "sha256:" + strings.Repeat("0123456789abcdef", 4)
	for _, name := range []string{
		"nginx", "nginx:1", "library/nginx", "a/b/c:2", "localhost/x", "LOCALHOST/x", "10.0.0.1:5000/x", "host:5000/x:1", "docker.io/nginx", "index.docker.io/a/b:1",
		"nginx@" + digest, "host.example/x:1@" + digest, strings.Repeat("ab", 32), "", ":", "@", "x:", "x@", "/x", "x/", "UPPER", "Upper/x:1", "[::1]:5000/x:1",
	} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got := normalise(name)
		named, err := reference.ParseDockerRef(name)
		if err != nil {
			return // compared as it is with others of its kind: any answer will do
		}
		if want := named.String(); got != want {
			t.Errorf("normalise(%q) = %q; want %q", name, got, want)
		}
	})
}
