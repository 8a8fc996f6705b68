package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v2"

	"github.com/blackstart-project/blackstart/recovery"
	"github.com/blackstart-project/blackstart/recovery/graph"
)

const (
	maxGraphFile  = 16 << 20 // bytes
	maxGraphFiles = 100_000
)

// graphEndings are of the files that count below a directory.
func graphEndings(f graph.ImportFormat) []string {
	switch f {
	case graph.Systemd:
		return []string{".service", ".socket", ".target", ".timer", ".path", ".mount", ".automount", ".swap", ".conf"}
	case graph.Nomad, graph.OpenTelemetry:
		return []string{".json"}
	case graph.Terraform:
		return []string{".dot", ".gv"}
	case graph.Kubernetes:
		return []string{".yaml", ".yml", ".json", ".manifest"}
	case graph.Compose:
	}
	return []string{".yaml", ".yml", ".json"}
}

// graphFiles reads files that are named, whatever they are called, and those below
// directories with one of the endings.
func graphFiles(paths, endings []string) ([]graph.File, error) {
	var files []graph.File
	add := func(path string) error {
		st, err := os.Stat(path)
		if err != nil {
			return err
		}
		if st.Size() > maxGraphFile || len(files) == maxGraphFiles {
			return usage("%s: %d bytes, at most %d; at most %d files", path, st.Size(), maxGraphFile, maxGraphFiles)
		}
		b, err := os.ReadFile(path)
		files = append(files, graph.File{Name: path, Data: b})
		return err
	}
	for _, p := range paths {
		err := filepath.WalkDir(p, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case !d.Type().IsRegular() && path != p, d.IsDir():
				return nil
			case path != p && !slices.Contains(endings, filepath.Ext(path)):
				return nil
			}
			return add(path)
		})
		if errors.Is(err, fs.ErrNotExist) {
			err = usage("%w", err)
		}
		if err != nil {
			return nil, err
		}
	}
	return files, nil
}

func readGraph(c *cli.Context, paths []string) (*graph.Graph, error) {
	if len(paths) == 0 {
		return nil, usage("%s takes files, directories and kits", c.Command.FullName())
	}
	var files []graph.File
	var plain []string
	for _, p := range paths {
		if _, err := os.Stat(filepath.Join(p, ocispec.ImageLayoutFile)); err != nil {
			plain = append(plain, p)
			continue
		}
		s, err := bareSite(c)
		if err != nil {
			return nil, err
		}
		of, err := s.KitGraph(recovery.KitOptions{Dir: p})
		if err != nil {
			return nil, err
		}
		files = append(files, of...)
	}
	more, err := graphFiles(plain, graphEndings(""))
	if err != nil {
		return nil, err
	}
	return graph.Read(append(files, more...)...)
}
