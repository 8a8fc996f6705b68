package recovery

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/blackstart-project/blackstart/recovery/graph"
	"github.com/blackstart-project/blackstart/recovery/kit"
)

// KitGraph is a kit in the words of the recovery graph: a file with its services, who manages them, and its
// capabilities, and a file for each of its runbooks. It is looked at, whoever signed it. Positions are
// dir and a line: the first service's is 2.
func (s Site) KitGraph(o KitOptions) (_ []graph.File, err error) {
	o.Unverified = true
	k, err := s.OpenKit(o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	dir := s.kitDir(o.Dir)
	body, err := kitDeclarations(k.Document)
	if err != nil {
		return nil, fmt.Errorf("reading kit %s: %w", dir, err)
	}
	files := []graph.File{{Name: dir, Data: body}}
	for _, r := range k.Document.Runbooks {
		files = append(files, graph.File{Name: filepath.Join(dir, r.Name), Data: []byte(r.Text)})
	}
	return files, nil
}

// kitDeclarations writes the services and capabilities of a kit as the recovery graph's YAML, one to a line. What is
// only about their content stays out.
func kitDeclarations(d *kit.Document) ([]byte, error) {
	type entry struct {
		Name      string `json:"name"`
		Owner     string `json:"owner,omitempty"`
		ManagedBy string `json:"managed_by,omitempty"`
		Service   string `json:"service,omitempty"`
	}
	var b strings.Builder
	list := func(key string, all []entry) error {
		if len(all) == 0 {
			return nil
		}
		b.WriteString(key + ":")
		for _, e := range all {
			j, err := json.Marshal(e)
			if err != nil {
				return err
			}
			b.WriteString("\n- ")
			b.Write(j)
		}
		b.WriteByte('\n')
		return nil
	}
	var services, capabilities []entry
	for _, v := range d.Services {
		services = append(services, entry{Name: v.Name, Owner: v.Owner, ManagedBy: v.ManagedBy})
	}
	for _, v := range d.Capabilities {
		capabilities = append(capabilities, entry{Name: v.Name, Service: v.Service})
	}
	if err := errors.Join(list("services", services), list("capabilities", capabilities)); err != nil {
		return nil, err
	}
	return []byte(b.String()), nil
}
