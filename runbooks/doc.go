// Package runbooks is the language of runbooks and rehearsals: it reads the YAML, says what is wrong with it and
// where, orders the steps, and writes the document that people read. It runs nothing.
//
// A file holds one or more YAML documents. One whose first key is runbook says how a service is brought back; one
// whose first key is rehearsal says how that is proved.
//
//	runbook: etcd from bare hosts
//	service: etcd
//	owner: storage-oncall
//	contacts: ["sip:storage-oncall@10.0.0.9"]
//	hosts: [a, b]                              # each gets an address with --host NAME=IP
//	vars:
//	  data: {default: /var/lib/etcd, about: where etcd keeps its data}
//	  token: {secret: true, about: of the backup store}
//	steps:
//	  - name: get the binary
//	    hosts: [a, b]
//	    fetch: etcd-server
//	    with: {to: /usr/local/bin/etcd}
//	  - name: keep a copy
//	    needs: []
//	    check: test -d "${data}.before"
//	    run: cp -a "${data}" "${data}.before"
//	  - name: it answers
//	    needs: [get the binary, keep a copy]
//	    wait_for: {http: "http://${ip_a}:2379/health", contains: '"health":"true"', within: 60s}
//	---
//	rehearsal: etcd recovers alone
//	service: etcd
//	hardware: {hosts: 2, cpus: 1, memory: 512MiB}
//	healthy: [{exec: etcdctl endpoint health}]
//	conditions: [package-store:read]
//	within: 90s
//
// # Order
//
// A step without needs follows the step above it. With needs it follows exactly the steps named, and with
// needs: [] none: that is how steps run in parallel. A step on several hosts is done when it is done on each.
//
// # Shell and variables
//
// The texts run, check, when, undo and exec belong to sh -eu. They are never changed: variables reach them through the
// environment, so "${data}" means in them what it means in any script, and no value can become a command. In every
// other text ${name} is replaced by the value, and $${ stands for ${. A value is not looked into again. Besides the
// variables declared there are ip_NAME, the address of each host (with _ for what is not a letter or digit), and, in a
// step with hosts, ip and host, those of the host at hand. Where a port follows such an address, or :// comes before it,
// an IPv6 one gets its brackets; the shell's variables have none.
//
// when: a non-zero exit leaves the step out, and what needs it goes on. check: a zero exit says that the step's work is
// done already. A secret's value has no place in a file; a [Masker] keeps it out of what is shown and recorded.
//
// # Other hosts
//
// A step with hosts is done on each of them, over SSH, by a copy of the program that runs the runbook, with its own
// --state and --data directories: fetch and container use that host's kit there. Its shell texts get the variables
// and no others, and see neither the terminal nor the agent. when and check are asked there as well, wait_for looks
// from there, and undo runs there. With cert, the session is asked where the runbook runs, and with.to is on the host.
//
// # What stays
//
// container and dns: serve leave something running when the run is over. A container is ended by a stop step. The name
// server of dns: serve is one process for the first address of with.listen, 127.0.0.1:53 without; where it runs
// with the same data already, the step says so, and with other data it is replaced. It appends to DATA/dns.log, and
// STATE/dns tells its process. dns: release ends all of them and takes back dns: takeover, which points
// resolv.conf at the addresses of with.listen; kill and blackstart dns release do either one by hand. cert writes cert.pem,
// key.pem (0600) and ca.pem into the directory with.to, and renews them when it is done again.
//
// # Undo
//
// undo takes a step back that a run has done: the last step that was done first, and only what the run itself
// did. It may be cut off and run again, so it must stand being repeated. with.env, with.dir and the step's
// timeout are those of the step.
//
// # Names
//
// Nothing here is looked up through the system's resolver: hosts in tcp and http are IP addresses.
//
// Durations are written as time.ParseDuration reads them, or in days, 30d; sizes in bytes, or with KiB, MiB, GiB or TiB.
package runbooks
