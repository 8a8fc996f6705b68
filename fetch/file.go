package fetch

import "net/url"

func newFile(u *url.URL) (Source, error) { return nil, ErrPlace }
