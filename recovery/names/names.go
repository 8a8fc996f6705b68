// Package names answers DNS queries when nothing else does: from data that was frozen ahead of an outage.
//
// # What it answers from
//
// A [Set] is immutable. A [Builder] makes it from zone files (RFC 1035, section 5), hosts files (hosts(5)) and loose
// names. A full zone, one that has an SOA record or whose name is given, is answered for as its authoritative server
// would: wildcards (RFC 4592), delegations, NXDOMAIN below it. A loose name stands alone: the Set knows that name and
// says nothing of others, neither of its siblings nor of names below it. What was frozen name by name is loose even
// in a zone file: [FrozenServer] in its SOA record says so.
//
// Signatures and proofs that a name is not there, by NSEC or NSEC3, are passed on as they are in a full zone; nothing is
// signed or validated.
//
// # How it answers
//
// A [Server] listens on UDP and TCP. [Auth] answers from the Set alone. [LastKnownGood] asks upstream first and falls
// back on the Set when upstream is silent, broken, or healthy and wrong: when it denies a name that the Set knows.
// [Pin] answers what the Set knows from the Set, and asks upstream for the rest. Overrides go before all of them.
// Sizes are in bytes and TTLs in whole seconds throughout.
package names

import "errors"

// Bounds on what is read from outside.
const (
	// MaxFile bounds a zone file or a hosts file, in bytes.
	MaxFile = 1 << 30
	// MaxRecords bounds the records of a Set; $GENERATE makes many of few bytes.
	MaxRecords = 1 << 24
	// maxSet bounds the records of one name and type in wire format, so that they fit a message over TCP.
	maxSet = 64000
	// maxChain bounds the CNAME records followed for one answer.
	maxChain = 16
	// ptrNames bounds the names given for one address where the data has no PTR record for it.
	ptrNames = 8
)

// FrozenServer is the primary server named by the SOA record of a zone file that was frozen name by name: the
// server of no zone, in a domain that never exists (RFC 6761, section 6.4). Its zone is not full; its names are loose.
const FrozenServer = "frozen.blackstart.invalid."

// Errors of this package, wrapped.
var (
	// ErrBadData: a zone file, hosts file or name cannot be read. The message says where.
	ErrBadData = errors.New("bad names data")
	// ErrNoNames: the data holds no name at all. An empty file is taken for a lost one.
	ErrNoNames = errors.New("no names in the data")
	// ErrTooLarge: the data is beyond a bound of this package.
	ErrTooLarge = errors.New("names data too large")
)
