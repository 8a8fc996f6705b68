package recovery

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/blackstart-project/blackstart/container"
	"github.com/blackstart-project/blackstart/recovery/journal"
)

const (
	copyPatience = 2 * time.Second  // how long a command waits for its copies when it has ended
	copyRest     = 30 * time.Second // how long no command waits as long again for one that failed
	copyGlance   = 100 * time.Millisecond
)

// keeping brings the copies up to the record while a command is under way.
type keeping struct {
	site   Site
	stop   context.CancelFunc
	copies []keptCopy
}

type keptCopy struct {
	Copy
	tried chan struct{} // closed after the first attempt
}

// keepCopies begins that; it returns nil where there are no copies. A command may be under way for days, and write more into
// the record. In a vacuum there are none: what is recorded there is thrown away, and a look at a copy would pass for a need of
// what is rehearsed.
func (s Site) keepCopies() *keeping {
	copies, err := s.Copies()
	if err == nil && len(copies) == 0 || container.Confined() {
		return nil
	}
	if err != nil {
		s.Log.Warn("not every copy of the record is kept", "error", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	k := &keeping{site: s, stop: stop}
	for _, c := range copies {
		kept := keptCopy{c.Copy, make(chan struct{})}
		k.copies = append(k.copies, kept)
		go kept.follow(ctx, s)
	}
	return k
}

// follow is quiet at first: a command that ends soon says at its end what is wrong.
func (k keptCopy) follow(ctx context.Context, s Site) {
	bring := func() error { return s.bring(ctx, s.copyDir(k.To)) }
	_ = bring()
	close(k.tried)
	if sleep(ctx, copyPatience) != nil {
		return
	}
	if err := s.copying(ctx, bring); err != nil {
		s.behind(k.Copy, err)
	}
}

// end brings the copies up to the last entry, and says which are behind. It waits a short while for one that does not
// answer, and hardly for one that did not a moment ago.
func (k *keeping) end() {
	if k == nil {
		return
	}
	k.stop()
	var all sync.WaitGroup
	for _, c := range k.copies {
		all.Go(func() {
			if err := c.finish(k.site); err != nil {
				k.site.behind(c.Copy, err)
			}
		})
	}
	all.Wait()
}

func (k keptCopy) finish(s Site) error {
	dir := s.copyDir(k.To)
	patience := copyPatience
	failing := k.failing(s)
	if failing != nil {
		patience = copyGlance
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { // a dead disk holds it longer than anybody should wait
		<-k.tried
		if err := k.failing(s); err != nil {
			done <- err
			return
		}
		done <- s.bring(ctx, dir)
	}()
	select {
	case err := <-done:
		if err == nil || ctx.Err() == nil {
			return err
		}
	case <-ctx.Done():
	}
	if failing != nil {
		return failing
	}
	err := fmt.Errorf("no answer in %s", patience)
	return errors.Join(err, noteFailure(dir, s.now(), err))
}

// failing is what went wrong with a copy a moment ago, if anything did.
func (k keptCopy) failing(s Site) error {
	c, err := readCopy(s.copyDir(k.To))
	if err != nil {
		return err
	}
	if since := s.now().Sub(c.Failed); since < copyRest && since >= 0 {
		return failedCopy(c.copyFailure)
	}
	return nil
}

// behind says that a copy is. One that says something else than the record is said in the kernel's log too.
func (s Site) behind(c Copy, err error) {
	if errors.Is(err, fs.ErrNotExist) && !exists(s.copyDir(c.To)) {
		return // it was forgotten meanwhile
	}
	if errors.Is(err, journal.ErrTampered) {
		if err := journal.Shout(os.Stderr, "/dev/kmsg", "the record and its copy "+c.To+" differ: "+err.Error()); err != nil {
			s.Log.Warn("the kernel's log has not heard that", "error", err)
		}
		return
	}
	s.Log.Warn("the copy of the record at "+c.To+" is behind: see access log copies", "error", err)
}
