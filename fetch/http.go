package fetch

import "net/url"

func newHTTP(u *url.URL, _ Place, _ Net) (Source, error) { return nil, ErrPlace }
