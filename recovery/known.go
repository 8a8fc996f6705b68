package recovery

import (
	"errors"

	"github.com/blackstart-project/blackstart/runbooks"
)

// Known is what the kit has of what runbooks may name.
func (s Site) Known() (_ runbooks.Known, err error) {
	k, err := s.OpenKit(s.From.Kit)
	if err != nil {
		return runbooks.Known{}, err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	known := runbooks.Known{Artifacts: []string{}, Services: []string{}, Capabilities: []string{}, Contacts: map[string]string{}}
	for _, a := range k.Document.Artifacts {
		known.Artifacts = append(known.Artifacts, a.Name)
	}
	for _, v := range k.Document.Services {
		known.Services = append(known.Services, v.Name)
	}
	for _, v := range k.Document.Capabilities {
		known.Capabilities = append(known.Capabilities, v.Name)
	}
	for _, v := range k.Document.Contacts {
		known.Contacts[v.Name] = v.URI
	}
	return known, nil
}
