package salvage

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// AnnotationHealthTiming is when the check of [AnnotationHealth] is done, as a
// JSON object: interval, timeout and start are durations in Go's form, retries
// is a number. It has Docker's defaults where the record says nothing.
const AnnotationHealthTiming = "org.blackstart.health-timing"

// dockerHealth is HealthConfig of moby's api/types/container. The times are in
// nanoseconds.
type dockerHealth struct {
	Test                           []string
	Interval, Timeout, StartPeriod time.Duration
	Retries                        int
}

// healthNotes adds a health check to annotations. ["NONE"] is no check, as is an
// image's that was not given. shell is the image's, if it has one of its own.
func healthNotes(notes map[string]string, h *dockerHealth, shell []string) {
	if h == nil || len(h.Test) < 2 {
		return
	}
	test := h.Test
	if len(shell) > 0 && test[0] == "CMD-SHELL" {
		test = slices.Concat([]string{"CMD"}, shell, test[1:2]) // the image's SHELL
	}
	timing := healthTiming{
		Interval: cmp.Or(max(h.Interval, 0), 30*time.Second).String(),
		Timeout:  cmp.Or(max(h.Timeout, 0), 30*time.Second).String(),
		Retries:  cmp.Or(max(h.Retries, 0), 3),
	}
	if h.StartPeriod > 0 {
		timing.Start = h.StartPeriod.String()
	}
	noteHealth(notes, test, timing)
}

// HealthCheck is the check of an [AnnotationHealth]: exec:LINE with a line for a
// shell inside the container, a URL of http, or tcp://IP:PORT.
func HealthCheck(annotation string) (string, error) {
	var test []string
	if err := json.Unmarshal([]byte(annotation), &test); err != nil {
		return "", fmt.Errorf("reading health check: %w", err)
	}
	if len(test) < 2 {
		test = []string{"", ""}
	}
	switch test[0] {
	case "CMD-SHELL":
		return "exec:" + test[1], nil
	case "CMD":
		quoted := make([]string, len(test)-1)
		for i, arg := range test[1:] {
			quoted[i] = shellWord(arg)
		}
		return "exec:" + strings.Join(quoted, " "), nil
	case healthHTTP:
		if strings.HasPrefix(test[1], "http://") {
			return test[1], nil
		}
	case healthTCP:
		return "tcp://" + test[1], nil
	}
	return "", fmt.Errorf("reading health check: %.80q is none that is known: %w", test, ErrIncomplete)
}

// shellWord quotes a word for sh(1) where it needs that.
func shellWord(word string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789%+,-./:@_"
	if word != "" && strings.Trim(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
