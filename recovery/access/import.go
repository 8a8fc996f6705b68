package access

import (
	"fmt"
	"slices"
	"strings"
)

// Imported is what an existing list gave: lines of policy, and what could not be said in them.
type Imported struct {
	Policy string   `json:"policy"`
	Lost   []Lost   `json:"lost"`
	Notes  []string `json:"notes,omitempty"` // what means something a little different now
}

// Lost is something that the policy's language cannot express. It was left out, never widened.
type Lost struct {
	Line int    `json:"line,omitempty"` // of the list; 0 where it has none
	Text string `json:"text"`
	Why  string `json:"why"`
}

func (i *Imported) lost(line int, text, why string) {
	if len(text) > 200 {
		text = text[:200] + "…"
	}
	i.Lost = append(i.Lost, Lost{Line: line, Text: printable(text), Why: why})
}

func (i *Imported) note(text string) {
	if !slices.Contains(i.Notes, text) {
		i.Notes = append(i.Notes, text)
	}
}

func (i *Imported) write(format string, args ...any) { i.Policy += fmt.Sprintf(format, args...) + "\n" }

// ImportGroups makes policy groups of a list in the form of /etc/group. Only groups with members become one: who has it as a primary
// group is in /etc/passwd, and unix:NAME covers both where the group is the host's own.
//
// Errors: ErrInvalid with the line.
func ImportGroups(text []byte) (Imported, error) {
	var out Imported
	groups, err := ParseGroups(text)
	if err != nil {
		return out, err
	}
	seen := map[string]bool{}
	for _, g := range groups {
		if len(g.Members) == 0 {
			continue
		}
		if !word(g.Name) || seen[g.Name] {
			out.lost(0, g.Name, "a group's name is of letters, digits, ., _, - and there once")
			continue
		}
		seen[g.Name] = true
		var users []string
		for _, m := range g.Members {
			if !subjectName(m) {
				out.lost(0, g.Name+": "+m, "no user's name")
				continue
			}
			users = append(users, "user:"+m)
		}
		for chunk := range slices.Chunk(users, maxWords-2) {
			if len(users) > maxWords-2 {
				out.lost(0, g.Name, fmt.Sprintf("more than %d members", maxWords-2))
				break
			}
			out.write("group %s %s", g.Name, strings.Join(chunk, " "))
		}
	}
	return out, nil
}

// subjectName says whether a name can stand in a policy.
func subjectName(s string) bool {
	return s != "" && len(s) <= 1024 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > 0x7e || r == '#' })
}
