package container

import (
	"fmt"
	"slices"
	"strings"
)

// SetEnv sets one variable, K=V, in place of an earlier one of that name.
func (s *Spec) SetEnv(kv string) { s.Env = mergeEnv(s.Env, []string{kv}) }

// mergeEnv puts the variables of over in place of those of base, keeping order.
func mergeEnv(base, over []string) []string {
	out := slices.Clone(base)
	for _, kv := range over {
		k, _, _ := strings.Cut(kv, "=")
		i := slices.IndexFunc(out, func(have string) bool { return strings.HasPrefix(have, k+"=") })
		if i < 0 {
			out = append(out, kv)
		} else {
			out[i] = kv
		}
	}
	return out
}

// ReplaceArg reads OLD=NEW and puts NEW in the place of the argument OLD. Both
// may hold "=": the cut is where the left side is an argument of the command.
func ReplaceArg(args []string, pair string) ([]string, error) {
	at, cut := -1, 0
	for i := range len(pair) {
		if pair[i] != '=' {
			continue
		}
		if j := slices.Index(args, pair[:i]); j >= 0 {
			if at >= 0 {
				return nil, fmt.Errorf("%w: %q fits several arguments", ErrBadSpec, pair)
			}
			at, cut = j, i
		}
	}
	if at < 0 {
		return nil, fmt.Errorf("%w: no argument to replace by %q; the command is: %s", ErrBadSpec, pair, strings.Join(args, " "))
	}
	out := slices.Clone(args)
	out[at] = pair[cut+1:]
	return out, nil
}

// DropArg removes every argument that equals arg, or that is a flag named arg
// with its value joined by "=".
func DropArg(args []string, arg string) ([]string, error) {
	out := slices.DeleteFunc(slices.Clone(args), func(a string) bool {
		return a == arg || (strings.HasPrefix(arg, "-") && strings.HasPrefix(a, arg+"="))
	})
	if len(out) == len(args) {
		return nil, fmt.Errorf("%w: no argument %q to drop; the command is: %s", ErrBadSpec, arg, strings.Join(args, " "))
	}
	return out, nil
}
