package access

import (
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/token"
)

// rbacObject is what matters of Role, ClusterRole, RoleBinding and ClusterRoleBinding, and of a List of them
// (rbac.authorization.k8s.io/v1).
type rbacObject struct {
	Kind     string `yaml:"kind"`
	Metadata struct {
		Name      string `yaml:"name"`
		Namespace string `yaml:"namespace"`
	} `yaml:"metadata"`
	Rules []rbacRule `yaml:"rules"`
	Role  struct {
		Kind string `yaml:"kind"`
		Name string `yaml:"name"`
	} `yaml:"roleRef"`
	Subjects []struct {
		Kind      string `yaml:"kind"`
		Name      string `yaml:"name"`
		Namespace string `yaml:"namespace"`
	} `yaml:"subjects"`
	Aggregation any          `yaml:"aggregationRule"`
	Items       []rbacObject `yaml:"items"`
}

type rbacRule struct {
	APIGroups     []string `yaml:"apiGroups"`
	Resources     []string `yaml:"resources"`
	ResourceNames []string `yaml:"resourceNames"`
	Verbs         []string `yaml:"verbs"`
	URLs          []string `yaml:"nonResourceURLs"`
}

// ImportRBAC turns an export of Kubernetes' RBAC (kubectl get roles,clusterroles,rolebindings,clusterrolebindings -A -o yaml, or
// json) into policy. Users become tls:NAME and groups org:NAME, which is where Kubernetes has them from; pods and what
// makes them become services.
//
// Errors: ErrInvalid.
func ImportRBAC(text []byte) (Imported, error) {
	var out Imported
	if len(text) > maxPolicy {
		return out, fmt.Errorf("reading RBAC: %w: larger than %d bytes", ErrInvalid, maxPolicy)
	}
	for _, t := range lexer.Tokenize(string(text)) {
		if t.Type == token.AliasType || t.Type == token.MergeKeyType {
			return out, fmt.Errorf("reading RBAC: %w: line %d: aliases, which no export has", ErrInvalid, t.Position.Line)
		}
	}
	var all []rbacObject
	for doc := range strings.SplitSeq("\n"+string(text), "\n---") {
		if strings.TrimSpace(doc) == "" {
			continue
		}
		var o rbacObject
		if err := yaml.Unmarshal([]byte(doc), &o); err != nil {
			return out, fmt.Errorf("reading RBAC: %w: %w", ErrInvalid, err)
		}
		if all = append(all, o); o.Items != nil {
			all = append(all[:len(all)-1], o.Items...)
		}
	}
	roles := map[string]rbacObject{}
	for _, o := range all {
		switch o.Kind {
		case "Role":
			roles["Role/"+o.Metadata.Namespace+"/"+o.Metadata.Name] = o
		case "ClusterRole":
			roles["ClusterRole//"+o.Metadata.Name] = o
			if o.Aggregation != nil {
				out.note("ClusterRole " + printable(o.Metadata.Name) + " is aggregated: the export holds what it added up to")
			}
		case "RoleBinding", "ClusterRoleBinding":
		default:
			out.lost(0, o.Kind+" "+o.Metadata.Name, "not an object of RBAC")
		}
	}
	for _, o := range all {
		if o.Kind == "RoleBinding" || o.Kind == "ClusterRoleBinding" {
			out.binding(o, roles)
		}
	}
	return out, nil
}

func (i *Imported) binding(b rbacObject, roles map[string]rbacObject) {
	name := b.Kind + " " + b.Metadata.Name
	at := "ClusterRole//" + b.Role.Name
	if b.Role.Kind == "Role" {
		at = "Role/" + b.Metadata.Namespace + "/" + b.Role.Name
	}
	role, ok := roles[at]
	if !ok {
		i.lost(0, name, "its role "+b.Role.Name+" is not in the export")
		return
	}
	var who []string
	for _, s := range b.Subjects {
		subject := map[string]string{"User": "tls:", "Group": "org:"}[s.Kind] + s.Name
		switch {
		case s.Kind == "ServiceAccount":
			i.lost(0, name+": "+s.Namespace+"/"+s.Name, "a service account is a program's, and its tokens need the API server")
		case s.Kind != "User" && s.Kind != "Group", !subjectName(subject):
			i.lost(0, name+": "+s.Kind+" "+s.Name, "no name that the policy can hold")
		case s.Name == "system:authenticated" || s.Name == "system:unauthenticated":
			i.lost(0, name+": "+s.Name, "a group of everybody")
		default:
			who = append(who, subject)
		}
	}
	if len(who) == 0 {
		return
	}
	namespace := ""
	if b.Kind == "RoleBinding" {
		namespace = b.Metadata.Namespace
	}
	for n, r := range role.Rules {
		i.rule(fmt.Sprintf("%s, %s rule %d", name, b.Role.Name, n+1), strings.Join(who, " "), namespace, r)
	}
}

// rule writes one rule of a role for those who are bound to it.
func (i *Imported) rule(where, who, namespace string, r rbacRule) {
	if len(r.URLs) > 0 {
		i.lost(0, where+": "+strings.Join(r.URLs, " "), "paths of the API server")
		return
	}
	if !slices.ContainsFunc(r.APIGroups, func(g string) bool { return slices.Contains([]string{"", "*", "apps", "batch", "extensions"}, g) }) {
		i.lost(0, where+": "+strings.Join(r.APIGroups, " "), "an API group without services")
		return
	}
	var verbs []string
	for _, res := range r.Resources {
		for _, v := range r.Verbs {
			ours, ok := rbacVerbs(res, v)
			if !ok {
				i.lost(0, where+": "+v+" "+res, "there is no verb for this")
				continue
			}
			for _, o := range ours {
				if !slices.Contains(verbs, o) {
					verbs = append(verbs, o)
				}
			}
		}
	}
	if len(verbs) == 0 {
		return
	}
	if slices.Contains(verbs, "*") {
		verbs = []string{"*"}
	}
	objects := slices.Clone(r.ResourceNames)
	if len(objects) == 0 {
		objects = []string{"*"}
	}
	if namespace != "" {
		i.note("a service of the namespace N is taken to be called N/NAME in the kit")
		for n := range objects {
			objects[n] = namespace + "/" + objects[n]
		}
	}
	for _, o := range objects {
		if !objectPattern(o) {
			i.lost(0, where+": "+o, "no service's name")
			continue
		}
		i.write("allow %s to %s on %s  # %s", who, strings.Join(verbs, " "), o, strings.Map(plainComment, where))
	}
}

func plainComment(r rune) rune {
	if r < ' ' || r > 0x7e {
		return '?'
	}
	return r
}

// rbacVerbs says what a verb on a resource is here.
func rbacVerbs(resource, verb string) ([]string, bool) {
	workload := slices.Contains([]string{"*", "pods", "deployments", "statefulsets", "daemonsets", "replicasets", "jobs", "cronjobs"}, resource)
	switch {
	case resource == "*" && verb == "*":
		return []string{"*"}, true
	case resource == "pods/exec" || resource == "pods/attach":
		return []string{"exec"}, verb == "create" || verb == "get" || verb == "*"
	case resource == "pods/log":
		return []string{"logs"}, verb == "get" || verb == "list" || verb == "*"
	case !workload:
		return nil, false
	}
	switch verb {
	case "*":
		return []string{"run", "stop", "rm", "ps", "inspect"}, true
	case "create", "update", "patch":
		return []string{"run"}, true
	case "delete", "deletecollection":
		return []string{"stop", "rm"}, true
	case "get", "list", "watch":
		return []string{"ps", "inspect"}, true
	}
	return nil, false
}
