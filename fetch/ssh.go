package fetch

import "net/url"

func newSSH(u *url.URL, _ Place, _ Net) (Source, error) { return nil, ErrPlace }
