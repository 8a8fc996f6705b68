package fetch

import "net/url"

func newOCI(u *url.URL, _ Place, _ Net) (Source, error) { return nil, ErrPlace }
