package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/blackstart-project/blackstart/recovery"
)

// runView shows the steps of a run: on a terminal those that are under way in
// place, elsewhere a line for each change.
type runView struct {
	f   *os.File
	tty bool

	mu      sync.Mutex
	running []recovery.StepEvent
	began   map[string]time.Time
	drawn   int // lines on the terminal that may be drawn over
	paused  bool
	stop    chan struct{}
	wg      sync.WaitGroup
}

func newRunView(f *os.File) *runView {
	v := &runView{f: f, tty: term.IsTerminal(int(f.Fd())), began: map[string]time.Time{}, stop: make(chan struct{})}
	if v.tty {
		v.wg.Go(func() {
			t := time.NewTicker(200 * time.Millisecond)
			defer t.Stop()
			for {
				select {
				case <-v.stop:
					return
				case <-t.C:
					v.mu.Lock()
					v.draw()
					v.mu.Unlock()
				}
			}
		})
	}
	return v
}

func (v *runView) tell(e recovery.StepEvent) {
	v.mu.Lock()
	defer v.mu.Unlock()
	i := slices.IndexFunc(v.running, func(o recovery.StepEvent) bool { return o.Task.ID == e.Task.ID })
	if e.State == recovery.StepRunning || e.State == recovery.StepUndoing {
		first := i < 0
		if first {
			v.running = append(v.running, e)
			v.began[e.Task.ID] = time.Now().Add(-e.Took)
		} else {
			if e.Err == nil {
				e.Err = v.running[i].Err
			}
			v.running[i] = e
		}
		if first && !v.tty {
			v.line(map[recovery.StepState]string{recovery.StepRunning: "begun", recovery.StepUndoing: "taking back"}[e.State], e)
		}
		return
	}
	if i >= 0 {
		v.running = slices.Delete(v.running, i, i+1)
	}
	v.line(string(e.State), e)
}

// line says for good what became of a step. v.mu is held.
func (v *runView) line(word string, e recovery.StepEvent) {
	v.erase()
	s := fmt.Sprintf("%-12s %s", word, printable(e.Task.ID))
	if word != "begun" && word != "taking back" {
		s += ", " + e.Took.Round(10*time.Millisecond).String()
	}
	if e.Err != nil {
		first, _, _ := strings.Cut(e.Err.Error(), "\n")
		s += ": " + printable(first)
	}
	fmt.Fprintln(v.f, s)
	v.draw()
}

// erase takes back what is drawn. v.mu is held.
func (v *runView) erase() {
	if v.drawn > 0 {
		fmt.Fprintf(v.f, "\x1b[%dA\x1b[J", v.drawn)
		v.drawn = 0
	}
}

// draw shows what is under way. v.mu is held.
func (v *runView) draw() {
	if !v.tty || v.paused {
		return
	}
	v.erase()
	width, _, err := term.GetSize(int(v.f.Fd()))
	if err != nil || width < 20 {
		width = 80
	}
	for _, e := range v.running {
		s := fmt.Sprintf("%-12s %s, %s", "running", printable(e.Task.ID), time.Since(v.began[e.Task.ID]).Round(time.Second))
		switch {
		case e.Err != nil:
			first, _, _ := strings.Cut(e.Err.Error(), "\n")
			s += ", waiting: " + printable(first)
		case e.Line != "":
			s += ": " + printable(e.Line)
		}
		if r := []rune(s); len(r) >= width {
			s = string(r[:width-1])
		}
		fmt.Fprintln(v.f, s)
		v.drawn++
	}
}

// pause leaves the terminal to a question, until the function it returns is called.
func (v *runView) pause() func() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.erase()
	v.paused = true
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.paused = false
	}
}

func (v *runView) close() {
	close(v.stop)
	v.wg.Wait()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.erase()
}
