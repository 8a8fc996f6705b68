package kit

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// frame is a chunk, and file an artifact, as JSON.
const (
	someFrame = `{"digest":"sha256:` + zeros + `","size":10,"length":20}`
	someFile  = `{"name":"f","kind":"file","media_type":"a/b","digest":"sha256:` + zeros + `","size":20,"captured_at":"2026-03-01T12:00:00Z","blobs":[{"digest":"sha256:` + zeros + `","size":20,"media_type":"a/b","chunks":[` + someFrame + `]}]}`
	head      = `{"media_type":"` + MediaType + `","name":"a","epoch":1,"signed_at":"2026-03-01T12:00:00Z"`
)

func TestParseTakesWhatIsRight(t *testing.T) {
	for _, text := range []string{
		head + `}`,
		head + "}\n",
		head + `,"artifacts":[` + someFile + `]}`,
		head + `,"services":[{"name":"s","spec":{"Env":{"A":1,"a":2},"spec":{"x":1}}}]}`,
		head + `,"capabilities":[{"name":"a:read","spec":{}}],"min_tool":"v1.0.0"}`,
		head + `,"revoked":["sha256:` + zeros + `","0123456789ABCDEF"]}`,
	} {
		d, err := Parse([]byte(text), "v1.0.0")
		if err != nil {
			t.Errorf("Parse(%.300s) = %v; want nil", text, err)
			continue
		}
		again, err := d.Marshal()
		if err != nil || strings.TrimSpace(string(again)) != strings.TrimSpace(text) && !strings.Contains(text, "min_tool") {
			t.Errorf("Parse(%s).Marshal() = %s, %v; want the same", text, again, err)
		}
	}
}

func TestParseRefusesWhatIsNot(t *testing.T) {
	file := func(from, to string) string {
		if !strings.Contains(someFile, from) {
			t.Fatalf("the test's own artifact holds no %s", from)
		}
		return head + `,"artifacts":[` + strings.Replace(someFile, from, to, 1) + `]}`
	}
	for name, c := range map[string][2]string{
		"nothing":                          {"", "EOF"},
		"half":                             {head, "EOF"},
		"no object":                        {"[]", ""},
		"something after":                  {head + `} {}`, "follows"},
		"not UTF-8":                        {head + ",\"min_tool\":\"\xff\"}", "UTF-8"},
		"a key twice":                      {head + `,"epoch":2}`, `"epoch" twice`},
		"a key in other letters":           {head + `,"Epoch":2}`, "lower-case"},
		"a key with a long s":              {head + "," + `"ſources":[]}`, "lower-case"},
		"a key twice in a spec":            {head + `,"services":[{"name":"s","spec":{"a":{"b":1,"b":2}}}]}`, `"b" twice`},
		"an unknown field":                 {head + `,"more":1}`, "more"},
		"an unknown field below":           {head + `,"contacts":[{"name":"a","uri":"tel:1","more":1}]}`, "more"},
		"deep nesting":                     {head + `,"services":[{"name":"s","spec":` + strings.Repeat(`{"a":`, 100) + `1` + strings.Repeat("}", 100) + `}]}`, "deep"},
		"much deeper nesting":              {strings.Repeat("[", 1<<20), "deep"},
		"too large":                        {head + strings.Repeat(" ", MaxDocument) + "}", "larger than"},
		"another media type":               {strings.Replace(head, ".v1+", ".v2+", 1) + "}", "media_type"},
		"a name with a slash":              {strings.Replace(head, `"name":"a"`, `"name":"../a"`, 1) + "}", "name"},
		"epoch 0":                          {strings.Replace(head, `"epoch":1`, `"epoch":0`, 1) + "}", "epoch"},
		"a negative epoch":                 {strings.Replace(head, `"epoch":1`, `"epoch":-1`, 1) + "}", "epoch"},
		"no time":                          {`{"media_type":"` + MediaType + `","name":"a","epoch":1}`, "signed_at"},
		"fresh before signed":              {head + `,"fresh_until":"2026-02-01T12:00:00Z"}`, "fresh_until"},
		"previous is no digest":            {head + `,"previous":"sha256:12"}`, "previous"},
		"min_tool is no version":           {head + `,"min_tool":"soon"}`, "min_tool"},
		"two artifacts of a name":          {head + `,"artifacts":[` + someFile + "," + someFile + `]}`, "there twice"},
		"a path for a name":                {file(`"name":"f"`, `"name":"../../etc/passwd"`), "name"},
		"a digest that is short":           {file(`"digest":"sha256:`+zeros+`","size":10`, `"digest":"sha256:00","size":10`), "sha256"},
		"a sha512":                         {file(`"digest":"sha256:`+zeros+`","size":10`, `"digest":"sha512:`+zeros+zeros+`","size":10`), "sha256"},
		"a digest with a path":             {file(`"digest":"sha256:`+zeros+`","size":10`, `"digest":"../../x","size":10`), "sha256"},
		"lengths that do not add up":       {file(`"length":20`, `"length":19`), "its chunks have 19"},
		"a size that does not":             {file(`"size":20,"captured`, `"size":21,"captured`), "its blobs have 20"},
		"a frame too large":                {file(`"size":10`, `"size":8388609`), "at most"},
		"content too large":                {file(`"length":20`, `"length":4194305`), "at most"},
		"a negative length":                {file(`"length":20`, `"length":-20`), "at most"},
		"no chunks":                        {file(someFrame, ``), "0 chunks"},
		"a frame with two sizes":           {file(someFrame, someFrame+","+strings.Replace(someFrame, `"size":10`, `"size":11`, 1)), "its chunks have 40"},
		"another kind":                     {file(`"kind":"file"`, `"kind":"disk"`), "kind"},
		"a file as an image":               {file(`"kind":"file"`, `"kind":"image"`), "manifest"},
		"a need that is not there":         {file(`"blobs"`, `"needs":["g"],"blobs"`), `"g"`},
		"an artifact that needs itself":    {file(`"blobs"`, `"needs":["f"],"blobs"`), "f -> f"},
		"an image that is not there":       {head + `,"services":[{"name":"s","image":"x","spec":{}}]}`, `"x"`},
		"a spec that is a list":            {head + `,"services":[{"name":"s","spec":[]}]}`, "spec"},
		"a source without a URL":           {head + `,"sources":[{"name":"s","url":"x"}]}`, "URL"},
		"a password":                       {head + `,"sources":[{"name":"s","url":"https://a:b@10.0.0.1/"}]}`, "password"},
		"trust that is not there":          {head + `,"sources":[{"name":"s","url":"https://10.0.0.1/","trust":"ca"}]}`, `"ca"`},
		"an address that is a name":        {head + `,"names":[{"name":"a.b","addresses":["c.d"],"observed_at":"2026-03-01T12:00:00Z"}]}`, "c.d"},
		"addresses and a zone":             {head + `,"names":[{"name":"a.b","addresses":["10.0.0.1"],"zone":"x","observed_at":"2026-03-01T12:00:00Z"}]}`, "either"},
		"ca that is no certificate":        {head + `,"trust":[{"name":"a","ca":"hello"}]}`, "PEM"},
		"both ca and spki":                 {head + `,"trust":[{"name":"a","ca":"hello","spki":"sha256:` + zeros + `"}]}`, "either"},
		"revoked is no digest":             {head + `,"revoked":["alice"]}`, "alice"},
		"what it revokes itself":           {file(`}]}]}`, `}]}]}`)[:len(file(`}]}]}`, `}]}]}`))-1] + `,"revoked":["sha256:` + zeros + `"]}`, "revokes"},
		"a frame's sizes in two artifacts": {head + `,"artifacts":[` + someFile + "," + strings.NewReplacer(`"name":"f"`, `"name":"g"`, `"size":10`, `"size":11`).Replace(someFile) + `]}`, "two sizes"},
	} {
		_, err := Parse([]byte(c[0]), "v1.0.0")
		if !errors.Is(err, ErrInvalid) || !strings.Contains(fmt.Sprint(err), c[1]) {
			t.Errorf("Parse(%s) = %v; want ErrInvalid with %q", name, err, c[1])
		}
	}
}

func TestOrderIsThatOfNeeds(t *testing.T) {
	d := &Document{Artifacts: []Artifact{{Name: "a", Needs: []string{"b", "c"}}, {Name: "b", Needs: []string{"c"}}, {Name: "c"}, {Name: "d"}}}
	for _, c := range []struct{ of, want string }{{"", "c b a d"}, {"b", "c b"}, {"d a", "d c b a"}} {
		order, err := d.Order(strings.Fields(c.of)...)
		var got []string
		for _, a := range order {
			got = append(got, a.Name)
		}
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("Order(%s) = %v, %v; want %s", c.of, got, err, c.want)
		}
	}
	if _, err := d.Order("x"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Order(x) = %v; want ErrNotFound", err)
	}
}
