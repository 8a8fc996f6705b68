// Package recovery brings services back: it composes the parts that do the work
// (container, container/image, container/salvage, fetch) into what an operator asks for.
//
// A [Site] is the host in the state it is in. Its methods take plain options,
// return plain results and report what happens meanwhile as [Event] values;
// printing, flags and exit codes are the command's.
package recovery

import (
	"errors"
	"log/slog"
	"time"

	"github.com/blackstart-project/blackstart/container"
)

var (
	// ErrTwin is returned where the service seems to be running already.
	ErrTwin = errors.New("the service is running on this host already")
	// ErrUsage is returned for options that do not go together.
	ErrUsage = errors.New("bad usage")
	// ErrNoTrust is returned where no file says whose signatures count.
	ErrNoTrust = errors.New("no trusted keys")
	// ErrSelfAnswered is returned where a handoff's check is answered by the
	// recovery container itself.
	ErrSelfAnswered = errors.New("the check is answered by the recovery container itself")
	// ErrNotHealthy is returned where the other instance did not become healthy.
	ErrNotHealthy = errors.New("the other instance is not healthy")
)

// Site is the host that is being recovered.
type Site struct {
	Host container.Host
	Root string       // where the dead stores are: "/", the mount point of a disk, or one store's directory
	Log  *slog.Logger // diagnostics for the operator

	Version string    // of this program, vMAJOR.MINOR.PATCH in a release
	Built   time.Time // when this program was built; zero where nobody knows

	From From // where the bytes that this host lacks come from

	Tell func(Event) // progress of long work; may be nil
}

// Event is one step of progress. Total is 0 where the end is not known.
type Event struct {
	What        string
	Done, Total int64   // bytes
	From        string  // where the last ones came from; "" where that says nothing
	Rate        float64 // bytes per second lately; 0 where it is not known
}

func (s Site) tell(what string, done, total int64) {
	if s.Tell != nil {
		s.Tell(Event{What: what, Done: done, Total: total})
	}
}
