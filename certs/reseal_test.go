package certs

import "testing"

func TestReseal(t *testing.T) {
	people := []person{newPerson(t, "alice"), newPerson(t, "bob")}
	session, stranger := newPerson(t, "session"), newPerson(t, "stranger")
	c := splitCeremony(t, 2, people...)
	o, err := c.Begin()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range people {
		sent, err := Reseal(c.share(p.Name), p.key, session.Lock)
		if err != nil {
			t.Fatalf("Reseal(%s) = %v", p.Name, err)
		}
		_, err = o.Add(sent, p.key)
		wantErr(t, "Add() of what was sealed to another", err, ErrSealed, "")
		if _, err := o.Add(sent, session.key); err != nil {
			t.Errorf("Add() with the session's key = %v", err)
		}
	}
	a, err := c.Open(o, Unlock{}, AuthorityOptions{})
	if err != nil {
		t.Fatalf("Open() with resealed shares = %v", err)
	}
	a.Close()
	_, err = Reseal(c.share("alice"), stranger.key, session.Lock)
	wantErr(t, "Reseal() by a stranger", err, ErrSealed, "")
	_, err = Reseal(c.share("alice"), people[0].key, Lock{})
	wantErr(t, "Reseal() to nobody", err, ErrInvalid, "nobody")
	to, err := stranger.recipients()
	if err != nil {
		t.Fatal(err)
	}
	other, err := seal([]byte(`{"hello":1}`), to...)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Reseal(other, stranger.key, session.Lock)
	wantErr(t, "Reseal() of no share", err, ErrInvalid, "no share")
}
