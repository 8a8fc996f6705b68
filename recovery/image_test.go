package recovery

import "testing"

func TestNameOf(t *testing.T) {
	for ref, want := range map[string]string{
		"oci:/media/usb/etcd:3.4":   "etcd",
		"oci:img":                   "img",
		"docker-archive:/x/web.tar": "web",
		"containerd://k8s.io/registry.k8s.io/etcd:3.5": "etcd",
		"containerd://default/a/b@sha256:00":           "b",
		"/srv/rootfs/":                                 "rootfs",
		"docker://name:1":                              "name",
		"..":                                           "",
	} {
		if got := nameOf(ref); got != want {
			t.Errorf("nameOf(%q) = %q; want %q", ref, got, want)
		}
	}
}

func TestSplitTag(t *testing.T) {
	for in, want := range map[string][2]string{
		"/a/b:c":                     {"/a/b", "c"},
		"/a/b":                       {"/a/b", ""},
		"x.tar:example.internal/a:1": {"x.tar", "example.internal/a:1"},
	} {
		if file, name := splitTag(in); file != want[0] || name != want[1] {
			t.Errorf("splitTag(%q) = %q, %q; want %q", in, file, name, want)
		}
	}
}
