package salvage

import (
	"errors"
	"maps"
	"slices"
)

// errLoose marks a record found on a page that nothing leads to any more.
var errLoose = errors.New("found on a loose page of the damaged database: it may have been deleted or be out of date")

// scan adds the containers and images on loose pages. Their namespace is lost
// with the pages above; namespaces maps a snapshot key to the one it is of.
func (l *containerdLoader) scan(db *boltDB, namespaces map[string]string) {
	known := map[string]bool{}
	for key := range l.records {
		known[key.id] = true
	}
	images := map[string]bool{}
	for _, image := range l.listing.Images {
		images[image.Name] = true
	}
	newest := map[string]containerdRecord{}
	for _, found := range db.loose() {
		switch b := found.bucket; {
		case b.get("spec") != nil && b.get("createdat") != nil && b.get("sandboxer") == nil:
			record, err := readContainerdRecord(b)
			id := found.name
			if id == "" {
				id = record.snapshotKey // what CRI, ctr and nerdctl use for both
			}
			if id == "" || known[id] || err != nil && len(record.spec) == 0 {
				continue
			}
			if other, ok := newest[id]; !ok || record.updated.After(other.updated) {
				newest[id] = record
			}
		case found.name != "" && b.bucket("target") != nil && !images[found.name]:
			images[found.name] = true
			before := len(l.listing.Images)
			l.image("", found.name, b)
			if len(l.listing.Images) > before {
				l.problem("image "+found.name, errLoose)
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(newest)) {
		record := newest[id]
		namespace := namespaces[record.snapshotKey]
		if namespace == "" && record.labels[labelPod] != "" {
			namespace = "k8s.io"
		}
		l.records[containerdKey{namespace, id}] = record
		l.listing.Containers = append(l.listing.Containers, record.container(l.path, namespace, id))
		l.problem("container "+namespace+"/"+id, errLoose)
	}
}
