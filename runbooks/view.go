package runbooks

import (
	"fmt"
	"strings"
	"time"
)

// view is a page in the words of a document, the same for each format.
type view struct {
	Title, Summary, Service, Owner string
	Contacts                       []contactView
	Before                         []string // commands that give the variables their values
	Vars                           []varView
	Steps                          []stepView
	Expected                       string // "" if not known
	Rehearsals                     []rehearsalView
	Proofs                         []proofView
	File, Digest                   string
}

type contactView struct{ Name, URI string }

type varView struct{ Name, About, Value string }

type stepView struct {
	Number     int
	Name, Kind string
	Says       string // what is done, in a sentence
	Quote      string // a question, or a note
	Command    string
	Takes      string
	Facts      []fact
}

// fact is one more thing about a step; Code if Text is a command.
type fact struct {
	Name, Text string
	Code       bool
}

type rehearsalView struct {
	Title, Hardware, Within string
	Conditions, Healthy     []string
}

type proofView struct {
	Rehearsal, At, Took, Conditions, Stale, Unsigned, Signer string

	Facts []fact
}

func (p Page) view() view {
	b := p.Runbook
	v := view{Title: b.Title, Summary: strings.TrimSpace(b.Summary), Service: b.Service, Owner: b.Owner, File: printable(p.File), Digest: printable(p.Digest)}
	for _, c := range b.Contacts {
		one := contactView{Name: c, URI: c}
		if !isURI(c) {
			one.URI = printable(p.Contacts[c])
		}
		v.Contacts = append(v.Contacts, one)
	}
	v.vars(b)
	took := p.took()
	after := needs(b.Steps)
	for i, s := range b.Steps {
		v.Steps = append(v.Steps, s.view(i+1, after[i], took[s.Name]))
	}
	if d := critical(after, took, b.Steps); d > 0 {
		v.Expected = d.String()
	}
	for _, h := range p.Rehearsals {
		v.Rehearsals = append(v.Rehearsals, h.view())
	}
	for _, proof := range p.Proofs {
		v.Proofs = append(v.Proofs, proof.view())
	}
	return v
}

// vars says what to set before the first step.
func (v *view) vars(b *Runbook) {
	for _, h := range b.Hosts {
		name := hostVar(h)
		v.Vars = append(v.Vars, varView{name, "address of host " + h, ""})
		v.Before = append(v.Before, "export "+name+"=IP")
	}
	if len(b.Hosts) > 0 {
		v.Vars = append(v.Vars, varView{"host, ip", "name and address of the host you are on", ""})
		v.Before = append(v.Before, "export host=NAME ip=IP")
	}
	for _, name := range b.varNames() {
		d := b.Vars[name]
		one := varView{name, d.About, "give it"}
		switch {
		case d.Secret:
			one.Value = "secret"
			v.Before = append(v.Before, "read -rs "+name+" && export "+name)
		case d.Default != nil:
			one.Value = *d.Default
			v.Before = append(v.Before, "export "+name+"="+plainQuote(*d.Default))
		default:
			v.Before = append(v.Before, "export "+name+"=VALUE")
		}
		v.Vars = append(v.Vars, one)
	}
}

// took is how long each step is expected to take: as the newest proof measured it, else as the runbook says.
func (p Page) took() map[string]Duration {
	all := map[string]Duration{}
	for _, s := range p.Runbook.Steps {
		all[s.Name] = s.Takes
	}
	for _, proof := range p.Proofs {
		if proof.holds() && len(proof.Steps) > 0 {
			for name, d := range proof.Steps {
				all[name] = d
			}
			break
		}
	}
	return all
}

// critical is the longest path through the steps; 0 unless every step's time is known, but for those that wait for a
// person.
func critical(after [][]int, took map[string]Duration, steps []*Step) Duration {
	ends := make([]Duration, len(steps))
	var last Duration
	for _, i := range inOrder(after) {
		d := took[steps[i].Name]
		if k := steps[i].Kind(); d == 0 && k != Confirm && k != Note {
			return 0
		}
		for _, j := range after[i] {
			ends[i] = max(ends[i], ends[j])
		}
		ends[i] += d
		last = max(last, ends[i])
	}
	return Duration(time.Duration(last).Round(time.Second))
}

func (s *Step) view(number int, after []int, takes Duration) stepView {
	v := stepView{Number: number, Name: s.Name, Kind: strings.ReplaceAll(string(s.Kind()), "_", " "), Command: s.Command()}
	v.Says, v.Quote = s.says()
	if takes > 0 {
		v.Takes = shorter(takes)
	}
	add := func(name, text string, code bool) {
		if text = strings.TrimRight(text, "\n"); text != "" {
			v.Facts = append(v.Facts, fact{name, text, code})
		}
	}
	add("On", strings.Join(s.Hosts, ", "), false)
	if s.Needs != nil {
		add("After", followed(after), false)
	}
	add("Only if this succeeds", s.When, true)
	add("Done already if this succeeds", s.Check, true)
	add("Give up after", duration2(s.Timeout), false)
	if s.Retries > 0 {
		add("Try again", fmt.Sprintf("up to %d times", s.Retries), false)
	}
	add("To take it back", s.Undo, true)
	return v
}

// followed says which steps one comes after.
func followed(after []int) string {
	if len(after) == 0 {
		return "nothing, it can start at once"
	}
	all := make([]string, len(after))
	for i, j := range after {
		all[i] = fmt.Sprint(j + 1)
	}
	if len(all) == 1 {
		return "step " + all[0]
	}
	return "steps " + strings.Join(all, ", ")
}

func duration2(d Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// shorter leaves out what nobody reads in a measured time.
func shorter(d Duration) string {
	v := time.Duration(d)
	if v >= time.Second {
		return Duration(v.Round(time.Second / 10)).String()
	}
	return v.Round(time.Millisecond).String()
}

// says is what a step does, and what it asks or tells.
func (s *Step) says() (sentence, quote string) {
	w := s.With
	if w == nil {
		w = &With{}
	}
	switch s.Kind() {
	case Run, DNS:
		return "", ""
	case Fetch:
		if w.To != "" {
			return fmt.Sprintf("Bring the artifact %s to %s.", s.Fetch, w.To), ""
		}
		return fmt.Sprintf("Bring the artifact %s to the host.", s.Fetch), ""
	case Container:
		if w.Salvage != "" {
			return fmt.Sprintf("Start what the dead orchestrator left of %s as the recovery container %s.", w.Salvage, s.Container), ""
		}
		return fmt.Sprintf("Start the recovery container %s.", s.Container), ""
	case Stop:
		return fmt.Sprintf("Stop the recovery container %s.", s.Stop), ""
	case Cert:
		return fmt.Sprintf("Issue an emergency certificate for %s.", s.Cert), ""
	case WaitFor:
		return "Wait until " + s.WaitFor.says() + ".", ""
	case Confirm:
		return "Go on only if the answer is yes:", strings.TrimSpace(s.Confirm)
	case Handoff:
		return fmt.Sprintf("When %s answers for the orchestrator's own instance, give %s back and remove the recovery container.", w.Until, s.Handoff), ""
	case Note:
		return "", strings.TrimSpace(s.Note)
	}
	return "", ""
}

// says is what must be true.
func (p *Probe) says() string {
	var s string
	switch t := strings.TrimSpace(p.Target()); p.Kind() {
	case TCPProbe:
		s = t + " accepts connections"
	case HTTPProbe:
		s = t + " answers"
		if p.Status != 0 {
			s += fmt.Sprintf(" with status %d", p.Status)
		}
	case DNSProbe:
		s = "there is an answer to " + t
	case ExecProbe:
		s = "this succeeds: " + strings.ReplaceAll(t, "\n", "; ")
	case FileProbe:
		s = t + " exists"
	case LogProbe:
		s = "the log " + t + " is there"
	case UnixProbe:
		s = t + " accepts connections"
	}
	if p.Contains != "" {
		s += " and holds " + strings.TrimSpace(p.Contains)
	}
	if p.Within != 0 {
		s += ", within " + p.Within.String()
	}
	if p.Hold != 0 {
		s += ", and stays so for " + p.Hold.String()
	}
	return s
}

func (h *Rehearsal) view() rehearsalView {
	v := rehearsalView{Title: h.Title, Within: h.Within.String()}
	hw := []string{"1 host"}
	if h.Hardware.Hosts > 1 {
		hw[0] = fmt.Sprintf("%d hosts", h.Hardware.Hosts)
	}
	if h.Hardware.CPUs > 0 {
		hw = append(hw, fmt.Sprintf("%g processors", h.Hardware.CPUs))
	}
	if h.Hardware.Memory > 0 {
		hw = append(hw, h.Hardware.Memory.String())
	}
	v.Hardware = strings.Join(hw, ", ")
	for _, c := range h.Conditions {
		v.Conditions = append(v.Conditions, strings.Join(c.Names(), " or "))
	}
	for _, p := range h.Healthy {
		v.Healthy = append(v.Healthy, p.says())
	}
	return v
}

func (p Proof) view() proofView {
	v := proofView{
		Rehearsal: printable(p.Rehearsal), At: p.At.UTC().Format("2006-01-02 15:04 UTC"), Took: shorter(p.Took),
		Conditions: "nothing", Stale: printable(p.Stale), Unsigned: printable(p.Unsigned), Signer: printable(p.Signer),
	}
	if len(p.Conditions) > 0 {
		all := make([]string, len(p.Conditions))
		for i, c := range p.Conditions {
			all[i] = strings.Join(c.Names(), " or ")
		}
		v.Conditions = printable(strings.Join(all, ", "))
	}
	for _, f := range []fact{{"commit", p.Commit, true}, {"runbook", p.Runbook, true}, {"kit", p.Kit, true}, {"binary", p.Binary, true}, {"signed by", p.Signer, true}} {
		if f.Text = printable(f.Text); f.Text != "" {
			v.Facts = append(v.Facts, f)
		}
	}
	return v
}

// holds says whether a proof counts.
func (p Proof) holds() bool { return p.Stale == "" && p.Unsigned == "" }

// plainQuote quotes a value for a shell that must not look into it.
func plainQuote(s string) string {
	if !strings.Contains(s, "${") {
		return shellQuote(s)
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
