package fetch

import "testing"

func TestParseLogins(t *testing.T) {
	look, err := ParseLogins("# safe storage\nmachine 10.0.0.7:5000 login anna password s3cret\nmachine 10.0.0.8\n  login bo\n  password x\n  account y\n")
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{
		"10.0.0.7:5000": "anna:s3cret", "10.0.0.8:443": "bo:x", "10.0.0.8": "bo:x", "10.0.0.7": ":", "elsewhere": ":",
	} {
		if user, password, ok := look(host); user+":"+password != want || ok != (want != ":") {
			t.Errorf("the login of %s = %s:%s, %v; want %s", host, user, password, ok, want)
		}
	}
	look, err = ParseLogins("default login any password one")
	if err != nil {
		t.Fatal(err)
	}
	if user, password, ok := look("x"); user != "any" || password != "one" || !ok {
		t.Errorf("the default login = %s, %s, %v", user, password, ok)
	}
	for _, bad := range []string{"machine", "login x", "machine a login", "machine a macdef x", "machine a password"} {
		if _, err := ParseLogins(bad); err == nil {
			t.Errorf("ParseLogins(%q) = nil; want an error", bad)
		}
	}
}

func FuzzParseLogins(f *testing.F) {
	f.Add("machine a login b password c\ndefault login d password e")
	f.Fuzz(func(t *testing.T, text string) {
		if look, err := ParseLogins(text); err == nil {
			look("a:1")
		}
	})
}
