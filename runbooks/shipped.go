package runbooks

import (
	"embed"
	"io/fs"
)

//go:embed *.yaml
var shipped embed.FS

// Shipped is the runbooks that come with the program, each a .yaml file with its rehearsals.
func Shipped() fs.FS { return shipped }
