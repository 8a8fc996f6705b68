// Package access decides who may do what during a recovery, from what a host knows without asking anybody: a policy
// of short readable lines, signed by the owners of the services it speaks of, and approvals that people sign on their own machines.
//
// It is pure: text and values in, decisions out. It reads no files and keeps no state.
//
// # What it is worth
//
// Whoever is root on a host can go around every decision made there: run another program, change this one, forge the
// environment that a [Subject] is read from. The policy keeps people of good will from mistakes, and the record of
// what was asked, approved and done is what remains for everybody else. Nothing here claims more.
//
// # The policy
//
//	# who is who
//	group storage-oncall  unix:storage user:alice cert:storage-oncall
//	group leads           key:carol key:dave key:erin
//	# what they may do
//	allow group:storage-oncall to run stop exec on etcd zk-*
//	allow anyone to ps logs inspect on *
//	allow unix:sre to run on etcd needs 2 of group:leads for 1h
//	deny  user:mallory to * on *
//
// A line is one statement. Subjects:
//
//	user:NAME     a login name                       uid:N   its number
//	unix:NAME     a unix group                       gid:N   its number
//	cert:NAME     a principal of an SSH certificate
//	tls:NAME      the common name, a DNS name or a URI of a TLS client certificate
//	org:NAME      an organization of a TLS client certificate
//	key:NAME      a name in the list of signers; for approvals
//	group:NAME    a group of the policy               anyone
//
// Verbs are the commands of blackstart, with a dash for a space, or *. Objects are services, or a beginning and a star; * is the host too. What nobody allows is denied;
// a deny that fits wins over every allow. An allow with needs waits for that many approvals.
package access

import (
	"errors"
	"time"
)

// Errors of this package, wrapped.
var (
	// ErrInvalid: a policy, table, request or signature that cannot be read. The message names the line.
	ErrInvalid = errors.New("invalid input")
	// ErrContradiction: a policy allows and denies the very same thing.
	ErrContradiction = errors.New("policy contradicts itself")
	// ErrUnsigned: the owner of a service has not signed what is said about it.
	ErrUnsigned = errors.New("not signed by the owner")
	// ErrApproval: approvals that are missing, by the wrong people, or over.
	ErrApproval = errors.New("not approved")
)

// Namespace is what ssh-keygen -Y sign is told with -n, for policies and approvals.
const Namespace = "blackstart-access"

// Bounds of a policy: bytes of all files, bytes of a line, statements, and words on a line.
const (
	maxPolicy = 8 << 20
	maxLine   = 16 << 10
	maxRules  = 100_000
	maxWords  = 500
)

// LongestGrant bounds how long an approval holds.
const LongestGrant = 24 * time.Hour

// Where says where a statement stands.
type Where struct {
	File string `json:"file"`
	Line int    `json:"line"` // 1 and up
	Text string `json:"text"`
}

// Rule is an allow or a deny.
type Rule struct {
	Where
	Deny     bool
	Subjects []string // such as unix:storage
	Verbs    []string
	Objects  []string
	Needs    *Needs // nil: nothing
}

// Needs is what an allow waits for.
type Needs struct {
	Count int           // of different approvers
	Of    string        // a subject: group:NAME or key:NAME
	For   time.Duration // how long an approval holds
}
