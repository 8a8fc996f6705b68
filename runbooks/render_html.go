package runbooks

import (
	"bytes"
	"crypto/sha256"
	_ "embed" // the page's parts
	"encoding/base64"
	"html/template"
	"io"
	"strings"
	"sync"
)

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

//go:embed page.js
var pageJS string

var pageTemplate = sync.OnceValues(func() (*template.Template, error) {
	return template.New("page").Funcs(template.FuncMap{"link": link, "sentence": proofView.sentence, "nothing": orNothing}).Parse(pageHTML)
})

// link is where a contact's link leads; "" if it leads nowhere safe.
func link(uri string) template.URL {
	if !isURI(uri) {
		return ""
	}
	return template.URL(uri) //nolint:gosec // isURI lets no scheme pass that runs anything
}

// html writes the document as one page. It loads nothing: its policy allows one style and one script, by their
// digests, and the script does no more than fill the clipboard.
func (v view) html(w io.Writer) error {
	t, err := pageTemplate()
	if err != nil {
		return err
	}
	css, js := strings.TrimSpace(pageCSS), strings.TrimSpace(pageJS)
	var out bytes.Buffer
	err = t.Execute(&out, struct {
		view
		Policy string
		CSS    template.CSS
		JS     template.JS
		Stale  bool
	}{
		v,
		"default-src 'none'; style-src " + sourceHash(css) + "; script-src " + sourceHash(js) + "; base-uri 'none'; form-action 'none'",
		template.CSS(css), template.JS(js), len(v.Proofs) > 0 && v.Proofs[0].Stale != "", //nolint:gosec // our own files
	})
	if err != nil {
		return err
	}
	_, err = w.Write(out.Bytes())
	return err
}

// sourceHash is how a Content-Security-Policy names an inline text (CSP Level 3, 2.3.1).
func sourceHash(s string) string {
	d := sha256.Sum256([]byte(s))
	return "'sha256-" + base64.StdEncoding.EncodeToString(d[:]) + "'"
}
