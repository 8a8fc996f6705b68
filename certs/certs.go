// Package certs is the public key infrastructure of a recovery: an emergency authority that was made and constrained
// long before the outage, the certificates it issues during one, and the trust that hosts and containers put in it.
//
// # The ceremony
//
// [Init] makes, offline, a root and an emergency intermediate. The intermediate may issue no further authorities
// (pathlen 0), and its critical name constraints bound DNS names, IP addresses and URIs, each of them, for what RFC
// 5280 (section 4.2.1.10) leaves out it permits. Two SSH authorities, for hosts and for users, come from the same
// ceremony. Private keys leave this package sealed only: to age recipients (X25519, SSH, a passphrase), or to a
// secret that is split k-of-n, each share sealed to a person. PKCS#11 is not there: a token's driver is a shared
// library that a static binary cannot load, and that an outage may have taken along.
//
// # On disk
//
// A ceremony is a directory; only the .age files hold secrets, all of them sealed:
//
//	ceremony.json              what this is, and the people who hold shares (public)
//	root.pem intermediate.pem  certificates
//	ssh_host_ca.pub ssh_user_ca.pub
//	root.age                   the root's key
//	emergency.age              the intermediate's key and those of the SSH authorities
//	root.share.NAME.age, emergency.share.NAME.age
//
// The .age files are what age(1) reads. The secret that shares add up to is an age identity, so that the stock tool
// opens a file once the shares have been combined.
//
// # Time
//
// Every function that needs the time is told it. A certificate's NotBefore is 24 hours back, for hosts in an outage
// have clocks that are behind; where the clock is behind the time floor, the floor is used.
//
// # What memory holds
//
// An open authority's keys are in this process's memory. [Guard] keeps that out of swap and core dumps. The Go
// runtime may have copied a secret before it was overwritten; what keeps the copies safe is Guard and the end of the
// process, not the overwriting.
package certs

import (
	"errors"
	"time"
)

// Backdate is how far back NotBefore lies.
const Backdate = 24 * time.Hour

// Errors of this package, wrapped.
var (
	// ErrInvalid: bad input, such as a certificate request that is none.
	ErrInvalid = errors.New("invalid input")
	// ErrRefused: the policy or the authority's constraints do not allow it. The message says which.
	ErrRefused = errors.New("refused")
	// ErrExpired: the authority, a token or a session is past its time, or not yet in it.
	ErrExpired = errors.New("outside its validity")
	// ErrShares: the shares given do not open it: too few, the same one twice, or of another ceremony.
	ErrShares = errors.New("shares do not open it")
	// ErrSealed: the key or passphrase given does not open a sealed file.
	ErrSealed = errors.New("cannot be unsealed with this key")
	// ErrToken: the one-time token is unknown, used, or for something else.
	ErrToken = errors.New("token is not valid")
	// ErrUnguarded: secrets in this process's memory may reach swap or a core dump.
	ErrUnguarded = errors.New("memory is not guarded")
	// ErrChanged: a file is not as it was left.
	ErrChanged = errors.New("changed since")
)

// KeyType is a kind of key pair.
type KeyType string

// The kinds of keys that are made. Java before 15 and many appliances do not know Ed25519 in TLS.
const (
	P256    KeyType = "p256"
	Ed25519 KeyType = "ed25519"
)

// later is now, but not before the floor.
func later(now, floor time.Time) time.Time {
	if now.Before(floor) {
		now = floor
	}
	return now.UTC().Truncate(time.Second)
}
