package drill

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Command is a line that was typed into a drill's shell.
type Command struct {
	At     float64 `json:"at"` // seconds after the beginning
	Host   string  `json:"host,omitempty"`
	Text   string  `json:"text"`
	Ended  bool    `json:"ended"`
	Took   float64 `json:"took,omitempty"` // seconds
	Status int     `json:"status"`
	Step   string  `json:"step,omitempty"`  // the ID of the one that it belongs to; "": none
	Whole  bool    `json:"whole,omitempty"` // it had the runbook run
}

// Progress is how far the runbook's steps are.
type Progress struct {
	Steps    []StepProgress
	Commands []Command // without those that the drill itself gives

	byID map[string]int
}

// StepProgress is how far a step is.
type StepProgress struct {
	Step
	Done  bool
	At    float64 // when it was seen done, in seconds after the beginning
	By    string  // command, check or probe
	Began float64 // when the first command that belongs to it was typed; -1: none
}

// Of these words of a command must be in a step's text for it to belong to the
// step, and of the step's in its commands for it to be done: people leave out what
// they know better, and add an option.
const (
	belongs = 0.6
	covers  = 0.6
)

// Progress finds out from what happened which steps were done. A command belongs to
// the step whose text has most of its words, the program's name among them; a step
// is done when commands that succeeded have most of its words, or when its own check
// or probe says so. Who has the runbook run, and it ends well, has done all of them.
func (d Drill) Progress(events []Event) Progress {
	p := Progress{byID: map[string]int{}}
	values := d.expander()
	texts := make([]map[string]int, len(d.Steps))
	covered := make([]map[string]bool, len(d.Steps))
	for i, s := range d.Steps {
		p.Steps = append(p.Steps, StepProgress{Step: s, Began: -1})
		p.byID[s.ID] = i
		texts[i], covered[i] = map[string]int{}, map[string]bool{}
		for _, w := range words(values.Replace(s.Command)) {
			texts[i][w]++
		}
	}
	running := map[string]int{} // the command that a host's shell runs, by its index
	for _, e := range events {
		switch e.Kind {
		case CommandBegan:
			if ownCommand(e.Text) {
				delete(running, e.Host)
				continue
			}
			c := Command{At: e.At, Host: e.Host, Text: e.Text, Whole: runsRunbook(words(e.Text))}
			if i := p.stepOf(words(values.Replace(e.Text)), e.Host, texts); i >= 0 {
				c.Step = p.Steps[i].ID
				if p.Steps[i].Began < 0 {
					p.Steps[i].Began = e.At
				}
			}
			running[e.Host] = len(p.Commands)
			p.Commands = append(p.Commands, c)
		case CommandEnded:
			i, ok := running[e.Host]
			if !ok {
				continue
			}
			delete(running, e.Host)
			c := &p.Commands[i]
			c.Ended, c.Status, c.Took = true, e.Status, e.At-c.At
			if c.Whole && e.Status == 0 {
				for i := range p.Steps {
					p.done(i, e.At, "runbook")
				}
			}
			at := p.index(c.Step)
			if at < 0 || e.Status != 0 {
				continue
			}
			for _, w := range words(values.Replace(c.Text)) {
				covered[at][w] = true
			}
			if share(texts[at], covered[at]) >= covers {
				p.done(at, e.At, "command")
			}
		case StepSeen:
			if at := p.index(e.Step); at >= 0 {
				p.done(at, e.At, e.Text)
			}
		case Hint, Health, Recovered:
		}
	}
	return p
}

func (p *Progress) index(id string) int {
	if i, ok := p.byID[id]; ok && id != "" {
		return i
	}
	return -1
}

func (p *Progress) done(i int, at float64, by string) {
	if s := &p.Steps[i]; !s.Done {
		s.Done, s.At, s.By = true, at, by
	}
}

// Next is the first step that is not done while all that it needs is; -1 if there is
// none. A question or a note is taken as read once a later step is done.
func (p Progress) Next() int {
	for i, s := range p.Steps {
		if s.Done || (!s.Seen() && p.later(i)) {
			continue
		}
		if p.ready(i) {
			return i
		}
	}
	return -1
}

// ready says whether all that a step needs is done, as far as can be seen.
func (p Progress) ready(i int) bool {
	return !slices.ContainsFunc(p.needs(i), func(j int) bool { return !p.Steps[j].Done })
}

// needs are the steps that one needs; in the place of one that nobody sees, those
// that it needs itself.
func (p Progress) needs(i int) []int {
	var all []int
	met := map[int]bool{i: true}
	for open := []int{i}; len(open) > 0; open = open[1:] {
		for _, id := range p.Steps[open[0]].Needs {
			j := p.index(id)
			switch {
			case j < 0 || met[j]:
				continue
			case p.Steps[j].Seen():
				all = append(all, j)
			default:
				open = append(open, j)
			}
			met[j] = true
		}
	}
	return all
}

// later says whether anything that comes after a step was begun or done.
func (p Progress) later(i int) bool {
	return slices.ContainsFunc(p.Steps[i+1:], func(s StepProgress) bool { return s.Done || s.Began >= 0 })
}

// stepOf is the step that a command belongs to: the one that has most of its words,
// and of those that are alike the first that is not done.
func (p *Progress) stepOf(cmd []string, host string, texts []map[string]int) int {
	best, at := 0.0, -1
	for i, text := range texts {
		if len(cmd) == 0 || len(text) == 0 || text[cmd[0]] == 0 || (p.Steps[i].Host != "" && p.Steps[i].Host != host) {
			continue
		}
		found := 0
		for _, w := range cmd {
			if text[w] > 0 {
				found++
			}
		}
		score := float64(found) / float64(len(cmd))
		if score < belongs {
			continue
		}
		if score > best || (score == best && p.Steps[at].Done && !p.Steps[i].Done) {
			best, at = score, i
		}
	}
	return at
}

func share(of map[string]int, covered map[string]bool) float64 {
	n := 0
	for w := range of {
		if covered[w] {
			n++
		}
	}
	return float64(n) / float64(max(len(of), 1))
}

// words are those of a shell text that tell what it does: without quotes, comments,
// the shell's own syntax, and where output is thrown away.
func words(text string) []string {
	var all []string
	text = strings.NewReplacer("2>&1", " ", ">/dev/null", " ", "2>/dev/null", " ").Replace(text)
	for line := range strings.Lines(text) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		for _, w := range strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(" \t\r\n;&|()<>{}`", r) }) {
			if w = strings.Trim(w, `"'\`); w != "" {
				all = append(all, w)
			}
		}
	}
	return all
}

// expander puts the values of the runbook's variables into shell texts, so that it
// does not matter who typed which.
func (d Drill) expander() expander {
	return expander{regexp.MustCompile(`\$(?:\{([a-z][a-z0-9_]*)\}|([a-z][a-z0-9_]*))`), d.Vars}
}

type expander struct {
	name *regexp.Regexp
	vars map[string]string
}

// Replace is s with the values in it.
func (x expander) Replace(s string) string {
	return x.name.ReplaceAllStringFunc(s, func(m string) string {
		if v, ok := x.vars[strings.Trim(m, "${}")]; ok {
			return v
		}
		return m
	})
}

// runsRunbook says whether a command is blackstart runbook run or resume.
func runsRunbook(cmd []string) bool {
	i := slices.Index(cmd, "runbook")
	return i > 0 && i+1 < len(cmd) && strings.HasSuffix(cmd[0], "blackstart") && (cmd[i+1] == "run" || cmd[i+1] == "resume")
}

// ownCommand says whether a line is one of those that the drill gives its shell, or
// leaves it.
func ownCommand(text string) bool {
	f := strings.Fields(text)
	return len(f) == 0 || slices.Contains([]string{"hint", "steps", "on", "exit", "logout", "clear", "history"}, f[0])
}

// Print is the step as people read it, its command in lines of their own.
func (s Step) Print() string {
	head := fmt.Sprintf("%d. %s (%s)", s.Number, s.ID, strings.ReplaceAll(s.Kind, "_", " "))
	for _, text := range []string{s.Text, s.Command} {
		for line := range strings.Lines(text) {
			head += "\n    " + strings.TrimRight(line, "\n")
		}
	}
	return head
}
