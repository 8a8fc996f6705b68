package certs

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"filippo.io/age"
)

func splitCeremony(t *testing.T, k int, people ...person) *Ceremony {
	t.Helper()
	o := InitOptions{Name: "Example", Scope: exampleScope, Now: noon, RootCustody: Custody{Lock: people[0].Lock}}
	o.Custody.Threshold = k
	for _, p := range people {
		o.Custody.People = append(o.Custody.People, p.Person)
	}
	c, err := Init(o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *Ceremony) share(name string) []byte {
	b, _ := c.Share(name)
	return b
}

func TestSharesInAnyOrder(t *testing.T) {
	people := []person{newPerson(t, "alice"), newPerson(t, "bob"), newPerson(t, "carol"), newPerson(t, "dave")}
	c := splitCeremony(t, 3, people...)
	for _, order := range [][]int{{0, 1, 2}, {3, 1, 0}, {2, 3, 1}, {3, 2, 1, 0}} {
		o, err := c.Begin()
		if err != nil {
			t.Fatal(err)
		}
		for n, i := range order {
			p, err := o.Add(c.share(people[i].Name), people[i].key)
			if err != nil || p.Need != max(0, 2-n) || len(p.Have) != n+1 {
				t.Errorf("Add(%s) = %+v, %v; want %d more needed", people[i].Name, p, err, max(0, 2-n))
			}
			if n < 2 {
				_, err = c.Open(o, Unlock{}, AuthorityOptions{})
				wantErr(t, "Open() with too few shares", err, ErrShares, "more needed", people[order[0]].Name)
			}
		}
		a, err := c.Open(o, Unlock{}, AuthorityOptions{})
		if err != nil {
			t.Errorf("Open(%v) = %v; want it open", order, err)
			continue
		}
		a.Close()
		if p := o.Progress(); len(p.Have) != 0 {
			t.Errorf("after Open the shares of %v are still held", p.Have)
		}
	}
}

func TestWrongShares(t *testing.T) {
	alice, bob, carol := newPerson(t, "alice"), newPerson(t, "bob"), newPerson(t, "carol")
	c, other := splitCeremony(t, 2, alice, bob, carol), splitCeremony(t, 2, alice, bob, carol)
	o, err := c.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Add(c.share("alice"), alice.key); err != nil {
		t.Fatal(err)
	}
	_, err = o.Add(c.share("alice"), alice.key)
	wantErr(t, "Add() of the same share", err, ErrShares, "alice", "there already")
	_, err = o.Add(other.share("bob"), bob.key)
	wantErr(t, "Add() of another ceremony's share", err, ErrShares, "bob", "another ceremony")
	_, err = o.Add(c.share("bob"), carol.key)
	wantErr(t, "Add() with somebody else's key", err, ErrSealed)
	_, err = o.Add(c.share("bob"), Unlock{})
	wantErr(t, "Add() without a key", err, ErrSealed)
	_, err = o.Add(c.share("bob"), Unlock{Identities: [][]byte{[]byte("hello")}})
	wantErr(t, "Add() with a key that is none", err, ErrInvalid)
	_, err = o.Add(c.files["emergency.age"][:200], bob.key)
	wantErr(t, "Add() of half a file", err, ErrInvalid)

	// A share that somebody made up for this ceremony.
	r, err := age.ParseX25519Recipient(bob.Recipients[0])
	if err != nil {
		t.Fatal(err)
	}
	for what, s := range map[string]share{
		"made for this ceremony": {Vault: c.emergency.ID, Name: "bob", X: 2, Y: make([]byte, 74)},
		"nobody's":               {Vault: c.emergency.ID, Name: "bob", X: 7, Y: make([]byte, 74)},
	} {
		text, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		forged, err := seal(text, r)
		if err != nil {
			t.Fatal(err)
		}
		_, err = o.Add(forged, bob.key)
		wantErr(t, "Add() of a forged share", err, ErrShares, what)
	}
	// Without the public record's sums the forgery is found all the same, only not whose it is.
	c.emergency.Holders = slices.Clone(c.emergency.Holders)
	c.emergency.Holders[1].SHA256 = "2ea9ab9198d1638007400cd2c3bef1cc745b864b76011a0e1bc52180ac6452d4"
	o.vault = c.emergency
	o.shares = append(o.shares, point{x: 2, y: make([]byte, 74)})
	_, err = c.Open(o, Unlock{}, AuthorityOptions{})
	wantErr(t, "Open() with a forged share", err, ErrShares, "no key")
	if p := o.Progress(); !slices.Equal(p.Have, []string{"alice"}) {
		t.Errorf("Progress() = %+v; want alice's share alone", p)
	}
}

func TestCustodyIsChecked(t *testing.T) {
	alice, bob := newPerson(t, "alice"), newPerson(t, "bob")
	for name, c := range map[string]Custody{
		"nobody":            {},
		"threshold 0":       {People: []Person{alice.Person}},
		"too few people":    {Threshold: 3, People: []Person{alice.Person, bob.Person}},
		"the same name":     {Threshold: 1, People: []Person{alice.Person, alice.Person}},
		"a name as a path":  {Threshold: 1, People: []Person{{Name: "../x", Lock: alice.Lock}}},
		"share to nobody":   {Threshold: 1, People: []Person{{Name: "carol"}}},
		"both":              {Lock: alice.Lock, Threshold: 1, People: []Person{bob.Person}},
		"recipients and pw": {Lock: Lock{Recipients: alice.Recipients, Passphrase: []byte("x")}},
		"no recipient":      {Lock: Lock{Recipients: []string{"hello"}}},
	} {
		_, err := Init(InitOptions{Name: "Example", Scope: exampleScope, Now: noon, RootCustody: Custody{Lock: alice.Lock}, Custody: c})
		wantErr(t, "Init() with custody: "+name, err, ErrInvalid)
	}
}

// A passphrase, an SSH key, and an encrypted SSH key; ssh-keygen makes the keys.
func TestLocksOfAllKinds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	mustTool(t, dir, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "plain")
	mustTool(t, dir, "ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "hunter22", "-f", "locked")
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	asked := 0
	for name, c := range map[string]struct {
		lock Lock
		key  Unlock
		bad  Unlock
	}{
		"passphrase": {Lock{Passphrase: []byte("correct horse"), work: 12}, Unlock{Passphrase: []byte("correct horse")}, Unlock{Passphrase: []byte("wrong")}},
		"ssh":        {Lock{Recipients: []string{string(read("plain.pub"))}}, Unlock{Identities: [][]byte{read("plain")}}, newPerson(t, "x").key},
		"ssh locked": {Lock{Recipients: []string{string(read("locked.pub"))}}, Unlock{Identities: [][]byte{read("locked")}, Password: func(string) ([]byte, error) {
			asked++
			return []byte("hunter22"), nil
		}}, Unlock{Identities: [][]byte{read("locked")}}},
	} {
		ce, _ := ceremony(t, noon, func(o *InitOptions) { o.Custody = Custody{Lock: c.lock} })
		for _, u := range []Unlock{c.key, c.bad} {
			o, err := ce.Begin()
			if err != nil {
				t.Fatal(err)
			}
			a, err := ce.Open(o, u, AuthorityOptions{})
			if name == "passphrase" && len(u.Passphrase) == 5 || name != "passphrase" && &u.Identities[0][0] == &c.bad.Identities[0][0] && u.Password == nil {
				wantErr(t, name+": Open() with the wrong key", err, ErrSealed)
				continue
			}
			if err != nil {
				t.Errorf("%s: Open() = %v; want it open", name, err)
				continue
			}
			a.Close()
		}
	}
	if asked != 1 {
		t.Errorf("the SSH key's password was asked for %d times; want 1", asked)
	}
}

func TestRootSignsTheNext(t *testing.T) {
	c, alice := ceremony(t, noon, nil)
	o, err := c.BeginRoot()
	if err != nil {
		t.Fatal(err)
	}
	root, err := c.OpenRoot(o, alice.key)
	if err != nil {
		t.Fatal(err)
	}
	next, err := Init(InitOptions{Name: "Example 2", Scope: Scope{DNS: []string{"example.net"}}, Now: noon.AddDate(1, 0, 0), Root: root, Custody: Custody{Lock: alice.Lock}})
	if err != nil {
		t.Fatal(err)
	}
	if err := next.Intermediate.CheckSignatureFrom(c.Root); err != nil || next.files["root.age"] != nil {
		t.Errorf("Init() with a root: %v, root.age of %d bytes; want it signed and no root key", err, len(next.files["root.age"]))
	}
	_, err = next.BeginRoot()
	wantErr(t, "BeginRoot() without a root's key", err, ErrInvalid)
	_, err = Init(InitOptions{Name: "Example 3", Scope: exampleScope, Now: noon.AddDate(20, 0, 0), Root: root, Custody: Custody{Lock: alice.Lock}})
	wantErr(t, "Init() with a root that is over", err, ErrExpired)
	_, err = Init(InitOptions{Name: "Example 4", Scope: exampleScope, Now: noon, Root: &Issuer{c.Intermediate, root.Key}, Custody: Custody{Lock: alice.Lock}})
	wantErr(t, "Init() below an intermediate", err, ErrInvalid)
}
