package access

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestImportSudoers(t *testing.T) {
	out, err := ImportSudoers([]byte(`# the team
Defaults env_reset
User_Alias  ONCALL = alice, %storage, \
                     #1001
Cmnd_Alias  ETCD = /usr/bin/systemctl restart etcd.service, /bin/systemctl status etcd
Cmnd_Alias  SHELLS = /bin/sh, /bin/bash
root    ALL=(ALL:ALL) ALL
ONCALL  ALL = NOPASSWD: ETCD, /usr/bin/docker exec zk-1
%wheel  ALL=(ALL) ALL, !SHELLS
bob     db1 = /usr/bin/systemctl stop mysql
carol   host1 = (postgres) /usr/bin/systemctl stop postgres
dave    host1 = /usr/bin/systemctl stop nginx, !/usr/bin/systemctl stop etcd
erin    ALL = /usr/bin/vi /etc/hosts
+admins ALL = ALL
%#100   host1, host2 = /usr/sbin/service web start
frank   ALL = /usr/bin/systemctl --now stop x
nonsense
@includedir /etc/sudoers.d
`), "host1.example.org")
	if err != nil {
		t.Fatal(err)
	}
	want := `allow user:root to * on *  # sudoers:7
allow user:alice unix:storage uid:1001 to run stop on etcd  # sudoers:8
allow user:alice unix:storage uid:1001 to inspect on etcd  # sudoers:8
allow user:alice unix:storage uid:1001 to exec on zk-1  # sudoers:8
allow user:dave to stop on nginx  # sudoers:12
deny user:dave to stop on etcd  # sudoers:12
allow gid:100 to run on web  # sudoers:15
`
	if out.Policy != want {
		t.Errorf("ImportSudoers() = \n%s\nwant\n%s", out.Policy, want)
	}
	var lost []string
	for _, l := range out.Lost {
		lost = append(lost, fmt.Sprint(l.Line))
	}
	if got := strings.Join(lost, " "); got != "2 18 9 10 11 13 14 16 17" {
		t.Errorf("ImportSudoers() lost lines %s: %+v", got, out.Lost)
	}
	compileText(t, out.Policy)
}

func TestImportRBAC(t *testing.T) {
	out, err := ImportRBAC([]byte(`apiVersion: v1
kind: List
items:
- kind: ClusterRole
  metadata: {name: cluster-admin}
  rules:
  - {apiGroups: ["*"], resources: ["*"], verbs: ["*"]}
  - {nonResourceURLs: ["*"], verbs: ["*"]}
- kind: Role
  metadata: {name: web, namespace: shop}
  rules:
  - {apiGroups: ["apps"], resources: [deployments], resourceNames: [front], verbs: [get, delete, escalate]}
  - {apiGroups: [""], resources: [pods/exec, secrets], verbs: [create]}
  - {apiGroups: [example.org], resources: [pods], verbs: [create]}
- kind: ClusterRoleBinding
  metadata: {name: admins}
  roleRef: {kind: ClusterRole, name: cluster-admin}
  subjects:
  - {kind: User, name: alice@example.org}
  - {kind: Group, name: ops}
  - {kind: ServiceAccount, name: robot, namespace: kube-system}
- kind: RoleBinding
  metadata: {name: web, namespace: shop}
  roleRef: {kind: Role, name: web}
  subjects: [{kind: User, name: bob}]
- kind: RoleBinding
  metadata: {name: gone, namespace: shop}
  roleRef: {kind: Role, name: gone}
  subjects: [{kind: User, name: bob}]
`))
	if err != nil {
		t.Fatal(err)
	}
	want := `allow tls:alice@example.org org:ops to * on *  # ClusterRoleBinding admins, cluster-admin rule 1
allow tls:bob to ps inspect stop rm on shop/front  # RoleBinding web, web rule 1
allow tls:bob to exec on shop/*  # RoleBinding web, web rule 2
`
	if out.Policy != want {
		t.Errorf("ImportRBAC() = \n%s\nwant\n%s", out.Policy, want)
	}
	var lost strings.Builder
	for _, l := range out.Lost {
		lost.WriteString(l.Text + "\n")
	}
	for _, w := range []string{"robot", "rule 2: *", "escalate deployments", "create secrets", "example.org", "gone"} {
		if !strings.Contains(lost.String(), w) {
			t.Errorf("ImportRBAC() lost %s; want %q among it", lost.String(), w)
		}
	}
	compileText(t, out.Policy)
	_, err = ImportRBAC([]byte("a: &a [x]\nb: *a\n"))
	wantErr(t, "ImportRBAC() with aliases", err, ErrInvalid, "line 2")
	_, err = ImportRBAC([]byte("items: {"))
	wantErr(t, "ImportRBAC() of half a file", err, ErrInvalid)
	if out, err := ImportRBAC([]byte(`{"kind":"List","items":[{"kind":"ClusterRole","metadata":{"name":"x"},"rules":[{"apiGroups":[""],"resources":["pods/log"],"verbs":["get"]}]},
		{"kind":"ClusterRoleBinding","metadata":{"name":"b"},"roleRef":{"kind":"ClusterRole","name":"x"},"subjects":[{"kind":"User","name":"u"}]}]}`)); err != nil || !strings.HasPrefix(out.Policy, "allow tls:u to logs on *") {
		t.Errorf("ImportRBAC(JSON) = %q, %v", out.Policy, err)
	}
}

func TestImportGroups(t *testing.T) {
	out, err := ImportGroups([]byte("root:x:0:\nstorage:x:100:alice,bob\nbad name:x:5:eve\n"))
	if err != nil || out.Policy != "group storage user:alice user:bob\n" || len(out.Lost) != 1 {
		t.Errorf("ImportGroups() = %+v, %v", out, err)
	}
}

// What an importer writes can be read, whatever it was given.
func FuzzImport(f *testing.F) {
	f.Add([]byte("alice ALL=(ALL) NOPASSWD: /usr/bin/systemctl stop etcd, !/bin/sh\nUser_Alias A = b\\\n, c\nA ALL=ALL"))
	f.Add([]byte("kind: RoleBinding\nmetadata: {name: x}\nroleRef: {kind: Role, name: y}\n"))
	f.Add([]byte("storage:x:1:alice,bob\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for name, imp := range map[string]func() (Imported, error){
			"sudoers": func() (Imported, error) { return ImportSudoers(b, "h") },
			"rbac":    func() (Imported, error) { return ImportRBAC(b) },
			"groups":  func() (Imported, error) { return ImportGroups(b) },
		} {
			out, err := imp()
			if err != nil {
				if !errors.Is(err, ErrInvalid) {
					t.Errorf("%s: %v; want ErrInvalid", name, err)
				}
				continue
			}
			if _, err := Compile([]Source{{Name: "p", Text: []byte(out.Policy)}}, Options{}); err != nil && !errors.Is(err, ErrContradiction) && !strings.Contains(err.Error(), "words") && !strings.Contains(err.Error(), "token too long") {
				t.Errorf("%s wrote a policy that cannot be read: %v\n%s", name, err, out.Policy)
			}
		}
	})
}
