package kit

import (
	"bytes"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func FuzzParse(f *testing.F) {
	f.Add([]byte(head + `,"artifacts":[` + someFile + `],"services":[{"name":"s","spec":{"a":[1]}}]}`))
	f.Add([]byte(head + `,"names":[{"name":"a.b","addresses":["10.0.0.1"],"observed_at":"2026-03-01T12:00:00Z"}],"min_tool":"v1.0.0","x":1}`))
	f.Add([]byte(`{"media_type":[[[{}]]]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := Parse(b, "v1.0.0")
		if err != nil {
			return
		}
		// What was taken can be written, and is then taken for the same.
		first, err := d.Marshal()
		if err != nil {
			t.Fatalf("Marshal() of what Parse took = %v", err)
		}
		again, err := Parse(first, "v1.0.0")
		if err != nil {
			t.Fatalf("Parse() of what Marshal wrote = %v", err)
		}
		second, err := again.Marshal()
		if err != nil || !bytes.Equal(first, second) {
			t.Errorf("Marshal() = %s, %v; want %s", second, err, first)
		}
		for _, a := range d.Artifacts {
			if !ValidName(a.Name) || strings.ContainsAny(a.Name, "/\\\x00") {
				t.Errorf("Parse() took the artifact name %q", a.Name)
			}
		}
	})
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"digest":"sha256:` + zeros + `","size":1},"layers":[{"mediaType":"` + MediaType + `","digest":"sha256:` + zeros + `","size":1}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseManifest(b)
		if err == nil && (len(m.Layers) == 0 || m.Layers[0].Size > MaxDocument || checkDigest(m.Layers[0].Digest) != nil) {
			t.Errorf("ParseManifest() took %+v", m)
		}
	})
}

func FuzzParseTree(f *testing.F) {
	f.Add([]byte(testYAML))
	f.Add([]byte("services:\n  - {name: a, spec: {b: [1, 2.5, .inf]}}\n"))
	f.Add([]byte("fresh_for: 30d\nnames: [{observed_at: 2026-03-01T00:00:00Z}]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		tree, err := ParseTree(b)
		if err != nil {
			return
		}
		for _, s := range tree.Services {
			if s.Spec.path == "" && len(s.Spec.inline) > 0 && scanJSON([]byte(`{"spec":`+string(s.Spec.inline)+`}`)) != nil {
				t.Errorf("ParseTree(%q) took the spec %s", b, s.Spec.inline)
			}
		}
	})
}

func FuzzParseTrust(f *testing.F) {
	f.Add([]byte("untrusted comment: x\nRWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\n"))
	f.Add([]byte(`"a b" namespaces="blackstart-kit" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEaJCQwVQFqO0WkJ1l2lKZQ3vT0bq3N8mHq1fK0CS0aD c`))
	f.Fuzz(func(t *testing.T, b []byte) {
		tr, err := ParseTrust(b)
		if err != nil {
			return
		}
		for _, s := range tr.Signers() {
			if !keyID.MatchString(s.ID) {
				t.Errorf("ParseTrust(%q) gives the key ID %q", b, s.ID)
			}
		}
	})
}

func FuzzSignature(f *testing.F) {
	f.Add([]byte(someSignature))
	f.Add([]byte("untrusted comment: signature from minisign secret key\nRUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=\ntrusted comment: timestamp:1635443258\ny/rUw2y8/hOUYjZU71eHp/Wo1KZ40fGy2VJEDl34XMJM+TX48Ss/17u3IvIfbVR1FkZZSNCisQbuQY+bHwhEBg==\n"))
	tr, err := ParseTrust([]byte("RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3\n"))
	if err != nil {
		f.Fatal(err)
	}
	doc := []byte("no such document was ever signed")
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := parseSignature(b, Namespace)
		if err == nil && s.ssh != nil && s.ssh.verify(doc) == nil {
			t.Errorf("the signature %q verifies by its own key", b)
		}
		if signers, err := Verify(doc, [][]byte{b}, tr, 1, nil); err == nil {
			t.Errorf("Verify(%q) = %v; want an error", b, signers)
		}
	})
}

// FuzzSSHSIG is FuzzSignature below the armour.
func FuzzSSHSIG(f *testing.F) {
	f.Add([]byte("SSHSIG\x00\x00\x00\x01\x00\x00\x00\x33"))
	block, _ := pem.Decode([]byte(someSignature))
	f.Add(block.Bytes)
	f.Fuzz(func(t *testing.T, b []byte) {
		armoured := pem.EncodeToMemory(&pem.Block{Type: sshsigArmour, Bytes: b})
		if s, err := parseSSHSIG(armoured, Namespace); err == nil && s.verify([]byte("any")) == nil {
			t.Errorf("the signature %x verifies by its own key", b)
		}
	})
}

func FuzzLayout(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"sha256:` + zeros + `","size":1}]}`))
	f.Add([]byte(`{"manifests":[{"digest":"sha256:../../../../../../etc/hostname"}]}`))
	dir := filepath.Join(f.TempDir(), "kit")
	l, err := CreateLayout(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { l.Close() })
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, "index.json"), b, 0o644); err != nil {
			t.Fatal(err)
		}
		if s, err := l.Load(""); err == nil {
			t.Errorf("Load() = %q in a layout without blobs; want an error", s.Document)
		}
	})
}
