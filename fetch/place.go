package fetch

import (
	"errors"
	"fmt"
	"net/url"
)

// ErrPlace: a URL is none of a source.
var ErrPlace = errors.New("not a source")

// Dial makes a source of a place. It sends nothing yet.
//
//	file:DIR, file:FILE            an OCI layout, or the content itself
//	http://HOST/…, https://HOST/…  the same, below a web server
//	oci://HOST/REPO                a registry; oci+http:// without TLS
//	s3://HOST/BUCKET[/PREFIX]      a bucket, path style; s3+http:// without TLS
//	ssh://USER@HOST/DIR            an OCI layout, read with cat and dd
//
// HOST is an address, or a name that n has one for, with a port if need be.
func Dial(p Place, n Net) (Source, error) {
	u, err := url.Parse(p.URL)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPlace, err)
	}
	switch u.Scheme {
	case "file":
		return newFile(u)
	case "http", "https":
		return newHTTP(u, p, n)
	case "oci", "oci+http":
		return newOCI(u, p, n)
	case "s3", "s3+http":
		return newS3(u, p, n)
	case "ssh":
		return newSSH(u, p, n)
	}
	return nil, fmt.Errorf("%w: %s: want a file:, http:, https:, oci:, s3: or ssh: URL", ErrPlace, u.Redacted())
}
