package salvage

import "strings"

// referenceBytes are those that a reference may be made of.
const referenceBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:@+"

// normalise writes an image's name in full, as Docker reads it: a first part
// without a dot or port is no registry, one part alone is in library/, no tag is
// latest. A digest says it all, so a tag beside it is dropped, as containerd's
// CRI does. An id, which is 64 hexadecimal digits, and what has an empty part
// stay as they are.
func normalise(name string) string {
	if len(name) == 64 && strings.Trim(name, "0123456789abcdef") == "" {
		return name
	}
	path, digest, pinned := strings.Cut(name, "@")
	tag := ""
	if i := strings.LastIndexByte(path, ':'); i > strings.LastIndexByte(path, '/') {
		path, tag = path[:i], path[i+1:]
	} else if !pinned {
		tag = "latest"
	}
	if path == "" || !pinned && tag == "" || pinned && digest == "" || strings.Trim(name, referenceBytes) != "" {
		return name
	}
	host, rest, found := strings.Cut(path, "/")
	switch {
	case !found:
		path = "docker.io/library/" + path
	case host == "index.docker.io" || host == "docker.io":
		path = "docker.io/" + rest
		if !strings.Contains(rest, "/") {
			path = "docker.io/library/" + rest
		}
	case !strings.ContainsAny(host, ".:") && host != "localhost" && strings.ToLower(host) == host:
		path = "docker.io/" + path
	}
	if pinned {
		return path + "@" + digest
	}
	return path + ":" + tag
}
