// Package sandbox makes a vacuum: a world on this host where nothing answers but
// what is let in by name, and where every attempt is recorded.
//
// [Up] builds one out of namespaces, an overlay root and nftables rules,
// [World.Spawn] runs programs in it, a [Record] collects what they tried, and a
// [Capability] is one thing that is let in. A vacuum leaves nothing when its
// supervisor ends, however it ends; what cannot be enforced or recorded is
// ErrUnresolved. Addresses are net/netip values, sizes are bytes.
package sandbox

import "errors"

// ErrUnresolved is wrapped by every error that says what this kernel or this
// user cannot enforce or record. A run that ends with it has no verdict: it is
// never a pass.
var ErrUnresolved = errors.New("cannot be enforced here")
