package sandbox

import (
	"errors"
	"testing"
)

func TestCatalogue(t *testing.T) {
	c := Catalogue{}
	if err := c.Add("package-store:read", []byte(`{"allow": ["http:https://10.0.0.5:5000;GET,HEAD;/v2/*,pin=sha256:`+hex64+`", "dns:store.example:443,latency=20ms"]}`)); err != nil {
		t.Fatal(err)
	}
	got, err := c.Resolve("package-store:read")
	if err != nil || len(got) != 2 || got[0].Label() != "package-store:read" || got[0].Pin != hex64 {
		t.Fatalf("Resolve() = %+v, %v; want both endpoints, by the name", got, err)
	}
	got, err = c.Resolve("package-store:read,dark=wedge,rate=1MB")
	if err != nil || len(got) != 2 || got[1].Dark != ModeWedge || got[1].Bandwidth != 1e6 || got[1].Latency == 0 || got[0].Pin != hex64 {
		t.Errorf("Resolve() with options = %+v, %v; want them besides its own", got, err)
	}
	if got, err := c.Resolve("tcp:10.0.0.1:443"); err != nil || len(got) != 1 || got[0].Kind != KindTCP {
		t.Errorf("Resolve() of an endpoint = %+v, %v", got, err)
	}
	for _, bad := range []string{"package-store:write", "package-store:read,nonsense=1", ""} {
		if _, err := c.Resolve(bad); !errors.Is(err, ErrBadCapability) {
			t.Errorf("Resolve(%q) = %v; want %v", bad, err, ErrBadCapability)
		}
	}
	for _, bad := range []string{`{}`, `{"allow": []}`, `{"allow": ["nonsense"]}`, `[]`, `{"allow": "x"}`} {
		if err := c.Add("x", []byte(bad)); !errors.Is(err, ErrBadCapability) {
			t.Errorf("Add(%s) = %v; want %v", bad, err, ErrBadCapability)
		}
	}
}

const hex64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func FuzzCatalogue(f *testing.F) {
	f.Add(`{"allow": ["tcp:10.0.0.1:443"]}`, "x,dark=refuse")
	f.Fuzz(func(t *testing.T, spec, name string) {
		c := Catalogue{}
		if c.Add("x", []byte(spec)) == nil {
			_, _ = c.Resolve(name)
		}
	})
}
