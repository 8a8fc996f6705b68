package graph

import (
	"slices"
	"strings"
)

// object is one of a cluster: kind, namespace and name in lower case, as services are named.
type object struct {
	service *Service
	kind    string
	space   string
	labels  map[string]string // of its pods, or its own
	selects map[string]string // by a Service
	at      Position
	refs    []mention
}

// mention is something that an object names.
type mention struct {
	name string // of a service, as object makes it
	line int
}

// kubernetes reads manifests: owner references and static pods as managers, and of what pods and ingresses name what is
// among the manifests as well.
func (m *importer) kubernetes(f File) {
	docs := tree(f.Data, m.report)
	for i := range docs {
		m.manifest(&docs[i], f.Name, 0)
	}
}

func objectName(space, kind, name string) string {
	n := strings.ToLower(kind) + "/" + name
	if space != "" && space != "default" {
		n = space + "/" + n
	}
	return n
}

func (m *importer) manifest(n *node, file string, depth int) {
	if items := n.get("items"); items != nil && depth < 2 && strings.HasSuffix(n.str("kind"), "List") {
		for i := range items.items {
			m.manifest(&items.items[i], file, depth+1)
		}
		return
	}
	kind, meta := n.str("kind"), n.get("metadata")
	if kind == "" || meta == nil || meta.str("name") == "" {
		return
	}
	space := meta.str("namespace")
	s := m.service(objectName(space, kind, meta.str("name")), int(n.line))
	o := object{service: s, kind: kind, space: space, at: Position{m.file, int(n.line)}, labels: texts(meta.get("labels"))}
	if owners := meta.get("ownerReferences"); owners != nil {
		for i := range owners.items {
			v := &owners.items[i]
			if c := v.get("controller"); v.str("name") != "" && (c == nil || c.text == "true") {
				m.needs(s, objectName(space, v.str("kind"), v.str("name")), int(v.line), managed)
			}
		}
	}
	var pod *node
	switch kind {
	case "Pod":
		pod = n.get("spec")
	case "Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "ReplicationController":
		pod = n.find("spec", "template", "spec")
		if l := texts(n.find("spec", "template", "metadata", "labels")); len(l) > 0 {
			o.labels = l
		}
	case "CronJob":
		pod = n.find("spec", "jobTemplate", "spec", "template", "spec")
	case "Service":
		o.selects = texts(n.find("spec", "selector"))
	case "Ingress":
		o.find(n.get("spec"), 0)
	}
	if pod != nil {
		o.find(pod, 0)
		if len(s.Needs) == 0 {
			manager := "kubernetes"
			source := meta.find("annotations", "kubernetes.io/config.source")
			if strings.Contains(file, "kubernetes/manifests/") || source != nil && source.text == "file" {
				manager = "kubelet"
			}
			m.needs(s, manager, int(n.line), managed)
		}
		if strings.HasPrefix(meta.str("name"), "kube-apiserver") {
			s.Provides = append(s.Provides, "kubernetes")
		}
	}
	m.objects = append(m.objects, o)
}

// find collects what a specification names: config maps, secrets, volumes, accounts, and an ingress's services.
func (o *object) find(n *node, depth int) {
	if n == nil || depth > maxDepth {
		return
	}
	if opt := n.get("optional"); opt != nil && opt.text == "true" {
		return
	}
	for i := range n.pairs {
		k, v := n.pairs[i].key, &n.pairs[i].value
		kind, name := "", v.str("name")
		switch k {
		case "configMap", "configMapKeyRef", "configMapRef":
			kind = "ConfigMap"
		case "secretKeyRef", "secretRef":
			kind = "Secret"
		case "secret":
			if kind = "Secret"; name == "" {
				name = v.str("secretName")
			}
		case "persistentVolumeClaim":
			kind, name = "PersistentVolumeClaim", v.str("claimName")
		case "serviceAccountName", "serviceAccount":
			kind, name = "ServiceAccount", v.text
		case "service":
			kind = "Service"
		case "serviceName":
			kind, name = "Service", v.text
		}
		if opt := v.get("optional"); kind != "" && name != "" && (opt == nil || opt.text != "true") {
			o.refs = append(o.refs, mention{objectName(o.space, kind, name), int(v.line)})
		}
		o.find(v, depth+1)
	}
	for i := range n.items {
		o.find(&n.items[i], depth+1)
	}
}

// cluster resolves what takes all manifests.
func (m *importer) cluster() {
	kubelet := false
	for i := range m.objects {
		o := &m.objects[i]
		kubelet = kubelet || o.service.Manager() == "kubelet"
		for _, r := range o.refs {
			if m.services[named(r.name)] != nil && !(o.kind == "StatefulSet" && strings.Contains(r.name, "service/")) {
				o.service.Needs = append(o.service.Needs, Need{AnyOf: []string{named(r.name)}, At: Position{o.at.File, r.line}})
			}
		}
		if len(o.selects) == 0 {
			continue
		}
		var by []string
		for j := range m.objects {
			p := &m.objects[j]
			if p.kind != "Service" && p.space == o.space && p.service.Manager() != "" && matches(o.selects, p.labels) {
				by = append(by, p.service.Name)
			}
		}
		if len(by) > 0 {
			slices.Sort(by)
			o.service.Needs = append(o.service.Needs, Need{AnyOf: slices.Compact(by), At: o.at})
		}
	}
	m.drop()
	if s := m.services["kubelet"]; kubelet && s == nil {
		m.services["kubelet"] = &Service{Name: "kubelet", Tier: NoTier, Needs: []Need{{AnyOf: []string{"hardware"}}}}
	}
}

// drop leaves out the objects that wait for nothing and that nothing waits for: roles, policies, what only configures.
func (m *importer) drop() {
	needed := m.needed()
	for i := range m.objects {
		if s := m.objects[i].service; s != nil && len(s.Needs) == 0 && !needed[s.Name] {
			delete(m.services, s.Name)
		}
	}
}

func matches(want, have map[string]string) bool {
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}

func texts(n *node) map[string]string {
	if n == nil {
		return nil
	}
	out := make(map[string]string, len(n.pairs))
	for i := range n.pairs {
		out[n.pairs[i].key] = n.pairs[i].value.text
	}
	return out
}
